"""The durable receipts log: a receipt, its signature and its voucher are on disk before the signature leaves
the process.

The next sequence is read inside the transaction that writes the receipt, and (channel, sequence) is unique,
so two receipts of one sequence cannot exist, whatever crashes and however many processes write.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from assay.commitments.public_data import ReceiptData
from assay.commitments.signing import SigningKey
from assay.node.receipts.database import Connection, Database, Row, SqliteDatabase
from assay.node.receipts.entries import Acknowledge, ChannelKey, ChannelState, Issue, LoggedReceipt
from assay.node.receipts.issuing import LocalIssuer
from assay.node.receipts.pending import Pending
from assay.node.receipts.rows import CHANNEL, RECEIPT, channel_state, receipt_of_row
from assay.node.receipts.schema import prepare_database
from assay.node.receipts.unbatched import Range
from assay.node.settlement.closing import pages, ranges_of
from assay.types import Address, Domain, SkipReason

Item = Issue | Acknowledge
Outcome = LoggedReceipt | None | Exception


class Issuer(Protocol):
    """Signs and stores groups of items; used by one thread."""

    def write(self, items: Sequence[Item], key: SigningKey) -> Sequence[Outcome]: ...

    def close(self) -> None: ...


def open_issuer(database: Database, domain: Domain, node: Address, clock: Callable[[], float]) -> Issuer:
    """What issues into a log that was prepared."""
    if isinstance(database, SqliteDatabase):
        return LocalIssuer(database.open_file(), domain, node, clock)
    from assay.node.receipts.postgresql import PostgresDatabase
    from assay.node.receipts.shared_issuing import SharedIssuer

    assert isinstance(database, PostgresDatabase)
    return SharedIssuer(database, domain, node, clock)


class ReceiptLog:
    """Writes through one connection (one thread at a time: `writer.Writer`). Reads of a SQLite log go through
    another one (any one thread); those of a shared log take time, and any thread may make them."""

    def __init__(
        self, database: Database, domain: Domain, node: Address, clock: Callable[[], float] = time.time
    ) -> None:
        self.database = database
        self.domain = domain
        self.node = node
        self.pending: Pending | None = None
        """What this process has in its journal and not in the tables."""
        self._read: Connection | None = prepare_database(database, domain, node)
        if database.is_shared:
            self._read.close()
            self._read = None
        self._issuer = open_issuer(database, domain, node, clock)

    @property
    def name(self) -> str:
        return self.database.name

    @property
    def is_shared(self) -> bool:
        """Whether other processes write to it, too."""
        return self.database.is_shared

    def close(self) -> None:
        if self._read is not None:
            self._read.close()
        self._issuer.close()
        self.database.close()

    # Writing

    def write(self, items: Sequence[Item], key: SigningKey) -> Sequence[Outcome]:
        """Sign and store `items` in one transaction; receipts that are returned are on disk.

        Into a SQLite log all or nothing: raises sqlite3.IntegrityError if a voucher has paid for a receipt
        already. Into a shared one an item may fail alone: its outcome is the exception.
        """
        return self._issuer.write(items, key)

    # Reading

    def channel(self, key: ChannelKey) -> ChannelState:
        """The channel's state; zeros where there is none."""
        if self.pending is not None and (row := self.pending.rows.get(key)) is not None:
            return row.state
        rows = self._rows(
            f"SELECT {CHANNEL} FROM channels WHERE version_id = ? AND consumer = ?",  # noqa: S608
            key.version_id,
            key.consumer,
        )
        return channel_state(rows[0]) if rows else ChannelState(key)

    def channels_of(self, consumer: Address) -> list[ChannelState]:
        """Every channel of a consumer, over all versions."""
        query = f"SELECT {CHANNEL} FROM channels WHERE consumer = ? ORDER BY id"  # noqa: S608
        found = {state.key: state for state in map(channel_state, self._rows(query, consumer))}
        if self.pending is not None:
            found |= {state.key: state for state in self.pending.channels_of(consumer)}
        return list(found.values())

    def has_taken_back(self, consumer: Address) -> bool:
        """Whether the chain refused a signature of this wallet that the node took and is still owed for."""
        query = (
            "SELECT 1 FROM channels c JOIN batch_vouchers v ON v.channel = c.id"
            " WHERE c.consumer = ? AND v.skip_reason = ? AND v.amount > c.settled LIMIT 1"
        )
        return bool(self._rows(query, consumer, int(SkipReason.BAD_SIGNATURE)))

    def receipt(self, digest: bytes) -> LoggedReceipt | None:
        if self.pending is not None and (found := self.pending.with_digest(digest)) is not None:
            return found
        return self._receipt("r.digest = ?", digest)

    def receipt_paid_by(self, payment: bytes) -> LoggedReceipt | None:
        """The receipt that the voucher with digest `payment` paid for."""
        if self.pending is not None and (found := self.pending.with_payment(payment)) is not None:
            return found
        return self._receipt("r.voucher = ?", payment)

    def last_receipt(self) -> LoggedReceipt | None:
        return self._receipt("r.id = (SELECT max(id) FROM receipts)")

    def receipt_count(self) -> int:
        ((count,),) = self._rows("SELECT coalesce(sum(sequence), 0) FROM channels")
        return int(count)

    def _receipt(self, where: str, *arguments: bytes) -> LoggedReceipt | None:
        query = f"SELECT {RECEIPT} FROM receipts r JOIN channels c ON c.id = r.channel WHERE {where}"  # noqa: S608
        rows = self._rows(query, *arguments)
        return receipt_of_row(self.node, rows[0]) if rows else None

    def _rows(self, query: str, *arguments: object) -> list[Row]:
        if self._read is not None:
            return self._read.execute(query, arguments).fetchall()
        with self.database.session() as connection:
            return connection.execute(query, arguments).fetchall()


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
    connection: Connection, node: Address, batch: int, page: int
) -> Iterator[list[LoggedReceipt]]:
    """The receipts of the batch of that row, in leaf order, in short reads of at most `page`; fewer than the
    batch has where they are kept no more."""
    for part in pages(ranges_of(connection, batch), page):
        yield receipts_within(connection, node, part)


def receipts_within(connection: Connection, node: Address, part: Range) -> list[LoggedReceipt]:
    """The receipts of a range that are kept, by sequence."""
    query = (
        f"SELECT {RECEIPT} FROM receipts r JOIN channels c ON c.id = r.channel"  # noqa: S608
        " WHERE r.channel = ? AND r.sequence BETWEEN ? AND ? ORDER BY r.sequence"
    )
    rows = connection.execute(query, (part.channel, part.first, part.last)).fetchall()
    return [receipt_of_row(node, row) for row in rows]


def batch_of(connection: Connection, digest: bytes) -> int | None:
    """The row of the batch that has a receipt; None while it is in none."""
    row = connection.execute(
        "SELECT (SELECT CASE WHEN g.first_sequence <= r.sequence THEN g.batch END FROM batch_ranges g"
        " WHERE g.channel = r.channel AND g.last_sequence >= r.sequence ORDER BY g.last_sequence LIMIT 1)"
        " FROM receipts r WHERE r.digest = ?",
        (digest,),
    ).fetchone()
    return row[0] if row else None
