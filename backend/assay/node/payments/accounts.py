"""What the node holds for each channel while it runs: the log's state plus the requests in flight. Pure
rules, no I/O.

    covered(voucher) = max(voucher.amount, held amount) ≥ charged + price

`held` is the highest voucher accepted, `charged` the sum of prices of the receipts issued or in flight. A
voucher pays
for one request alone: it is remembered by its digest with the receipt that it paid for.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Final

from assay.node.errors import PaymentError
from assay.node.receipts.entries import ChannelKey, ChannelState, HeldVoucher, LoggedReceipt
from assay.types import Hash32, Voucher

Counts = Voucher | HeldVoucher
"""What has a voucher's amount and count."""
NOTHING: Final = HeldVoucher(0, 0, b"")


@dataclass(slots=True)
class InFlight:
    """A request that is being served; repetitions of it wait for its receipt."""

    input_hash: Hash32
    waiting: list[asyncio.Future[LoggedReceipt]] = field(default_factory=list)

    def wait(self) -> asyncio.Future[LoggedReceipt]:
        future: asyncio.Future[LoggedReceipt] = asyncio.get_running_loop().create_future()
        self.waiting.append(future)
        return future

    def end(self, outcome: LoggedReceipt | Exception) -> None:
        for future in self.waiting:
            if future.done():
                continue
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)


@dataclass(slots=True)
class Channel:
    """`issued`, `unpaid`, `durable` follow the log; `held`, `charged` include requests in flight."""

    key: ChannelKey
    issued: int
    unpaid: int
    charged: int
    held: HeldVoucher | None
    durable: HeldVoucher | None
    settled: int | None = None
    """What the chain paid of it, as last seen; None before it was read."""
    in_flight: dict[Hash32, InFlight] = field(default_factory=dict)
    pending: int = 0
    """Requests reserved and not yet finished, paid or not."""
    words: bytes = b""
    """What the digests of its vouchers begin with, once one was asked for."""

    @classmethod
    def of(cls, state: ChannelState) -> Channel:
        return cls(state.key, state.sequence, state.unpaid, state.charged, state.voucher, state.voucher)

    @property
    def held_amount(self) -> int:
        return self.held.amount if self.held else 0

    @property
    def held_count(self) -> int:
        return self.held.count if self.held else 0

    @property
    def unsaved(self) -> HeldVoucher | None:
        """The voucher held, while it is not on disk: the next receipt that it covers must take it there,
        for the request that brought it may fail."""
        return None if self.held == self.durable else self.held

    def might_have_paid(self, amount: int) -> bool:
        """Whether a voucher of `amount` can have been accepted before: the log knows, if so."""
        return self.durable is not None and amount <= self.durable.amount

    @property
    def owed(self) -> int:
        """Accepted and, as far as is known, not settled."""
        return max(self.held_amount - (self.settled or 0), 0)

    @property
    def is_behind_chain(self) -> bool:
        """The chain paid for a voucher that the log does not hold: the log was lost, and its sequence with
        it."""
        return self.settled is not None and self.settled > self.held_amount


def check_counts(channel: Channel, voucher: Counts, max_unacknowledged: int) -> None:
    """SPEC.md §7 (3), the counts. Raises PaymentError `voucher_stale`, `unacknowledged`."""
    held = channel.held or NOTHING
    if voucher.count > channel.issued:
        raise PaymentError(
            f"voucher counts {voucher.count} inferences, this node issued {channel.issued} receipts on the "
            f"channel; "
            "count only receipts that you have",
            code="voucher_stale",
        )
    if voucher.amount > held.amount and voucher.count < held.count:
        raise PaymentError(
            f"voucher's count fell to {voucher.count}, this node holds one for {held.count}; "
            "ask GET /v1/channels for the state and sign again",
            code="voucher_stale",
        )
    behind = channel.issued - channel.unpaid - max(voucher.count, held.count)
    if behind > max_unacknowledged:
        raise PaymentError(
            f"{behind} receipts are not acknowledged, this node allows {max_unacknowledged}; "
            "check them and send a voucher that counts them",
            code="unacknowledged",
        )


def check_coverage(channel: Channel, voucher: Counts, price: int) -> None:
    """SPEC.md §7 (3), the amount. Raises PaymentError `voucher_short`, `voucher_stale`."""
    needed = channel.charged + price
    if voucher.amount >= needed or channel.held_amount >= needed:
        return
    stale = voucher.amount <= channel.held_amount
    raise PaymentError(
        f"voucher's amount is {voucher.amount}, {needed} is needed: {channel.charged} for receipts issued "
        f"or in work "
        f"and {price} for this request; sign a voucher for {needed} or more",
        code="voucher_stale" if stale else "voucher_short",
    )


def check_acknowledgement(channel: Channel, voucher: Counts) -> None:
    """A voucher without a request: neither number may fall. Raises PaymentError `voucher_stale`."""
    check_counts(channel, voucher, max_unacknowledged=channel.issued)
    if voucher.amount < channel.held_amount or voucher.count < channel.held_count:
        raise PaymentError(
            f"voucher ({voucher.amount} for {voucher.count}) is behind the one held "
            f"({channel.held_amount} for {channel.held_count})",
            code="voucher_stale",
        )


def raises_held(channel: Channel, voucher: Counts) -> bool:
    """Whether the voucher takes the place of the one held."""
    held = channel.held
    return (
        held is None
        or (voucher.amount > held.amount and voucher.count >= held.count)
        or (voucher.amount == held.amount and voucher.count > held.count)
    )


def reserve(channel: Channel, voucher: HeldVoucher | None, price: int) -> None:
    """Take a checked request in. Undone by `release`, made good by `commit`."""
    channel.pending += 1
    channel.charged += price
    if voucher is not None:
        channel.held = voucher


def release(channel: Channel, price: int) -> None:
    """The request failed: nothing is charged. A voucher kept stays as credit of the consumer."""
    channel.pending -= 1
    channel.charged -= price


def commit(channel: Channel, receipt: LoggedReceipt, voucher: HeldVoucher | None, paid: bool) -> None:
    """The receipt is on disk. Receipts of one channel may be reported out of order."""
    channel.pending -= 1
    channel.issued = max(channel.issued, receipt.issued.sequence)
    channel.unpaid += not paid
    store(channel, voucher)


def store(channel: Channel, voucher: HeldVoucher | None) -> None:
    """The voucher is on disk."""
    if voucher is None:
        return
    held = channel.durable
    if held is None or (voucher.amount >= held.amount and voucher.count >= held.count):
        channel.durable = voucher
