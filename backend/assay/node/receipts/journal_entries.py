"""One entry of the journal, a receipt or an acknowledgement, as bytes. Pure; integers big-endian.

flags:u8 ‖ version_id:32 ‖ consumer:20
receipt:  input_hash:32 ‖ output_hash:32 ‖ digest:32
          ‖ price:u128 ‖ sequence:u64 ‖ executed_at:u64 ‖ signature:65
payment:  32
voucher:  amount:u128 ‖ count:u64 ‖ length:u16 ‖ signature
data:     length:u32 ‖ content
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct
from typing import Any, Final

from assay.commitments.identifiers import checksum_address
from assay.errors import FatalError
from assay.node.receipts.entries import ChannelKey, HeldVoucher, IssuedReceipt
from assay.types import Hash32

RECEIPT: Final = 1
VOUCHER: Final = 2
WALLET: Final = 4
PAYMENT: Final = 8
DATA: Final = 16
PUBLIC: Final = 32
PREPAID: Final = 64
_KEY: Final = Struct(">B32s20s")
_RECEIPT: Final = Struct(">32s32s32s16sQQ65s")
_VOUCHER: Final = Struct(">16sQH")
_LENGTH: Final = Struct(">I")


@dataclass(slots=True)
class Entry:
    """`receipt` None: a voucher that came alone. `is_durable`: on disk, so that its receipt may be shown."""

    key: ChannelKey
    receipt: IssuedReceipt | None = None
    voucher: HeldVoucher | None = None
    payment: bytes | None = None
    data: bytes | None = None
    public: bool = False
    prepaid: bool = False
    is_durable: bool = False

    @property
    def size(self) -> int:
        """About how much memory it takes while it waits for the tables, in bytes: encoded and not."""
        return 1100 + (2 * len(self.data) if self.data else 0)


def encode(entry: Entry) -> bytes:
    receipt, voucher, payment, data = entry.receipt, entry.voucher, entry.payment, entry.data
    flags = (PUBLIC if entry.public else 0) | (PREPAID if entry.prepaid else 0)
    parts = [b""]
    if receipt is not None:
        flags |= RECEIPT
        parts.append(
            _RECEIPT.pack(
                receipt.input_hash,
                receipt.output_hash,
                receipt.digest,
                receipt.price.to_bytes(16, "big"),
                receipt.sequence,
                receipt.executed_at,
                receipt.signature,
            )
        )
    if payment is not None:
        flags |= PAYMENT
        parts.append(payment)
    if voucher is not None:
        flags |= VOUCHER | (WALLET if voucher.wallet else 0)
        signature = voucher.signature
        parts += (_VOUCHER.pack(voucher.amount.to_bytes(16, "big"), voucher.count, len(signature)), signature)
    if data is not None:
        flags |= DATA
        parts += (_LENGTH.pack(len(data)), data)
    parts[0] = _KEY.pack(flags, entry.key.version_id, bytes.fromhex(entry.key.consumer[2:]))
    return b"".join(parts)


def decode(raw: bytes) -> Iterator[Entry]:
    """The entries of a frame. Raises FatalError if they do not fill it: it passed its checksum, so another
    version of this program wrote it."""
    reader = _Reader(raw)
    while reader.at < len(raw):
        flags, version_id, consumer = reader.unpack(_KEY)
        entry = Entry(
            ChannelKey(Hash32(version_id), checksum_address(consumer)),
            public=bool(flags & PUBLIC),
            prepaid=bool(flags & PREPAID),
        )
        if flags & RECEIPT:
            inputs, outputs, digest, price, sequence, executed_at, signature = reader.unpack(_RECEIPT)
            entry.receipt = IssuedReceipt(
                inputs, outputs, digest, int.from_bytes(price, "big"), sequence, executed_at, signature
            )
        if flags & PAYMENT:
            entry.payment = reader.take(32)
        if flags & VOUCHER:
            amount, count, length = reader.unpack(_VOUCHER)
            signature = reader.take(length)
            entry.voucher = HeldVoucher(int.from_bytes(amount, "big"), count, signature, bool(flags & WALLET))
        if flags & DATA:
            (length,) = reader.unpack(_LENGTH)
            entry.data = reader.take(length)
        yield entry


class _Reader:
    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self.at = 0

    def take(self, size: int) -> bytes:
        found = self._raw[self.at : self.at + size]
        self.at += size
        if len(found) != size:
            raise FatalError("the receipts journal holds entries that this version of assay does not know")
        return found

    def unpack(self, form: Struct) -> tuple[Any, ...]:
        return form.unpack(self.take(form.size))
