"""The durable receipts log: a receipt, its signature and its voucher are on disk before the signature leaves
the process.

The next sequence is read inside the transaction that writes the receipt, and (channel, sequence) is unique,
so two
receipts of one sequence cannot exist, whatever crashes and however many processes open the file.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from assay.commitments.public_data import ReceiptData
from assay.commitments.signing import SigningKey
from assay.node.database import Connection, Database, SqliteDatabase
from assay.node.entries import Acknowledge, ChannelKey, ChannelState, HeldVoucher, Issue, LoggedReceipt
from assay.node.issuing import LocalIssuer
from assay.node.schema import from_blob, prepare_database
from assay.types import Address, Domain, Hash32, Receipt, SignedReceipt, SkipReason

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
        self, database: SqliteDatabase, domain: Domain, node: Address, clock: Callable[[], float] = time.time
    ) -> None:
        self.database: Database = database
        self.domain = domain
        self.node = node
        self._read = prepare_database(database, domain, node)
        self._write = database.open_file()
        self._issuer = LocalIssuer(self._write, domain, node, clock)

    @property
    def name(self) -> str:
        return self.database.name

    def close(self) -> None:
        self._read.close()
        self._write.close()

    # Writing

    def write(self, items: Sequence[Issue | Acknowledge], key: SigningKey) -> list[LoggedReceipt | None]:
        """Sign and store all of `items` in one transaction; what is returned is on disk. All or nothing.

        Raises sqlite3.IntegrityError if a voucher has paid for a receipt already; nothing was then written.
        """
        return self._issuer.write(items, key)

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
        return self._receipt("r.id = (SELECT max(id) FROM receipts)")

    def receipt_count(self) -> int:
        row = self._read.execute("SELECT coalesce(max(id), 0) FROM receipts").fetchone()
        return int(row[0]) if row else 0

    def _receipt(self, where: str, *arguments: bytes) -> LoggedReceipt | None:
        query = f"SELECT {_RECEIPT} FROM receipts r JOIN channels c ON c.id = r.channel WHERE {where}"  # noqa: S608
        row = self._read.execute(query, arguments).fetchone()
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


def read_data(connection: Connection, digest: bytes) -> ReceiptData | None:
    """A receipt's inputs and outputs; None once they were pruned, or if they never were kept.

    Raises FieldError if the row is damaged.
    """
    row = connection.execute(
        "SELECT d.content FROM receipt_data d JOIN receipts r ON r.id = d.receipt WHERE r.digest = ?",
        (digest,),
    ).fetchone()
    return ReceiptData.from_bytes(row[0]) if row else None


def batch_receipts(
    connection: Connection, node: Address, batch_id: bytes, after: int, limit: int
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
