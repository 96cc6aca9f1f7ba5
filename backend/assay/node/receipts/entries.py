"""What goes into the receipts log and comes out of it: values, no I/O.

Nobody changes one that was made; frozen ones would take four times as long to make, for every request.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from assay.commitments.receipts import receipt_to_json
from assay.types import Address, Domain, Hash32, Receipt, SignedReceipt, SignedVoucher, Voucher


class ChannelKey(NamedTuple):
    version_id: Hash32
    consumer: Address


@dataclass(slots=True)
class HeldVoucher:
    """What a voucher says beside its channel, as the node accepted it. `signature`: 65 bytes r ‖ s ‖ v, or a
    `wallet`'s."""

    amount: int
    count: int
    signature: bytes
    wallet: bool = False


@dataclass(slots=True)
class Issue:
    """A receipt to be: everything but its sequence. `payment` is the digest of the voucher that pays for it
    alone, or, if it is `prepaid`, the name of the payment outside of the vouchers that bought it: then
    neither what is charged nor the voucher held changes. `data` is what a dispute of it will be answered from
    (`ReceiptData.to_bytes`). `ceiling` is what the consumer's vouchers may come to, on all its channels
    together, by the escrow as it was last seen; a log that several processes write to checks it again."""

    key: ChannelKey
    input_hash: Hash32
    output_hash: Hash32
    price: int
    voucher: HeldVoucher | None = None
    payment: Hash32 | None = None
    data: bytes | None = field(default=None, repr=False)
    public: bool = False
    prepaid: bool = False
    ceiling: int | None = None

    @property
    def has_voucher(self) -> bool:
        """Whether a voucher pays for it."""
        return self.payment is not None and not self.prepaid


@dataclass(slots=True)
class Acknowledge:
    """A voucher that came without a request; `ceiling` as an `Issue`'s."""

    key: ChannelKey
    voucher: HeldVoucher
    ceiling: int | None = None


@dataclass(slots=True)
class IssuedReceipt:
    """A signed receipt, without what its channel says."""

    input_hash: bytes
    output_hash: bytes
    digest: bytes
    price: int
    sequence: int
    executed_at: int
    signature: bytes


@dataclass(slots=True)
class LoggedReceipt:
    """A receipt that is on disk."""

    node: Address
    key: ChannelKey
    issued: IssuedReceipt
    public: bool = False

    @classmethod
    def of(cls, signed: SignedReceipt, digest: Hash32, public: bool = False) -> LoggedReceipt:
        receipt = signed.receipt
        issued = IssuedReceipt(
            receipt.input_hash,
            receipt.output_hash,
            digest,
            receipt.price,
            receipt.sequence,
            receipt.executed_at,
            signed.signature,
        )
        return cls(receipt.node, ChannelKey(receipt.version_id, receipt.consumer), issued, public)

    @property
    def digest(self) -> Hash32:
        return Hash32(self.issued.digest)

    @property
    def signed(self) -> SignedReceipt:
        issued, (version_id, consumer) = self.issued, self.key
        receipt = Receipt(
            self.node,
            consumer,
            version_id,
            Hash32(issued.input_hash),
            Hash32(issued.output_hash),
            issued.price,
            issued.sequence,
            issued.executed_at,
        )
        return SignedReceipt(receipt, issued.signature)

    def to_json(self, domain: Domain) -> dict[str, Any]:
        """The receipt object of SPEC.md §7, with §11's `public`."""
        found = receipt_to_json(domain, self.signed)
        return found | {"public": True} if self.public else found


class AlreadyIssued(Exception):  # noqa: N818 - named after what it is
    """The payment of an `Issue` has bought this receipt, for the same inputs, maybe from another process."""

    def __init__(self, receipt: LoggedReceipt) -> None:
        super().__init__(f"receipt 0x{receipt.digest.hex()} was issued already")
        self.receipt = receipt


@dataclass(frozen=True, slots=True)
class ChannelState:
    """What is on disk for a channel. `voucher` None: none was ever accepted."""

    key: ChannelKey
    sequence: int = 0
    unpaid: int = 0
    charged: int = 0
    voucher: HeldVoucher | None = None

    @property
    def amount(self) -> int:
        return self.voucher.amount if self.voucher else 0

    @property
    def count(self) -> int:
        return self.voucher.count if self.voucher else 0

    def signed_voucher(self, node: Address) -> SignedVoucher | None:
        held = self.voucher
        if held is None:
            return None
        voucher = Voucher(self.key.consumer, node, self.key.version_id, held.amount, held.count)
        return SignedVoucher(voucher, held.signature)
