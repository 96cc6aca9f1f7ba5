"""Gets a payment verified, settled and seen on this node's own view of the chain."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from time import time
from typing import Final

from assay.commitments.authorizations import Authorization
from assay.errors import RetryableError
from assay.node.errors import PaymentError, Unavailable
from assay.node.x402.facilitator import FacilitatorClient, Settled, Verdict
from assay.node.x402.transfers import Transfer, Transfers
from assay.node.x402.wire import Payment
from assay.types import Hash32

POLL_SECONDS: Final = 0.25


@dataclass(frozen=True, slots=True)
class Depth:
    """`confirmations` 1: mined. `seconds` bounds each wait for the chain."""

    confirmations: int = 1
    seconds: float = 45.0


class Collector:
    """Belongs to one event loop. A facilitator is believed when it refuses; that a payment went through is
    believed of the chain alone."""

    def __init__(
        self,
        facilitator: FacilitatorClient,
        transfers: Transfers,
        depth: Depth,
        clock: Callable[[], float] = time,
    ) -> None:
        self._facilitator = facilitator
        self._transfers = transfers
        self._depth = depth
        self._clock = clock

    async def close(self) -> None:
        await self._facilitator.close()

    async def verify(self, payment: Payment) -> Verdict:
        """Raises Unavailable."""
        return await self._facilitator.verify(payment)

    async def settle(self, payment: Payment) -> Transfer:
        """The transfer, whoever brought it about. Raises PaymentError `payment_failed`, Unavailable."""
        lost: Unavailable | None = None
        answer = Settled(False)
        try:
            answer = await self._facilitator.settle(payment)
        except Unavailable as error:
            lost = error
        found = await self._look(payment, _hash(answer.transaction), patient=answer.success)
        if found is not None:
            return found
        if answer.success or answer.is_pending:
            raise pending(f"transaction {answer.transaction} is not on the chain yet")
        if lost is not None:
            raise lost
        raise PaymentError(
            f"the payment was not settled: {answer.reason}; nothing was signed or answered. Sign a new one",
            code="payment_failed",
        )

    async def _look(self, payment: Payment, hint: Hash32 | None, *, patient: bool) -> Transfer | None:
        deadline = self._clock() + (self._depth.seconds if patient else 0)
        while True:
            found = await self.transfer(payment.authorization, hint)
            if found is not None or self._clock() >= deadline:
                return found
            await asyncio.sleep(POLL_SECONDS)

    async def deep(self, given: Authorization, found: Transfer) -> Transfer:
        """The transfer, or what a reorg made of it, deep enough. Raises Unavailable `payment_pending`."""
        deadline = self._clock() + self._depth.seconds
        seen: Transfer | None = found
        while seen is None or seen.depth < self._depth.confirmations:
            if self._clock() >= deadline:
                raise pending(f"the payment is not {self._depth.confirmations} blocks deep yet")
            await asyncio.sleep(POLL_SECONDS)
            seen = await self.transfer(given, found.tx_hash)
        return seen

    async def transfer(self, given: Authorization, hint: Hash32 | None) -> Transfer | None:
        """What the chain has of an authorization now. Raises Unavailable `payment_pending`."""
        try:
            return await asyncio.to_thread(self._transfers.find, given, hint)
        except RetryableError as error:
            raise pending(f"this node cannot read the chain: {error}") from None


def pending(what: str) -> Unavailable:
    """Of a payment that may be on its way."""
    return Unavailable(
        f"{what}; send the same request with the same PAYMENT-SIGNATURE again: it is paid once",
        code="payment_pending",
        retry_after=2,
    )


def _hash(text: str) -> Hash32 | None:
    try:
        raw = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        return None
    return Hash32(raw) if len(raw) == 32 else None
