"""What goes into the receipts log and comes out of it: values, no I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from assay.commitments.receipts import receipt_to_json
from assay.types import Address, Domain, Hash32, SignedReceipt, SignedVoucher, Voucher


@dataclass(frozen=True, slots=True)
class ChannelKey:
    version_id: Hash32
    consumer: Address


@dataclass(frozen=True, slots=True)
class HeldVoucher:
    """The highest voucher that the node accepted for a channel."""

    amount: int
    count: int
    signature: bytes
    wallet: bool = False


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """A voucher that came without a request; `ceiling` as an `Issue`'s."""

    key: ChannelKey
    voucher: HeldVoucher
    ceiling: int | None = None


@dataclass(frozen=True, slots=True)
class LoggedReceipt:
    signed: SignedReceipt
    digest: Hash32
    public: bool = False

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
