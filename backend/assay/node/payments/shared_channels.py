"""The rules for a receipt in a log that several processes write to: pure, on the rows as they are locked.

What the gate checked in memory may be out of date by what other processes have accepted since; here nobody
else can change a consumer's channels until the transaction ends.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from assay.node.errors import PaymentError
from assay.node.receipts.entries import (
    AlreadyIssued,
    ChannelKey,
    ChannelState,
    HeldVoucher,
    Issue,
    LoggedReceipt,
)
from assay.types import Address, Hash32

UINT128_MAX = (1 << 128) - 1


@dataclass(slots=True)
class LockedChannel:
    """One row of `channels`, and what this transaction makes of it."""

    id: int
    sequence: int
    unpaid: int
    charged: int
    held: HeldVoucher | None
    prepaid: int = 0
    changed: bool = False

    @classmethod
    def of(cls, number: int, state: ChannelState, prepaid: int = 0) -> LockedChannel:
        return cls(number, state.sequence, state.unpaid, state.charged, state.voucher, prepaid)

    @property
    def amount(self) -> int:
        return self.held.amount if self.held else 0

    @property
    def count(self) -> int:
        return self.held.count if self.held else 0

    def raises(self, voucher: HeldVoucher) -> bool:
        """Whether the voucher takes the place of the one held: neither number falls, and one grows."""
        held = self.held
        if held is None:
            return True
        grows = voucher.amount > held.amount or voucher.count > held.count
        return grows and voucher.amount >= held.amount and voucher.count >= held.count

    def keep(self, voucher: HeldVoucher) -> None:
        if self.raises(voucher):
            self.held, self.changed = voucher, True

    def charge(self, item: Issue) -> int:
        """The receipt's sequence."""
        self.sequence += 1
        self.changed = True
        self.unpaid += not item.has_voucher
        if item.prepaid:
            self.prepaid = min(self.prepaid + item.price, UINT128_MAX)
        else:
            self.charged = min(self.charged + item.price, UINT128_MAX)
        return self.sequence


@dataclass(slots=True)
class Locked:
    """All channels of the consumers of a group, and the receipts that the group's payments have bought."""

    channels: dict[ChannelKey, LockedChannel]
    paid: dict[Hash32, LoggedReceipt] = field(default_factory=dict)
    _promised: dict[Address, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key, channel in self.channels.items():
            self._promised[key.consumer] = self._promised.get(key.consumer, 0) + channel.amount

    def check_issue(self, item: Issue) -> None:
        """Raises AlreadyIssued; PaymentError `voucher_stale`, `voucher_short`, `escrow_short`."""
        found = self.paid.get(item.payment) if item.payment else None
        if found is not None:
            if found.issued.input_hash == item.input_hash:
                raise AlreadyIssued(found)
            raise PaymentError(
                f"voucher has paid for receipt 0x{found.digest.hex()} with other inputs; sign a new one "
                "with a "
                "greater amount",
                code="voucher_stale",
            )
        channel = self.channels[item.key]
        if item.voucher is not None:
            _check_count(channel, item.voucher)
            self._check_ceiling(item.key, item.voucher, item.ceiling)
        if item.has_voucher:
            _check_coverage(channel, item)

    def check_acknowledgement(self, key: ChannelKey, voucher: HeldVoucher, ceiling: int | None) -> None:
        """Raises PaymentError `voucher_stale`, `escrow_short`."""
        channel = self.channels[key]
        _check_count(channel, voucher)
        if voucher.amount < channel.amount or voucher.count < channel.count:
            raise PaymentError(
                f"voucher ({voucher.amount} for {voucher.count}) is behind the one held "
                f"({channel.amount} for {channel.count})",
                code="voucher_stale",
            )
        self._check_ceiling(key, voucher, ceiling)

    def keep(self, key: ChannelKey, voucher: HeldVoucher) -> None:
        channel = self.channels[key]
        before = channel.amount
        channel.keep(voucher)
        self._promised[key.consumer] += channel.amount - before

    def _check_ceiling(self, key: ChannelKey, voucher: HeldVoucher, ceiling: int | None) -> None:
        """SPEC.md §7 (4), over all channels of the consumer: settled amounts are on both sides."""
        more = max(voucher.amount - self.channels[key].amount, 0)
        total = self._promised[key.consumer] + more
        if more and ceiling is not None and total > ceiling:
            raise PaymentError(
                f"the vouchers of {key.consumer} with this node would come to {total}, its escrow and what "
                "it "
                f"has paid cover {ceiling}; fund the escrow, or cancel its thaw",
                code="escrow_short",
            )

    def changed(self) -> Iterable[LockedChannel]:
        """In the order of their rows."""
        return sorted((one for one in self.channels.values() if one.changed), key=lambda one: one.id)


def _check_count(channel: LockedChannel, voucher: HeldVoucher) -> None:
    if voucher.count > channel.sequence:
        raise PaymentError(
            f"voucher counts {voucher.count} inferences, this node issued {channel.sequence} receipts on the "
            "channel; count only receipts that you have",
            code="voucher_stale",
        )
    if voucher.amount > channel.amount and voucher.count < channel.count:
        raise PaymentError(
            f"voucher's count fell to {voucher.count}, this node holds one for {channel.count}; ask GET "
            "/v1/channels for the state and sign again",
            code="voucher_stale",
        )


def _check_coverage(channel: LockedChannel, item: Issue) -> None:
    needed = channel.charged + item.price
    given = item.voucher.amount if item.voucher else 0
    if max(given, channel.amount) < needed:
        raise PaymentError(
            f"voucher's amount is {given or channel.amount}, {needed} is needed: {channel.charged} for "
            "receipts "
            f"issued and {item.price} for this request; sign a voucher for {needed} or more",
            code="voucher_stale" if given <= channel.amount else "voucher_short",
        )
