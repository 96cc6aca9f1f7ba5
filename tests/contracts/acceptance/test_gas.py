"""What transactions cost on Anvil, as `scripts/bench gas dispute` measures it, stays below the promises."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from assay.exact.lowering import lower

from scripts.benches.dispute import CODE_LIMIT, DIGITS, measure, random_inputs, table
from scripts.benches.gas import Bench
from scripts.benches.resnet import build_resnet
from tests.support.anvil import anvil

POST_BATCH_1 = 100_000
POST_BATCH_25_PER_VOUCHER = 18_000
RECEIPT_STATUS_1M = 25_000
DISPUTE_DIGITS, DISPUTE_1GMAC, DISPUTE_LAST_STEP = 900_000, 1_500_000, 350_000


def test_gas__steady_state__is_within_the_bounds() -> None:
    with anvil() as chain:
        bench = Bench(chain, consumers=25)
        bench.post(25)
        few, _ = bench.post(25, each=1)
        many, _ = bench.post(25, each=4_000)
        one, _ = bench.post(1)
        bench.measure_status()
    assert max(few, many) / 25 <= POST_BATCH_25_PER_VOUCHER
    assert abs(many - few) < 1_000, "the price does not depend on the number of receipts"
    assert one <= POST_BATCH_1
    assert bench.gas["receipt_status_1m"] <= RECEIPT_STATUS_1M


@pytest.mark.parametrize(
    ("artifact", "gas", "transactions"),
    [(DIGITS.read_bytes, DISPUTE_DIGITS, 12), (build_resnet, DISPUTE_1GMAC, 25)],
    ids=["digits", "1gmac"],
)
def test_dispute__worst_kernel__is_within_the_bounds(
    artifact: Callable[[], bytes], gas: int, transactions: int
) -> None:
    """Both sides together, on the newest hardfork, whoever wins; and the last step alone."""
    program = lower(artifact())
    with table() as at:
        measured = measure(at, program, random_inputs(program))
        assert all(at.code_size(name) < CODE_LIMIT for name in ("DisputeGame", "StepVerifier"))
    assert measured.gas <= gas
    assert measured.transactions <= transactions
    assert measured.last_step <= DISPUTE_LAST_STEP
