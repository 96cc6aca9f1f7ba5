"""The durable receipts log: a receipt, its signature and its voucher are on disk before the signature leaves
the process.

The next sequence is read inside the transaction that writes the receipt, and (channel, sequence) is unique,
so two
receipts of one sequence cannot exist, whatever crashes and however many processes open the file.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from assay.commitments.public_data import ReceiptData
from assay.commitments.receipts import receipt_digest, receipt_to_json
from assay.commitments.signing import SigningKey
from assay.node.schema import from_blob, open_database, prepare_database, to_blob
from assay.types import Address, Domain, Hash32, Receipt, SignedReceipt, SignedVoucher, SkipReason, Voucher

UINT128_MAX: Final = (1 << 128) - 1


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
    alone, `data` what a dispute of it will be answered from (`ReceiptData.to_bytes`)."""

    key: ChannelKey
    input_hash: Hash32
    output_hash: Hash32
    price: int
    voucher: HeldVoucher | None = None
    payment: Hash32 | None = None
    data: bytes | None = field(default=None, repr=False)
    public: bool = False


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """A voucher that came without a request."""

    key: ChannelKey
    voucher: HeldVoucher


@dataclass(frozen=True, slots=True)
class LoggedReceipt:
    signed: SignedReceipt
    digest: Hash32
    public: bool = False

    def to_json(self, domain: Domain) -> dict[str, Any]:
        """The receipt object of SPEC.md §7, with §11's `public`."""
        found = receipt_to_json(domain, self.signed)
        return found | {"public": True} if self.public else found


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


_CHANNEL = "version_id, consumer, sequence, unpaid, charged, amount, count, signature, wallet"
_RECEIPT = ", ".join(
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


class ReceiptLog:
    """Writes through one connection (one thread at a time: `writer.Writer`), reads through another (any one
    thread)."""

    def __init__(
        self, path: Path, domain: Domain, node: Address, clock: Callable[[], float] = time.time
    ) -> None:
        self.path = path
        self.domain = domain
        self.node = node
        self._clock = clock
        self._write = prepare_database(path, domain, node)
        self._read = open_database(path)

    def close(self) -> None:
        self._read.close()
        self._write.close()

    # Writing

    def write(self, items: Sequence[Issue | Acknowledge], key: SigningKey) -> list[LoggedReceipt | None]:
        """Sign and store all of `items` in one transaction; what is returned is on disk. All or nothing.

        Raises sqlite3.IntegrityError if a voucher has paid for a receipt already; nothing was then written.
        """
        self._write.execute("BEGIN IMMEDIATE")
        try:
            results = [self._apply(item, key) for item in items]
            self._write.execute("COMMIT")
        except BaseException:
            if self._write.in_transaction:
                self._write.execute("ROLLBACK")
            raise
        return results

    def _apply(self, item: Issue | Acknowledge, key: SigningKey) -> LoggedReceipt | None:
        if isinstance(item, Issue):
            return self._issue(item, key)
        channel, _, _ = self._channel_row(item.key)
        self._keep_voucher(channel, item.voucher)
        return None

    def _channel_row(self, key: ChannelKey) -> tuple[int, int, int]:
        """(row id, sequence, charged) of a channel, made if it is new."""
        select = "SELECT id, sequence, charged FROM channels WHERE version_id = ? AND consumer = ?"
        row = self._write.execute(select, (key.version_id, key.consumer)).fetchone()
        if row is None:
            insert = "INSERT INTO channels (version_id, consumer) VALUES (?, ?)"
            return int(self._write.execute(insert, (key.version_id, key.consumer)).lastrowid or 0), 0, 0
        return row[0], row[1], from_blob(row[2])

    def _issue(self, item: Issue, key: SigningKey) -> LoggedReceipt:
        channel, last, charged = self._channel_row(item.key)
        receipt = Receipt(
            node=self.node,
            consumer=item.key.consumer,
            version_id=item.key.version_id,
            input_hash=item.input_hash,
            output_hash=item.output_hash,
            price=item.price,
            sequence=last + 1,
            executed_at=int(self._clock()),
        )
        digest = receipt_digest(self.domain, receipt)
        signature = key.sign(digest)
        row = self._write.execute(
            "INSERT INTO receipts (channel, sequence, version_id, digest, input_hash, output_hash, price,"
            " executed_at, signature, voucher, public) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                channel,
                receipt.sequence,
                receipt.version_id,
                digest,
                receipt.input_hash,
                receipt.output_hash,
                to_blob(receipt.price),
                receipt.executed_at,
                signature,
                item.payment,
                item.public,
            ),
        ).lastrowid
        if item.data is not None:
            self._write.execute("INSERT INTO receipt_data VALUES (?, ?)", (row, item.data))
        self._write.execute(
            "UPDATE channels SET sequence = ?, unpaid = unpaid + ?, charged = ? WHERE id = ?",
            (
                receipt.sequence,
                item.payment is None,
                to_blob(min(charged + item.price, UINT128_MAX)),
                channel,
            ),
        )
        if item.voucher is not None:
            self._keep_voucher(channel, item.voucher)
        return LoggedReceipt(SignedReceipt(receipt, signature), digest, item.public)

    def _keep_voucher(self, channel: int, voucher: HeldVoucher) -> None:
        amount = to_blob(voucher.amount)
        self._write.execute(
            "UPDATE channels SET amount = ?, count = ?, signature = ?, wallet = ? WHERE id = ?"
            " AND amount <= ? AND count <= ? AND (amount < ? OR count < ? OR signature IS NULL)",
            (
                amount,
                voucher.count,
                voucher.signature,
                voucher.wallet,
                channel,
                amount,
                voucher.count,
                amount,
                voucher.count,
            ),
        )

    # Reading

    def channel(self, key: ChannelKey) -> ChannelState:
        """The channel's state; zeros where there is none."""
        row = self._read.execute(
            f"SELECT {_CHANNEL} FROM channels WHERE version_id = ? AND consumer = ?",  # noqa: S608
            (key.version_id, key.consumer),
        ).fetchone()
        return channel_state(row) if row else ChannelState(key)

    def channels_of(self, consumer: Address) -> list[ChannelState]:
        """Every channel of a consumer, over all versions."""
        rows = self._read.execute(
            f"SELECT {_CHANNEL} FROM channels WHERE consumer = ? ORDER BY id",  # noqa: S608
            (consumer,),
        )
        return [channel_state(row) for row in rows]

    def has_taken_back(self, consumer: Address) -> bool:
        """Whether the chain refused a signature of this wallet that the node took and is still owed for."""
        query = (
            "SELECT 1 FROM channels c JOIN batch_vouchers v ON v.channel = c.id"
            " WHERE c.consumer = ? AND v.skip_reason = ? AND v.amount > c.settled LIMIT 1"
        )
        row = self._read.execute(query, (consumer, int(SkipReason.BAD_SIGNATURE))).fetchone()
        return row is not None

    def receipt(self, digest: bytes) -> LoggedReceipt | None:
        return self._receipt("r.digest = ?", digest)

    def receipt_paid_by(self, payment: bytes) -> LoggedReceipt | None:
        """The receipt that the voucher with digest `payment` paid for."""
        return self._receipt("r.voucher = ?", payment)

    def last_receipt(self) -> LoggedReceipt | None:
        return self._receipt("r.id = (SELECT max(id) FROM receipts WHERE ? IS NULL)", None)

    def receipt_count(self) -> int:
        return int(self._read.execute("SELECT coalesce(max(id), 0) FROM receipts").fetchone()[0])

    def _receipt(self, where: str, argument: bytes | None) -> LoggedReceipt | None:
        query = f"SELECT {_RECEIPT} FROM receipts r JOIN channels c ON c.id = r.channel WHERE {where}"  # noqa: S608
        row = self._read.execute(query, (argument,)).fetchone()
        return receipt_of_row(self.node, row) if row else None


