"""Settling: what the chain has counts, whatever the facilitator says; waits end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import pytest
from assay.commitments.authorizations import Authorization
from assay.errors import RequestError, RetryableError
from assay.node.errors import Unavailable
from assay.node.x402.collecting import Collector, Depth
from assay.node.x402.facilitator import FacilitatorClient, Settled
from assay.node.x402.transfers import Transfer, Transfers
from assay.node.x402.wire import Payment
from assay.types import ZERO_ADDRESS, Hash32

PAYMENT = Payment(Authorization(ZERO_ADDRESS, ZERO_ADDRESS, 5, 0, 9, Hash32(bytes(32))), b"")
HASH = Hash32(b"\x01" * 32)
SENT = "0x" + HASH.hex()
MINED = Transfer(HASH, 1)
LOST = Unavailable("gone", code="payment_unavailable")
Answer = Settled | Unavailable
Seen = Transfer | None | RetryableError


class Script:
    """A facilitator that answers once, and a chain that shows one thing after the other; the last stays."""

    def __init__(self, answer: Answer, *seen: Seen) -> None:
        self._answer, self._seen = answer, list(seen)
        self.now = 0.0
        self.hints: list[Hash32 | None] = []

    async def settle(self, payment: Payment) -> Settled:
        assert payment is PAYMENT
        if isinstance(self._answer, Unavailable):
            raise self._answer
        return self._answer

    def find(self, given: Authorization, hint: Hash32 | None) -> Transfer | None:
        assert given is PAYMENT.authorization
        self.hints.append(hint)
        self.now += 1
        seen = self._seen.pop(0) if len(self._seen) > 1 else self._seen[0]
        if isinstance(seen, RetryableError):
            raise seen
        return seen

    def run(self, act: Callable[[Collector], object], confirmations: int = 1) -> Transfer:
        collector = Collector(
            cast(FacilitatorClient, self),
            cast(Transfers, self),
            Depth(confirmations, 3.0),
            clock=lambda: self.now,
        )
        return cast(Transfer, asyncio.run(act(collector)))  # type: ignore[arg-type]

    def code(self, confirmations: int = 1) -> str:
        with pytest.raises(RequestError) as refused:
            self.run(lambda collector: collector.settle(PAYMENT), confirmations)
        return refused.value.code


@pytest.mark.parametrize(
    "answer",
    [Settled(True, SENT), Settled(False, SENT, "settlement_pending"), Settled(False, "", "nonce"), LOST],
)
def test_settle__chain_has_it__is_paid_whatever_was_answered(answer: Answer) -> None:
    assert Script(answer, MINED).run(lambda collector: collector.settle(PAYMENT)) == MINED


def test_settle__node_behind_the_facilitator__waits_for_its_own_sight() -> None:
    script = Script(Settled(True, SENT), None, None, MINED)
    assert script.run(lambda collector: collector.settle(PAYMENT)) == MINED
    assert script.hints == [HASH] * 3


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (Settled(True, SENT), "payment_pending"),
        (Settled(True, "no hash"), "payment_pending"),
        (Settled(False, SENT, "settlement_pending"), "payment_pending"),
        (Settled(False, "", "insufficient_balance"), "payment_failed"),
        (LOST, "payment_unavailable"),
    ],
)
def test_settle__chain_never_has_it__ends_with_a_code(answer: Answer, code: str) -> None:
    assert Script(answer, None).code() == code


def test_settle__chain_out_of_sight__is_pending() -> None:
    assert Script(Settled(True, SENT), RetryableError("down")).code() == "payment_pending"


def test_deep__reorg_meanwhile__counts_from_where_it_is_now() -> None:
    again = Transfer(Hash32(b"\x02" * 32), 3)
    script = Script(LOST, None, Transfer(again.tx_hash, 1), again)
    assert script.run(lambda collector: collector.deep(PAYMENT.authorization, MINED), 3) == again


def test_deep__never_deep_enough__is_pending() -> None:
    script = Script(LOST, Transfer(HASH, 2))
    with pytest.raises(Unavailable) as refused:
        script.run(lambda collector: collector.deep(PAYMENT.authorization, MINED), 3)
    assert (refused.value.code, refused.value.retry_after) == ("payment_pending", 2)
