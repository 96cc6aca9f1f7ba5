"""What the settler works with: vouchers, debts, batches."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from assay.node.receipts.entries import HeldVoucher
from assay.types import Address, BatchKey, Hash32, SignedVoucher, Voucher


class BatchState(StrEnum):
    CLOSED = "closed"
    """On disk and published; its transaction may or may not have been sent."""
    POSTED = "posted"
    COLLECTED = "collected"


@dataclass(frozen=True, slots=True)
class ChannelVoucher:
    """A voucher that may go into a batch. `channel` is the log's row id."""

    channel: int
    consumer: Address
    held: HeldVoucher

    def signed(self, node: Address, version_id: Hash32) -> SignedVoucher:
        voucher = Voucher(self.consumer, node, version_id, self.held.amount, self.held.count)
        return SignedVoucher(voucher, self.held.signature)


@dataclass(frozen=True, slots=True)
class Owing:
    """A channel whose voucher has grown since the last posting, or was not paid in full. `settled`,
    `settled_count`: the chain's, as of that posting."""

    channel: int
    version_id: Hash32
    consumer: Address
    wallet: bool
    amount: int
    count: int
    settled: int
    settled_count: int

    @property
    def is_first(self) -> bool:
        """Whether the chain does not know the channel yet."""
        return self.settled == 0 and self.settled_count == 0

    def payable(self, balance: int) -> int:
        """What an escrow of `balance` would pay now."""
        return min(max(self.amount - self.settled, 0), balance)


@dataclass(frozen=True, slots=True)
class Shares:
    """What became of a collected batch's amount."""

    node_amount: int
    royalty: int
    fee: int


@dataclass(frozen=True, slots=True)
class Batch:
    """`value`: the sum of its receipts' prices. `amount`: what the posting paid. `collect_key`: what the
    transaction that collects it was sent under, or was going to be. `collected_block`: by which it was; None
    once that is too deep for a reorg."""

    id: int
    batch_id: Hash32
    key: BatchKey
    receipts: int
    state: BatchState
    attempt: int
    posted_at: int | None
    value: int = 0
    amount: int = 0
    collect_key: str | None = None
    collected_block: int | None = None
