from __future__ import annotations

from itertools import islice

import numpy as np
import orjson
import pytest
from assay.commitments.receipts import voucher_digest
from assay.commitments.signing import SigningKey, recover
from assay.types import Address, Domain, Hash32, Voucher
from hypothesis import given
from hypothesis import strategies as st

from scripts.benches.load.plan import Buffers, Payer, Payment, Plan, percentile
from scripts.benches.load.wire import InferRequest
from scripts.benches.stage import Offer
from scripts.benches.workloads import mlp
from tests.support.nodes import Published

NODE = SigningKey(b"\1" * 32).address
DOMAIN = Domain(31_337, NODE)
VERSION = Hash32(b"\2" * 32)
PRICE = 5
INFER = InferRequest.of("/v2/models/m/versions/1", "x", np.zeros((1, 2), np.float32))


def payment(payers: int, requests: int, *, first: int = 1, behind: int = 0) -> Payment:
    keys = tuple(Payer(bytes([i + 1]) * 32, first) for i in range(payers))
    return Payment(DOMAIN, NODE, VERSION, PRICE, keys, requests, behind)


def vouchers(requests: list[Buffers]) -> list[tuple[Address, int, int]]:
    """(consumer, amount, count) of each request, its signature checked."""
    found = []
    for lines, _ in requests:
        fields = orjson.loads(lines.partition(b"\r\n\r\n")[2])["parameters"]
        amount, count = int(fields["voucher_amount"]), int(fields["voucher_count"])
        voucher = Voucher(fields["voucher_consumer"], NODE, VERSION, amount, count)
        signer = recover(voucher_digest(DOMAIN, voucher), bytes.fromhex(fields["voucher_signature"][2:]))
        assert signer == voucher.consumer
        found.append((voucher.consumer, amount, count))
    return found


def test_streams__payer_for_each_connection__pays_and_acknowledges_request_by_request() -> None:
    plan = Plan(1, 1.0, connections=2, infer=INFER, payment=payment(2, 3, first=4))
    for i, stream in enumerate(plan.streams()):
        consumer = SigningKey(bytes([i + 1]) * 32).address
        assert vouchers(list(stream)) == [(consumer, 20, 3), (consumer, 25, 4), (consumer, 30, 5)]


def test_streams__payers_without_connections__take_turns_and_stay_behind() -> None:
    plan = Plan(1, 1.0, connections=2, infer=INFER, payment=payment(3, 4, behind=2))
    one, other = plan.streams()
    got = vouchers([request for pair in zip(one, other, strict=True) for request in pair])
    addresses = [SigningKey(bytes([i + 1]) * 32).address for i in range(3)]
    assert got == [(a, n * PRICE, max(0, n - 3)) for n in range(1, 5) for a in addresses]


def test_streams__unpaid__repeat_one_request_on_every_connection() -> None:
    streams = Plan(1, 1.0, connections=3, infer=INFER).streams()
    assert [next(stream) for stream in streams] == [INFER.render({})] * 3


def test_streams__payment_without_inference__raises() -> None:
    with pytest.raises(ValueError, match="needs an inference"):
        Plan(1, 1.0, payment=payment(1, 1)).streams()


@given(st.lists(st.floats(0, 10), min_size=1, max_size=200), st.integers(1, 100))
def test_percentile__any_times__is_the_nearest_rank(times: list[float], percent: int) -> None:
    ordered = sorted(times)
    rank = -(-percent * len(times) // 100)
    assert percentile(np.array(times), percent) == ordered[rank - 1]


def test_percentile__nothing_answered__raises() -> None:
    with pytest.raises(ValueError, match="no request was answered"):
        percentile(np.array([]), 50)


@given(st.integers(1, 20), st.integers(1, 40), st.integers(0, 500))
def test_spend__payers_in_turns__counts_what_each_sent(payers: int, connections: int, total: int) -> None:
    offer = Offer(mlp((2, 2)), Published(VERSION, NODE, "m", 1), PRICE)
    sent = [total // connections] * connections
    sent[0] += total % connections
    offer.spend(sent, payers)
    if payers == connections:
        assert [offer.spent[i] for i in range(payers)] == sent
    else:
        order = list(islice((i for _ in range(total + 1) for i in range(payers)), total))
        assert [offer.spent[i] for i in range(payers)] == [order.count(i) for i in range(payers)]
