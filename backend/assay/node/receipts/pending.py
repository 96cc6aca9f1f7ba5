"""What is in the journal and not in the log's tables yet: whoever reads the log looks here first.

Belongs to the event loop; other threads see the tables alone, a moment behind.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from assay.node.receipts.entries import ChannelKey, ChannelState, HeldVoucher, LoggedReceipt
from assay.node.receipts.journal_entries import Entry
from assay.types import Address

KEPT_ROWS = 20_000


@dataclass(slots=True)
class Row:
    """A channel as of its last entry. `pending`: its entries that are not in the tables."""

    key: ChannelKey
    sequence: int
    unpaid: int
    charged: int
    voucher: HeldVoucher | None
    pending: int = 0
    words: bytes = b""
    """What all digests of its receipts begin with."""

    @classmethod
    def of(cls, state: ChannelState) -> Row:
        return cls(state.key, state.sequence, state.unpaid, state.charged, state.voucher)

    @property
    def state(self) -> ChannelState:
        return ChannelState(self.key, self.sequence, self.unpaid, self.charged, self.voucher)

    def hold(self, voucher: HeldVoucher) -> None:
        """Keep the voucher if neither of its numbers falls."""
        held = self.voucher
        if held is None or (
            (voucher.amount >= held.amount and voucher.count >= held.count)
            and (voucher.amount > held.amount or voucher.count > held.count)
        ):
            self.voucher = voucher


@dataclass(slots=True)
class Pending:
    node: Address
    rows: dict[ChannelKey, Row] = field(default_factory=dict)
    by_digest: dict[bytes, Entry] = field(default_factory=dict)
    by_payment: dict[bytes, Entry] = field(default_factory=dict)
    size: int = 0
    """Bytes of memory, about."""
    value: int = 0
    """The receipts' prices together, in base units."""

    def __len__(self) -> int:
        """Receipts."""
        return len(self.by_digest)

    def add(self, entry: Entry, row: Row) -> None:
        row.pending += 1
        self.size += entry.size
        if entry.receipt is not None:
            self.value += entry.receipt.price
            self.by_digest[entry.receipt.digest] = entry
        if entry.payment is not None:
            self.by_payment[entry.payment] = entry

    def remove(self, entries: Iterable[Entry]) -> None:
        """They are in the tables."""
        for entry in entries:
            self.size -= entry.size
            self.rows[entry.key].pending -= 1
            if entry.receipt is not None:
                self.value -= entry.receipt.price
                self.by_digest.pop(entry.receipt.digest, None)
            if entry.payment is not None:
                self.by_payment.pop(entry.payment, None)
        if len(self.rows) > KEPT_ROWS:
            for key in [key for key, row in self.rows.items() if not row.pending]:
                del self.rows[key]

    def with_digest(self, digest: bytes) -> LoggedReceipt | None:
        return self._receipt(self.by_digest.get(digest))

    def with_payment(self, payment: bytes) -> LoggedReceipt | None:
        return self._receipt(self.by_payment.get(payment))

    def _receipt(self, entry: Entry | None) -> LoggedReceipt | None:
        """None also while it is not on disk: its signature must not leave before."""
        if entry is None or entry.receipt is None or not entry.is_durable:
            return None
        return LoggedReceipt(self.node, entry.key, entry.receipt, entry.public)

    def channels_of(self, consumer: Address) -> list[ChannelState]:
        """Those that the tables do not have as they are."""
        return [row.state for key, row in self.rows.items() if row.pending and key.consumer == consumer]
