"""Takes what the journal holds into the SQLite log's tables: many receipts a transaction, few statements.

Each statement gives up the interpreter's lock and has to get it back from an event loop that hardly rests, so
that rows go in by the hundred. Entries that the tables have already, as after a crash, are passed over.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, islice
from typing import Any, Final

from assay.errors import FatalError
from assay.node.receipts.entries import ChannelKey, IssuedReceipt
from assay.node.receipts.journal_entries import Entry, decode
from assay.node.receipts.journal_mark import Mark, write_mark
from assay.node.receipts.pending import Row
from assay.node.receipts.rows import CHANNEL, channel_state
from assay.node.receipts.schema import from_blob, to_blob

_SIZES: Final = (128, 16, 1)
"""Rows of a statement: few sizes, so that each is compiled once."""
_RECEIPT: Final = (
    "INSERT INTO receipts (id, channel, sequence, version_id, digest, input_hash, output_hash, price,"
    " executed_at, signature, voucher, public) VALUES "
)
_CHANNEL: Final = (
    "INSERT INTO channels (id, version_id, consumer, sequence, unpaid, charged, amount, count, signature,"
    " wallet) VALUES "
)
_KEEP: Final = (
    " ON CONFLICT (id) DO UPDATE SET sequence = excluded.sequence, unpaid = excluded.unpaid,"
    " charged = excluded.charged, amount = excluded.amount, count = excluded.count,"
    " signature = excluded.signature, wallet = excluded.wallet"
)
UINT128_MAX: Final = (1 << 128) - 1
KEPT_ROWS: Final = 20_000


class Importer:
    """Belongs to one thread at a time. Nothing else adds receipts, or changes what channels have issued and
    hold; so the rows that it has seen need not be read again."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self._rows: dict[ChannelKey, tuple[int, Row]] = {}
        self._is_synced = True
        """What its commits are, as `SqliteDatabase` opens it."""

    def write(self, entries: Sequence[Entry], mark: Mark | None = None, *, synced: bool = True) -> None:
        """All of them, and the last one's frame, in one transaction; unless `synced`, a failing machine may
        lose it. Raises sqlite3.Error, FatalError."""
        if synced != self._is_synced:
            self._db.execute(f"PRAGMA synchronous = {'FULL' if synced else 'NORMAL'}")
            self._is_synced = synced
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._write(entries)
            if mark is not None:
                write_mark(self._db, mark)
            self._db.execute("COMMIT")
        except BaseException:
            self._rows.clear()
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        if len(self._rows) > KEPT_ROWS:
            self._rows.clear()

    def _write(self, entries: Sequence[Entry]) -> None:
        (last, channels), *_ = self._db.execute(
            "SELECT (SELECT coalesce(max(id), 0) FROM receipts), (SELECT coalesce(max(id), 0) FROM channels)"
        ).fetchall()
        self._read_rows({entry.key for entry in entries} - self._rows.keys(), channels)
        receipts, data, touched, prepaid = [], [], {}, Counter[int]()
        for entry in entries:
            number, row = self._rows[entry.key]
            if not apply(row, entry):
                continue
            touched[entry.key] = (number, row)
            if entry.receipt is not None:
                last += 1
                if entry.prepaid:
                    prepaid[number] += entry.receipt.price
                receipts.append(_receipt_row(last, number, entry, entry.receipt))
                if entry.data is not None:
                    data.append((last, entry.data))
        self._insert(_CHANNEL, 10, [_channel_row(number, row) for number, row in touched.values()], _KEEP)
        self._insert(_RECEIPT, 12, receipts)
        for pair in data:
            self._db.execute("INSERT INTO receipt_data VALUES (?, ?)", pair)
        for number, more in prepaid.items():
            self._add_prepaid(number, more)

    def _add_prepaid(self, channel: int, more: int) -> None:
        ((before,),) = self._db.execute("SELECT prepaid FROM channels WHERE id = ?", (channel,))
        after = to_blob(min(from_blob(before) + more, UINT128_MAX))
        self._db.execute("UPDATE channels SET prepaid = ? WHERE id = ?", (after, channel))

    def _read_rows(self, keys: Iterable[ChannelKey], last: int) -> None:
        """Row ids and states of channels; ids of their own for new ones."""
        query = f"SELECT id, {CHANNEL} FROM channels WHERE version_id = ? AND consumer = ?"  # noqa: S608
        for key in keys:
            found = self._db.execute(query, (key.version_id, key.consumer)).fetchone()
            if found is None:
                last += 1
                self._rows[key] = last, Row(key, 0, 0, 0, None)
            else:
                self._rows[key] = found[0], Row.of(channel_state(found[1:]))

    def _insert(self, statement: str, columns: int, rows: Sequence[Sequence[Any]], after: str = "") -> None:
        left, place = iter(rows), "(" + ", ".join("?" * columns) + ")"
        count = len(rows)
        for size in _SIZES:
            sql = statement + ", ".join([place] * size) + after
            while count >= size:
                self._db.execute(sql, list(chain.from_iterable(islice(left, size))))
                count -= size


class LocalTables:
    """`Tables` that are filled in this process."""

    def __init__(self, importer: Importer) -> None:
        self._importer = importer

    def open(self, is_hurried: Callable[[], bool]) -> None:
        """They are."""
        del is_hurried

    def take(self, payload: bytes, mark: Mark, *, hurried: bool, synced: bool) -> None:
        """Raises sqlite3.Error, FatalError."""
        del hurried
        entries = list(decode(payload))
        while True:
            try:
                self._importer.write(entries, mark, synced=synced)
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    raise

    def close(self) -> None:
        """The connection is the importer's owner's."""


def apply(row: Row, entry: Entry) -> bool:
    """What an entry makes of its channel; False if the channel has it already.

    Raises FatalError if one before it is missing: then tables and journal do not belong together.
    """
    receipt = entry.receipt
    if receipt is not None:
        if receipt.sequence <= row.sequence:
            return False
        if receipt.sequence != row.sequence + 1:
            raise FatalError(
                f"the receipts journal goes on with sequence {receipt.sequence} of channel "
                f"0x{entry.key.version_id.hex()} / {entry.key.consumer}, the log ends at {row.sequence}: one "
                "of the two is not this node's newest; bring back both as they were last"
            )
        row.sequence = receipt.sequence
        row.unpaid += entry.payment is None or entry.prepaid
        if not entry.prepaid:
            row.charged = min(row.charged + receipt.price, UINT128_MAX)
    if entry.voucher is not None:
        row.hold(entry.voucher)
    return True


def _receipt_row(number: int, channel: int, entry: Entry, receipt: IssuedReceipt) -> tuple[Any, ...]:
    return (
        number,
        channel,
        receipt.sequence,
        entry.key.version_id,
        receipt.digest,
        receipt.input_hash,
        receipt.output_hash,
        to_blob(receipt.price),
        receipt.executed_at,
        receipt.signature,
        entry.payment,
        entry.public,
    )


def _channel_row(number: int, row: Row) -> tuple[Any, ...]:
    held = row.voucher
    return (
        number,
        row.key.version_id,
        row.key.consumer,
        row.sequence,
        row.unpaid,
        to_blob(row.charged),
        to_blob(held.amount if held else 0),
        held.count if held else 0,
        held.signature if held else None,
        bool(held and held.wallet),
    )
