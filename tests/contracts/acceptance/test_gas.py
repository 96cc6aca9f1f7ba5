"""What transactions cost on Anvil, as `scripts/bench gas` measures it, stays below what is promised."""

from __future__ import annotations

from scripts.benches.gas import Bench
from tests.support.anvil import anvil

POST_BATCH_1 = 100_000
POST_BATCH_25_PER_VOUCHER = 18_000
RECEIPT_STATUS_1M = 25_000


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
