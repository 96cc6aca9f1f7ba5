"""Durable memory of a sender: every transaction is on disk before it leaves the process.

An *intent* is one call that must happen once; it holds a nonce. An *attempt* is a signed transaction for it:
the first, or a replacement with higher fees on the same nonce. Which of them got mined only the chain knows.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Protocol

from assay.chain.transactions import Fees
from assay.chain.values import Call, parse_tx_receipt
from assay.disk import START_AGAIN, room_for, room_in, sync_path
from assay.errors import ConfigurationError, FatalError
from assay.types import Address, Hash32

SCHEMA = """
CREATE TABLE IF NOT EXISTS chains (chain_id INTEGER PRIMARY KEY, genesis BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS intents (
    id INTEGER PRIMARY KEY,
    chain_id INTEGER NOT NULL,
    sender TEXT NOT NULL,
    key TEXT NOT NULL,
    nonce INTEGER NOT NULL,
    to_address TEXT,
    data BLOB NOT NULL,
    value TEXT NOT NULL,
    gas INTEGER NOT NULL,
    label TEXT NOT NULL,
    state TEXT NOT NULL,
    receipt TEXT,
    created_at REAL NOT NULL,
    UNIQUE (chain_id, sender, key),
    UNIQUE (chain_id, sender, nonce)
);
CREATE TABLE IF NOT EXISTS attempts (
    hash BLOB PRIMARY KEY,
    intent_id INTEGER NOT NULL REFERENCES intents (id),
    raw BLOB NOT NULL,
    max_fee TEXT NOT NULL,
    priority_fee TEXT,
    created_at REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS attempts_by_intent ON attempts (intent_id);
CREATE INDEX IF NOT EXISTS intents_by_state ON intents (chain_id, sender, state);
"""

RECENT: Final = 1_000
"""Transactions: many more than the blocks that a reorg may take back."""


class IntentState(StrEnum):
    PENDING = "pending"
    MINED = "mined"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One signed transaction; `created_at` in Unix seconds."""

    hash: Hash32
    raw: bytes
    fees: Fees
    created_at: float


@dataclass(frozen=True, slots=True)
class Intent:
    """A call that was given a nonce, with its attempts from oldest to newest."""

    id: int
    key: str
    nonce: int
    call: Call
    gas: int
    state: IntentState
    attempts: tuple[Attempt, ...]
    receipt: dict[str, Any] | None = None
    """The chain's receipt when it was recorded as mined, as JSON-RPC gave it."""

    @property
    def newest(self) -> Attempt:
        return self.attempts[-1]


class Cursor(Protocol):
    @property
    def rowcount(self) -> int: ...

    def fetchone(self) -> Any: ...

    def fetchall(self) -> list[Any]: ...


class Store(Protocol):
    """What an outbox needs of a connection to its database; parameters are `?`."""

    def execute(self, sql: str, parameters: Sequence[object] = ..., /) -> Cursor: ...

    def close(self) -> None: ...


class Outbox:
    """A SQLite file (WAL, synchronous FULL) that may serve several keys and chains. Thread-safe. What writes
    raises DiskFullError where there is no room; then nothing has changed."""

    _attempts_in_order = "rowid"

    def __init__(self, path: Path | str) -> None:
        path = Path(path)
        self.path: Path | str = path
        self._lock = threading.RLock()
        self._db: Store = self._open(path)

    @staticmethod
    def _open(path: Path) -> Store:
        with room_in(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with room_for(path, START_AGAIN):
                connection = sqlite3.connect(path, timeout=30, check_same_thread=False, isolation_level=None)
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("PRAGMA synchronous=FULL")
                connection.executescript(SCHEMA)
                sync_path(path.parent)  # a process that made the files may have been killed before it did
        except sqlite3.DatabaseError as error:
            raise ConfigurationError(f"outbox {path} cannot be opened ({error}); is it damaged?") from error
        return connection

    def __enter__(self) -> Outbox:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        self._db.close()

    def bind_chain(self, chain_id: int, genesis: Hash32) -> None:
        """Remember the first block; raises `FatalError` if this outbox served another chain of that id."""
        with self._transaction() as db:
            db.execute(
                "INSERT INTO chains VALUES (?, ?) ON CONFLICT (chain_id) DO NOTHING", (chain_id, genesis)
            )
            (known,) = db.execute("SELECT genesis FROM chains WHERE chain_id = ?", (chain_id,)).fetchone()
        if known != genesis:
            raise FatalError(
                f"outbox {self.path} belongs to another chain {chain_id}: its first block was "
                f"0x{known.hex()[:12]}…, now it is 0x{genesis.hex()[:12]}…; move the file away"
            )

    def add(self, chain_id: int, sender: Address, intent: Intent) -> Intent:
        """Store a new intent with its first attempt, in one durable commit."""
        call = intent.call
        with self._transaction() as db:
            (number,) = db.execute(
                "INSERT INTO intents (chain_id, sender, key, nonce, to_address, data, value, gas, label, "
                "state, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id",
                (
                    *(chain_id, sender, intent.key, intent.nonce, call.to, call.data, str(call.value)),
                    *(intent.gas, call.label, intent.state, time.time()),
                ),
            ).fetchone()
            self._insert_attempt(db, number, intent.newest)
        return self.get(number)

    def add_attempt(self, intent_id: int, attempt: Attempt, nonce: int | None = None) -> Intent:
        """Store a replacement; with `nonce`, the intent also moves to that nonce."""
        with self._transaction() as db:
            self._insert_attempt(db, intent_id, attempt)
            if nonce is not None:
                db.execute("UPDATE intents SET nonce = ? WHERE id = ?", (nonce, intent_id))
        return self.get(intent_id)

    def record_mined(self, intent_id: int, receipt: dict[str, Any]) -> None:
        with self._transaction() as db:
            db.execute(
                "UPDATE intents SET state = ?, receipt = ? WHERE id = ?",
                (IntentState.MINED, json.dumps(receipt), intent_id),
            )

    def get(self, intent_id: int) -> Intent:
        (intent,) = self._select("id = ?", (intent_id,))
        return intent

    def find(self, chain_id: int, sender: Address, key: str) -> Intent | None:
        """The intent of an idempotency key."""
        found = self._select("chain_id = ? AND sender = ? AND key = ?", (chain_id, sender, key))
        return found[0] if found else None

    def newest(self, chain_id: int, sender: Address, prefix: str = "") -> Iterator[Intent]:
        """The last `RECENT` whose idempotency key begins with `prefix`, highest nonce first, each read when
        it is asked for: one with its receipt may take a megabyte of memory."""
        with self._lock:
            rows = self._db.execute(
                "SELECT id FROM intents WHERE chain_id = ? AND sender = ? AND key LIKE ?"
                " ORDER BY nonce DESC LIMIT ?",
                (chain_id, sender, prefix + "%", RECENT),
            ).fetchall()
        for (number,) in rows:
            yield self.get(number)

    def pending(self, chain_id: int, sender: Address) -> list[Intent]:
        """Unresolved intents, lowest nonce first."""
        where = "chain_id = ? AND sender = ? AND state = ?"
        return self._select(where, (chain_id, sender, IntentState.PENDING))

    def reopen_from(self, chain_id: int, sender: Address, nonce: int) -> int:
        """A reorg took the account's counter back to `nonce`: what was mined from there on is pending."""
        with self._transaction() as db:
            cursor = db.execute(
                "UPDATE intents SET state = ? WHERE chain_id = ? AND sender = ? AND nonce >= ? AND state = ?",
                (IntentState.PENDING, chain_id, sender, nonce, IntentState.MINED),
            )
            return cursor.rowcount

    def next_nonce(self, chain_id: int, sender: Address) -> int:
        """One above the highest nonce given out, 0 if none was."""
        with self._lock:
            row = self._db.execute(
                "SELECT MAX(nonce) FROM intents WHERE chain_id = ? AND sender = ?", (chain_id, sender)
            ).fetchone()
        return 0 if row[0] is None else int(row[0]) + 1

    def gas_spent(self, chain_id: int, sender: Address) -> list[int]:
        """The wei that each mined transaction of the key cost, reverted ones too, by nonce."""
        mined = self._select(
            "chain_id = ? AND sender = ? AND state = ?", (chain_id, sender, IntentState.MINED)
        )
        receipts = [parse_tx_receipt(intent.receipt) for intent in mined if intent.receipt is not None]
        return [receipt.gas_used * receipt.effective_gas_price for receipt in receipts]

    @contextlib.contextmanager
    def sender_lock(self, chain_id: int, sender: Address) -> Iterator[None]:
        """Held by the one process that sends with this key; the kernel drops it when the process ends."""
        path = Path(f"{self.path}.{chain_id}-{sender}.lock")
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(handle, 32, 0).decode(errors="replace").strip() or "unknown"
                raise ConfigurationError(
                    f"process {holder} already sends with {sender} from {self.path}; "
                    "stop it, or use another account"
                ) from None
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
            yield
        finally:
            os.close(handle)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Store]:
        with self._lock, room_for(Path(self.path)):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.OperationalError):  # SQLite has ended it, for lack of room
                    self._db.execute("ROLLBACK")
                raise

    def _select(self, where: str, parameters: tuple[object, ...]) -> list[Intent]:
        columns = "id, key, nonce, to_address, data, value, gas, label, state, receipt"
        query = f"SELECT {columns} FROM intents WHERE {where} ORDER BY nonce"  # noqa: S608 - constant text
        with self._lock:
            rows = self._db.execute(query, parameters).fetchall()
            return [self._intent(row) for row in rows]

    def _intent(self, row: tuple[Any, ...]) -> Intent:
        number, key, nonce, to, data, value, gas, label, state, receipt = row
        attempts = self._db.execute(
            "SELECT hash, raw, max_fee, priority_fee, created_at FROM attempts WHERE intent_id = ? "  # noqa: S608
            f"ORDER BY {self._attempts_in_order}",
            (number,),
        ).fetchall()
        return Intent(
            id=number,
            key=key,
            nonce=nonce,
            call=Call(None if to is None else Address(to), data, label, int(value)),
            gas=gas,
            state=IntentState(state),
            attempts=tuple(
                Attempt(Hash32(h), raw, Fees(int(fee), None if tip is None else int(tip)), created)
                for h, raw, fee, tip, created in attempts
            ),
            receipt=None if receipt is None else json.loads(receipt),
        )

    @staticmethod
    def _insert_attempt(db: Store, intent_id: int, attempt: Attempt) -> None:
        tip = attempt.fees.priority_fee
        db.execute(
            "INSERT INTO attempts (hash, intent_id, raw, max_fee, priority_fee, created_at) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (
                *(attempt.hash, intent_id, attempt.raw, str(attempt.fees.max_fee)),
                *(None if tip is None else str(tip), attempt.created_at),
            ),
        )
