"""Rows of the receipts log as values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from assay.node.receipts.entries import ChannelKey, ChannelState, HeldVoucher, LoggedReceipt
from assay.node.receipts.schema import from_blob
from assay.types import Address, Hash32, Receipt, SignedReceipt

CHANNEL: Final = "version_id, consumer, sequence, unpaid, charged, amount, count, signature, wallet"
RECEIPT: Final = ", ".join(
    (
        "c.consumer",
        "r.version_id",
        "r.input_hash",
        "r.output_hash",
        "r.price",
        "r.sequence",
        "r.executed_at",
        "r.signature",
        "r.digest",
        "r.public",
    )
)


def channel_state(row: Sequence[object]) -> ChannelState:
    version_id, consumer, sequence, unpaid, charged, amount, count, signature, wallet = row
    held = None
    if isinstance(signature, bytes):
        held = HeldVoucher(from_blob(_bytes(amount)), _int(count), signature, bool(wallet))
    key = ChannelKey(Hash32(_bytes(version_id)), Address(str(consumer)))
    return ChannelState(key, _int(sequence), _int(unpaid), from_blob(_bytes(charged)), held)


def receipt_of_row(node: Address, row: Sequence[object]) -> LoggedReceipt:
    """`row` is of the columns `RECEIPT`; without the last, the receipt counts as private."""
    (
        consumer,
        version_id,
        input_hash,
        output_hash,
        price,
        sequence,
        executed_at,
        signature,
        digest,
        *public,
    ) = row
    receipt = Receipt(
        node=node,
        consumer=Address(str(consumer)),
        version_id=Hash32(_bytes(version_id)),
        input_hash=Hash32(_bytes(input_hash)),
        output_hash=Hash32(_bytes(output_hash)),
        price=from_blob(_bytes(price)),
        sequence=_int(sequence),
        executed_at=_int(executed_at),
    )
    return LoggedReceipt.of(SignedReceipt(receipt, _bytes(signature)), Hash32(_bytes(digest)), public == [1])


def _bytes(value: object) -> bytes:
    assert isinstance(value, bytes)
    return value


def _int(value: object) -> int:
    assert isinstance(value, int)
    return value