def channel_state(row: Sequence[object]) -> ChannelState:
    version_id, consumer, sequence, unpaid, charged, amount, count, signature, wallet = row
    held = None
    if isinstance(signature, bytes):
        held = HeldVoucher(from_blob(_bytes(amount)), _int(count), signature, bool(wallet))
    key = ChannelKey(Hash32(_bytes(version_id)), Address(str(consumer)))
    return ChannelState(key, _int(sequence), _int(unpaid), from_blob(_bytes(charged)), held)


def receipt_of_row(node: Address, row: Sequence[object]) -> LoggedReceipt:
    """`row` is of the columns `_RECEIPT`; without the last, the receipt counts as private."""
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
    return LoggedReceipt(SignedReceipt(receipt, _bytes(signature)), Hash32(_bytes(digest)), public == [1])


def read_data(connection: sqlite3.Connection, digest: bytes) -> ReceiptData | None:
    """A receipt's inputs and outputs; None once they were pruned, or if they never were kept.

    Raises FieldError if the row is damaged.
    """
    row = connection.execute(
        "SELECT d.content FROM receipt_data d JOIN receipts r ON r.id = d.receipt WHERE r.digest = ?",
        (digest,),
    ).fetchone()
    return ReceiptData.from_bytes(row[0]) if row else None


def batch_receipts(
    connection: sqlite3.Connection, node: Address, batch_id: bytes, after: int, limit: int
) -> Iterator[tuple[int, LoggedReceipt]]:
    """(row id, receipt) of a batch in leaf order, from row `after` exclusive."""
    rows = connection.execute(
        f"SELECT r.id, {_RECEIPT} FROM receipts r JOIN channels c ON c.id = r.channel"  # noqa: S608
        " JOIN batches b ON b.id = r.batch WHERE b.batch_id = ? AND r.id > ? ORDER BY r.id LIMIT ?",
        (batch_id, after, limit),
    )
    for row in rows:
        yield row[0], receipt_of_row(node, row[1:])


def _bytes(value: object) -> bytes:
    assert isinstance(value, bytes)
    return value


def _int(value: object) -> int:
    assert isinstance(value, int)
    return value
