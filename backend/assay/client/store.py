"""A consumer's durable memory: channels, receipts, automatic deposits (SQLite), and one lock a channel
(files).

Several processes may share one folder: a channel is read and written only under its lock, and every write is
on disk (`synchronous=FULL`) before the call returns.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay.client.channels import ChannelState, Pending
from assay.client.open_payment import OpenPayment
from assay.errors import FatalError, RetryableError
from assay.types import Address, Domain, Hash32

SCHEMA = """
CREATE TABLE IF NOT EXISTS channels (
    key TEXT PRIMARY KEY, chain_id INTEGER NOT NULL, settlement TEXT NOT NULL,
    consumer TEXT NOT NULL, node TEXT NOT NULL, version_id BLOB NOT NULL,
    charged TEXT NOT NULL, signed TEXT NOT NULL, count INTEGER NOT NULL, acknowledged INTEGER NOT NULL,
    sequence INTEGER NOT NULL, pending TEXT, released TEXT NOT NULL DEFAULT '[]');
CREATE TABLE IF NOT EXISTS payments (
    payment TEXT PRIMARY KEY, channel TEXT NOT NULL, content TEXT NOT NULL, body BLOB,
    receipt TEXT, statement TEXT);
CREATE UNIQUE INDEX IF NOT EXISTS open_payments ON payments (channel) WHERE receipt IS NULL;
CREATE TABLE IF NOT EXISTS bodies (digest BLOB PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS receipts (
    digest TEXT PRIMARY KEY, file TEXT NOT NULL, stored_at INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS deposits (
    id INTEGER PRIMARY KEY, chain_id INTEGER NOT NULL, consumer TEXT NOT NULL, node TEXT NOT NULL,
    amount TEXT NOT NULL, made_at INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS health (
    node TEXT PRIMARY KEY, latency_ms REAL NOT NULL, failures INTEGER NOT NULL, failed_at INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS copies (
    id INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE, content BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS copies_size (bytes INTEGER NOT NULL);
INSERT INTO copies_size SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM copies_size);
CREATE TABLE IF NOT EXISTS scans (key TEXT PRIMARY KEY, nodes TEXT NOT NULL, next_block INTEGER NOT NULL);
"""
LOCK_POLL_SECONDS = 0.005


@dataclass(frozen=True, slots=True)
class ChannelKey:
    """A channel on one chain and one settlement contract."""

    domain: Domain
    consumer: Address
    node: Address
    version_id: Hash32

    @property
    def text(self) -> str:
        where = f"{self.domain.chain_id}:{self.domain.settlement}"
        return f"{where}:{self.consumer}:{self.node}:{self.version_id.hex()}".lower()


class Store:
    """Opens or creates `folder/client.sqlite3`. Threads may share one store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._locks = folder / "locks"
        if not folder.exists():  # holds inputs, and payments that anybody could present
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._locks.mkdir(exist_ok=True)
        (folder / "evidence").mkdir(exist_ok=True)
        self._guard = threading.Lock()
        try:
            self._db = sqlite3.connect(
                folder / "client.sqlite3", isolation_level=None, check_same_thread=False, timeout=30
            )
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(SCHEMA)
        except sqlite3.DatabaseError as error:
            raise FatalError(
                f"{folder / 'client.sqlite3'} cannot be opened: {error}; restore or move it"
            ) from error

    def close(self) -> None:
        with self._guard:
            self._db.close()

    def lock(self, key: ChannelKey, timeout: float = 120.0) -> AbstractContextManager[None]:
        """Hold the channel alone, across threads and processes.

        Raises RetryableError after `timeout` seconds.
        """
        name = hashlib.sha256(key.text.encode()).hexdigest()[:32]
        return self.exclusive(name, f"the channel to node {key.node}", timeout)

    @contextmanager
    def exclusive(self, name: str, what: str, timeout: float = 120.0) -> Iterator[None]:
        """Hold the lock `name`, across threads and processes.

        Raises RetryableError after `timeout` seconds.
        """
        descriptor = os.open(self._locks / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + timeout
        try:
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise RetryableError(f"{what} is in use by another request; try again") from None
                    time.sleep(LOCK_POLL_SECONDS)
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Raises RetryableError where the disk does not take it."""
        with self._guard:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            except BaseException as error:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                if not isinstance(error, sqlite3.OperationalError):
                    raise
                raise RetryableError(
                    f"{self.folder / 'client.sqlite3'} cannot be written: {error}. Make room, then send the "
                    "same request again: it goes on where it stood"
                ) from error

    def _rows(self, query: str, parameters: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        with self._guard:
            return self._db.execute(query, parameters).fetchall()

    def load(self, key: ChannelKey) -> ChannelState | None:
        """The channel as last saved, or None if it was never used from this folder."""
        rows = self._rows(
            "SELECT charged, signed, count, acknowledged, sequence, pending, released"
            " FROM channels WHERE key = ?",
            (key.text,),
        )
        return self._state(key, rows[0]) if rows else None

    def _state(self, key: ChannelKey, row: tuple[Any, ...]) -> ChannelState:
        charged, signed, count, acknowledged, sequence, pending, released = row
        return ChannelState(
            key.consumer, key.node, key.version_id,
            charged=int(charged), signed=int(signed), count=count, acknowledged=acknowledged,
            sequence=sequence, pending=self._pending(json.loads(pending)) if pending else None,
            released=tuple(self._pending(item) for item in json.loads(released)),
        )  # fmt: skip

    def _pending(self, item: dict[str, Any]) -> Pending:
        body = None
        if item["body"]:
            rows = self._rows("SELECT body FROM bodies WHERE digest = ?", (bytes.fromhex(item["body"]),))
            body = bytes(rows[0][0]) if rows else None
        return Pending(
            int(item["amount"]), item["count"], int(item["price"]), Hash32(bytes.fromhex(item["input_hash"])),
            body, item["json_length"], item["started_at"], item["refused"],
        )  # fmt: skip

    def save(
        self,
        key: ChannelKey,
        state: ChannelState,
        receipt: tuple[str, str] | None = None,
        bought_by: tuple[str, str] | None = None,
    ) -> None:
        """Make the state durable, in one transaction with an accepted receipt `(digest, receipt file's
        JSON)` and the x402 payment that bought it `(payment, what the node states of it)`.
        """
        requests = (*state.released, *((state.pending,) if state.pending else ()))
        old = self.load(key)
        before = (*old.released, *((old.pending,) if old and old.pending else ())) if old else ()
        bodies = {_digest(r.body): r.body for r in requests if r.body is not None}
        with self._transaction() as db:
            db.executemany("INSERT OR IGNORE INTO bodies VALUES (?, ?)", list(bodies.items()))
            gone = {_digest(r.body) for r in before if r.body is not None} - bodies.keys()
            db.executemany("DELETE FROM bodies WHERE digest = ?", [(digest,) for digest in gone])
            db.execute(
                "INSERT OR REPLACE INTO channels VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)",
                (
                    key.text, key.domain.chain_id, key.domain.settlement, key.consumer, key.node,
                    key.version_id, str(state.charged), str(state.signed), state.count, state.acknowledged,
                    state.sequence, json.dumps(_plain(state.pending)) if state.pending else None,
                    json.dumps([_plain(request) for request in state.released]),
                ),
            )  # fmt: skip
            if receipt is not None:
                db.execute("INSERT OR IGNORE INTO receipts VALUES (?, ?, ?)", (*receipt, int(time.time())))
            if receipt is not None and bought_by is not None:
                db.execute(
                    "UPDATE payments SET receipt = ?, statement = ?, body = NULL WHERE payment = ?",
                    (receipt[0], bought_by[1], bought_by[0]),
                )

    # --- payments by x402 ---------------------------------------------------------------------------------

    def open_payment(self, key: ChannelKey) -> OpenPayment | None:
        """The channel's payment that has no receipt yet."""
        rows = self._rows(
            "SELECT content, body FROM payments WHERE channel = ? AND receipt IS NULL", (key.text,)
        )
        return OpenPayment.from_row(*rows[0]) if rows else None

    def keep_payment(self, key: ChannelKey, payment: OpenPayment) -> None:
        """Durable before it is sent; a channel has one open payment at most."""
        content, body = payment.to_row()
        with self._transaction() as db:
            db.execute(
                "INSERT INTO payments (payment, channel, content, body) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (payment) DO UPDATE SET content = excluded.content",
                (payment.text, key.text, content, body),
            )

    def drop_payment(self, payment: OpenPayment) -> None:
        """Forget a payment that will buy nothing."""
        with self._transaction() as db:
            db.execute("DELETE FROM payments WHERE payment = ? AND receipt IS NULL", (payment.text,))

    def payment_of(self, digest: str) -> str | None:
        """What the node states of the x402 payment that bought a receipt (0x hex), as JSON."""
        rows = self._rows("SELECT statement FROM payments WHERE receipt = ?", (digest.lower(),))
        return str(rows[0][0]) if rows else None

    def channels(self, domain: Domain, consumer: Address, node: Address | None = None) -> list[ChannelState]:
        """All channels of a consumer on one settlement contract, optionally with one node."""
        rows = self._rows(
            "SELECT node, version_id, charged, signed, count, acknowledged, sequence, pending, released FROM "
            "channels"
            " WHERE chain_id = ? AND settlement = ? AND consumer = ? AND (? IS NULL OR node = ?) ORDER BY "
            "rowid",
            (domain.chain_id, domain.settlement, consumer, node, node),
        )
        return [
            self._state(ChannelKey(domain, consumer, Address(row[0]), Hash32(bytes(row[1]))), row[2:])
            for row in rows
        ]

    def add_receipt(self, digest: str, file: str) -> None:
        """Keep a receipt that belongs to no channel of ours (an unpaid one)."""
        with self._transaction() as db:
            db.execute("INSERT OR IGNORE INTO receipts VALUES (?, ?, ?)", (digest, file, int(time.time())))

    def receipt(self, digest: str) -> str | None:
        """The receipt file's JSON by its digest (0x hex)."""
        rows = self._rows("SELECT file FROM receipts WHERE digest = ?", (digest.lower(),))
        return str(rows[0][0]) if rows else None

    def receipts(self) -> list[str]:
        """All receipt files, oldest first."""
        return [str(row[0]) for row in self._rows("SELECT file FROM receipts ORDER BY rowid")]

    def keep_copy(self, digest: str, content: bytes, limit: int) -> None:
        """Keep a receipt's tensors for a recheck; the oldest go where all together would pass `limit` bytes.

        One that alone is larger is not kept.
        """
        if len(content) > limit:
            return
        with self._transaction() as db:
            if (
                db.execute(
                    "INSERT OR IGNORE INTO copies (digest, content) VALUES (?, ?)", (digest, content)
                ).rowcount
                < 1
            ):
                return
            (total,) = db.execute("SELECT bytes FROM copies_size").fetchone()
            total += len(content)
            while total > limit:
                oldest, size = db.execute(
                    "SELECT id, length(content) FROM copies ORDER BY id LIMIT 1"
                ).fetchone()
                db.execute("DELETE FROM copies WHERE id = ?", (oldest,))
                total -= size
            db.execute("UPDATE copies_size SET bytes = ?", (total,))

    def copy(self, digest: str) -> bytes | None:
        """What `keep_copy` kept."""
        rows = self._rows("SELECT content FROM copies WHERE digest = ?", (digest.lower(),))
        return bytes(rows[0][0]) if rows else None

    def deposited(self, chain_id: int, consumer: Address) -> int:
        """Sum of automatic deposits begun from this folder, in base units."""
        rows = self._rows(
            "SELECT amount FROM deposits WHERE chain_id = ? AND consumer = ?", (chain_id, consumer)
        )
        return sum(int(row[0]) for row in rows)

    def add_deposit(
        self, chain_id: int, consumer: Address, node: Address, amount: int, *, limit: int
    ) -> bool:
        """Record an automatic deposit before it is sent; False if the sum would pass `limit`."""
        with self._transaction() as db:
            rows = db.execute(
                "SELECT amount FROM deposits WHERE chain_id = ? AND consumer = ?", (chain_id, consumer)
            ).fetchall()
            if sum(int(row[0]) for row in rows) + amount > limit:
                return False
            db.execute(
                "INSERT INTO deposits (chain_id, consumer, node, amount, made_at) VALUES (?,?,?,?,?)",
                (chain_id, consumer, node, str(amount), int(time.time())),
            )
            return True

    def health(self) -> dict[Address, tuple[float, int, int]]:
        """Node → (latency in ms, failures in a row, time of the last failure)."""
        return {
            Address(row[0]): (row[1], row[2], row[3])
            for row in self._rows("SELECT node, latency_ms, failures, failed_at FROM health")
        }

    def save_health(self, rows: dict[Address, tuple[float, int, int]]) -> None:
        with self._transaction() as db:
            db.executemany(
                "INSERT OR REPLACE INTO health VALUES (?,?,?,?)", [(node, *row) for node, row in rows.items()]
            )

    def load_scan(self, domain: Domain, version_id: Hash32) -> tuple[list[Address], int]:
        """Nodes seen to offer a version, and the block from which to look on."""
        rows = self._rows(
            "SELECT nodes, next_block FROM scans WHERE key = ?", (_scan_key(domain, version_id),)
        )
        return (json.loads(rows[0][0]), rows[0][1]) if rows else ([], 0)

    def save_scan(self, domain: Domain, version_id: Hash32, nodes: list[Address], next_block: int) -> None:
        row = (_scan_key(domain, version_id), json.dumps(nodes), next_block)
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO scans VALUES (?,?,?)", row)


def _scan_key(domain: Domain, version_id: Hash32) -> str:
    return f"{domain.chain_id}:{domain.settlement}:{version_id.hex()}"


def _digest(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()


def _plain(request: Pending | None) -> dict[str, Any]:
    assert request is not None
    return {
        "amount": str(request.amount),
        "count": request.count,
        "price": str(request.price),
        "input_hash": request.input_hash.hex(),
        "body": _digest(request.body).hex() if request.body is not None else "",
        "json_length": request.json_length,
        "started_at": request.started_at,
        "refused": request.refused,
    }
