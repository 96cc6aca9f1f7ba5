"""Group commit into the journal: whatever is issued while one write is under way goes into the next one.

Receipts are numbered and signed in the event loop, by what it knows of each channel. It writes the journal
itself while the disk is fast, for two changes of threads take longer then; else a thread does. `Imports`
takes what is written into the log's tables. Nobody gets a receipt before it is on disk in the journal.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import Final

import structlog

from assay.commitments.identifiers import address_word, keccak
from assay.commitments.receipts import RECEIPT_TYPEHASH, domain_separator
from assay.commitments.signing import SigningKey
from assay.errors import FatalError
from assay.node.errors import Unavailable
from assay.node.observability.counting import Distribution
from assay.node.receipts.database import SqliteDatabase, translated
from assay.node.receipts.entries import Acknowledge, ChannelKey, Issue, IssuedReceipt, LoggedReceipt
from assay.node.receipts.importing import Importer, LocalTables, apply
from assay.node.receipts.imports import IMPORT_ENTRIES, Imports, Tables
from assay.node.receipts.journal import Journal
from assay.node.receipts.journal_entries import Entry, decode, encode
from assay.node.receipts.journal_mark import Mark, write_mark
from assay.node.receipts.log import ReceiptLog
from assay.node.receipts.pending import Pending, Row
from assay.node.receipts.writer import Done

MAX_PENDING_BYTES: Final = 256 << 20
INLINE_SECONDS: Final = 0.0005
"""A write that is expected to take less is made in the event loop."""
_SHARE: Final = 0.2
"""Of the newest write in the average."""

_log = structlog.get_logger(__name__)


class JournalWriter:
    """`put`, `submit`, `start` and `stop` belong to one event loop; the folder to this process.

    A write that fails is fatal: `on_failure` is called once, in the loop, and nothing is issued any more.
    """

    def __init__(
        self,
        log: ReceiptLog,
        journal: Journal,
        key: SigningKey,
        on_failure: Callable[[FatalError], None],
        *,
        clock: Callable[[], float] = time.time,
        groups: Distribution | None = None,
        tables: Tables | None = None,
    ) -> None:
        """Takes into the log what the journal, which `open_journal` found, holds of before; what comes later
        goes into `tables`, by default in this process. Raises FatalError, RetryableError."""
        assert isinstance(log.database, SqliteDatabase)
        self._log = log
        self._journal = journal
        self._key = key
        self._on_failure = on_failure
        self._clock = clock
        self._groups = groups
        self._pending = log.pending = Pending(log.node)
        self._prefix = b"\x19\x01" + domain_separator(log.domain)
        self._node_word = RECEIPT_TYPEHASH + address_word(log.node)
        self._connection = log.database.open_file()
        self._importer = Importer(self._connection)
        tables = tables or LocalTables(self._importer)
        self._imports = Imports(tables, self._tell_imported, self._tell_failed)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._failure: FatalError | None = None
        self._stopped = False
        self._buffer: list[bytes] = []
        self._group: list[tuple[Entry, Done]] = []
        self._is_writing = False
        self._writes: queue.SimpleQueue[tuple[bytes, list[tuple[Entry, Done]]] | None] = queue.SimpleQueue()
        self._write_seconds = 0.0
        """Of a write, on average of late."""
        self._idle: asyncio.Event | None = None
        self._writing = threading.Thread(target=self._run_writes, name="receipts-journal", daemon=True)
        with translated(log.name):
            self._replay()

    @property
    def waiting(self) -> int:
        """Receipts that are not on disk yet."""
        return len(self._group)

    @property
    def pending(self) -> int:
        """Receipts that are on disk in the journal alone."""
        return len(self._pending)

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._idle = asyncio.Event()
        self._idle.set()
        self._writing.start()
        self._imports.start()

    async def stop(self) -> None:
        """Write what is waiting, take all into the log, then end the threads."""
        if self._stopped or self._idle is None:
            return
        self._stopped = True
        await self._idle.wait()
        self._writes.put(None)
        await asyncio.to_thread(self._writing.join)
        await asyncio.to_thread(self._imports.finish)
        if self._failure is None and self._imports.taken == self._journal.number:
            with contextlib.suppress(sqlite3.Error):  # then the next start needs the journal: it is there
                write_mark(self._connection, None)
        self._connection.close()
        self._journal.close()

    def _replay(self) -> None:
        entries: list[Entry] = []
        count = 0
        for frame in self._journal.frames():
            entries += decode(frame.payload)
            if len(entries) >= IMPORT_ENTRIES:
                self._importer.write(entries)
                count, entries = count + len(entries), []
        self._importer.write(entries)
        self._begin()
        if count + len(entries):
            _log.info(
                "receipts journal read again", entries=count + len(entries), folder=str(self._journal.folder)
            )

    def _begin(self) -> None:
        """From here on the log needs the journal: a frame without entries names it, be it new or not."""
        journal = self._journal
        if journal.number:
            write_mark(self._connection, Mark(journal.epoch, journal.number))
        journal.forget(journal.number)
        started = time.perf_counter()
        self._imports.taken = taken = journal.append(b"")
        self._write_seconds = time.perf_counter() - started
        write_mark(self._connection, Mark(journal.epoch, taken))
        journal.forget(taken)

    # In the event loop

    def submit(self, item: Issue | Acknowledge) -> asyncio.Future[LoggedReceipt | None]:
        """Resolves when the item is on disk, with the receipt of an `Issue`. Raises what `put` raises."""
        assert self._loop is not None
        future = self._loop.create_future()

        def done(outcome: LoggedReceipt | Exception | None) -> None:
            if future.cancelled():
                return
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

        self.put(item, done)
        return future

    def put(self, item: Issue | Acknowledge, done: Done) -> None:
        """Number and sign; `done` gets the receipt (None for an `Acknowledge`) when it is on disk.

        Raises FatalError after a failed write or after `stop`, Unavailable `busy` if the log's tables are too
        far behind, sqlite3.IntegrityError if a payment has bought a receipt already.
        """
        if self._failure is not None or self._loop is None or self._stopped:
            raise self._failure or FatalError("the receipts log is closed; the node is stopping")
        if self._pending.size > MAX_PENDING_BYTES:
            self._imports.hurry()
            raise Unavailable("this node's log is behind with its disk; try again", code="busy")
        row = self._row(item.key)
        entry = self._issue(item, row) if isinstance(item, Issue) else Entry(item.key, voucher=item.voucher)
        encoded = encode(entry)  # what cannot be written takes no sequence
        apply(row, entry)
        self._pending.add(entry, row)
        self._buffer.append(encoded)
        self._group.append((entry, done))
        if not self._is_writing:
            self._is_writing = True
            assert self._idle is not None
            self._idle.clear()
            self._loop.call_soon(self._write)

    def _row(self, key: ChannelKey) -> Row:
        row = self._pending.rows.get(key)
        if row is None:
            row = Row.of(self._log.channel(key))
            row.words = self._node_word + address_word(key.consumer) + key.version_id
            self._pending.rows[key] = row
        return row

    def _issue(self, item: Issue, row: Row) -> Entry:
        payment = item.payment
        if payment is not None and (payment in self._pending.by_payment or self._is_used(item, payment, row)):
            raise sqlite3.IntegrityError(f"payment 0x{payment.hex()} has bought a receipt already")
        sequence, executed_at, price = row.sequence + 1, int(self._clock()), item.price
        words = (price << 512 | sequence << 256 | executed_at).to_bytes(96, "big")
        digest = keccak(self._prefix + keccak(row.words + item.input_hash + item.output_hash + words))
        receipt = IssuedReceipt(
            item.input_hash, item.output_hash, digest, price, sequence, executed_at, self._key.sign(digest)
        )
        return Entry(row.key, receipt, item.voucher, payment, item.data, item.public, item.prepaid)

    def _is_used(self, item: Issue, payment: bytes, row: Row) -> bool:
        """By the tables. A voucher above all that the channel ever held cannot have been used."""
        held, voucher = row.voucher, item.voucher
        if not item.prepaid and voucher is not None and (held is None or voucher.amount > held.amount):
            return False
        return self._log.receipt_paid_by(payment) is not None

    def _write_next(self) -> None:
        """Beside what the last group waits for, in a thread; in the event loop after it: groups are taken
        into the log in the journal's order."""
        if self._is_fast:
            assert self._loop is not None
            self._loop.call_soon(self._write)
        else:
            self._write()

    @property
    def _is_fast(self) -> bool:
        return self._write_seconds <= INLINE_SECONDS

    def _write(self) -> None:
        group, self._group = self._group, []
        payload, self._buffer = b"".join(self._buffer), []
        if self._is_fast:
            self._written(group, payload, *self._append(payload))
        else:
            self._writes.put((payload, group))

    def _append(self, payload: bytes) -> tuple[Mark, FatalError | None]:
        """In one thread at a time."""
        started = time.perf_counter()
        try:
            number = self._journal.append(payload)  # maybe into the other segment, which has its own epoch
            mark = Mark(self._journal.epoch, number)
        except Exception as error:
            failure = error if isinstance(error, FatalError) else FatalError(f"receipts journal: {error}")
            return Mark(0, 0), failure
        self._write_seconds += _SHARE * (time.perf_counter() - started - self._write_seconds)
        return mark, None

    def _written(
        self, group: list[tuple[Entry, Done]], payload: bytes, mark: Mark, failure: FatalError | None
    ) -> None:
        if self._group and failure is None:
            self._write_next()
        else:
            self._is_writing = False
        if failure is not None:
            group, self._group, self._buffer = group + self._group, [], []
            self._fail(failure)
        else:
            for entry, _ in group:
                entry.is_durable = True
            self._imports.add(mark, payload, [entry for entry, _ in group])
        node = self._log.node
        for entry, done in group:
            receipt = entry.receipt
            try:
                if failure is not None or receipt is None:
                    done(failure)
                else:
                    done(LoggedReceipt(node, entry.key, receipt, entry.public))
            except Exception as error:  # the others of the group wait, too
                _log.error("a receipt's request failed", exc_info=error)
        if not self._is_writing and not self._group:
            assert self._idle is not None
            self._idle.set()
        if self._groups is not None:
            self._groups.observe(len(group))

    def _imported(self, number: int, entries: list[Entry]) -> None:
        self._pending.remove(entries)
        self._journal.forget(number)

    def _fail(self, failure: FatalError) -> None:
        if self._failure is None:
            self._failure = failure
            _log.error("receipts log failed", log=self._log.name, error=str(failure))
            self._on_failure(failure)

    # In threads

    def _run_writes(self) -> None:
        while (work := self._writes.get()) is not None:
            payload, group = work
            self._tell(self._written, group, payload, *self._append(payload))

    def _tell_imported(self, number: int, entries: list[Entry]) -> None:
        self._tell(self._imported, number, entries)

    def _tell_failed(self, error: Exception) -> None:
        failure = FatalError(f"cannot take receipts into the log {self._log.name}: {error}")
        self._tell(self._fail, failure)

    def _tell(self, function: Callable[..., None], *arguments: object) -> None:
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(function, *arguments)
