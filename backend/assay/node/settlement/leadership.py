"""Who of a node's processes settles and defends: the one whose PostgreSQL session holds the advisory lock.

Everything that the holder writes (batches, disputes, its outbox) goes through that very session. The server
gives the lock to another process only when the session has ended, and nothing can be written through a
session that has ended: so an earlier holder that does not know yet can neither take a nonce nor close a
batch. It ends, too, once the holder has not looked at it for a while: one that hangs with its connections
alive (a machine that was suspended) would leave disputes unanswered.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Final

import structlog

from assay.errors import RetryableError
from assay.node.receipts.database import Connection, Cursor, Parameters, Row
from assay.node.receipts.dialect import lock_key
from assay.node.receipts.postgresql import PostgresConnection, PostgresDatabase, Raw
from assay.types import Address, Domain

RELEASE_SECONDS: Final = 5.0
HANG_SECONDS: Final = 30
"""A holder looks every second; one that has not for so long loses the lock."""
_HELD: Final = (
    "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted AND pid = pg_backend_pid()"
    " AND objsubid = 1 AND ((classid::bigint << 32) | objid::bigint) = ?"
)

_log = structlog.get_logger(__name__)


class Candidate:
    """Asks for the lock. A standby keeps one connection open."""

    def __init__(self, database: PostgresDatabase, domain: Domain, node: Address) -> None:
        self._database = database
        self._key = lock_key("leader", node, domain.chain_id, domain.settlement)
        self._waiting: Raw | None = None

    def acquire(self) -> Lease | None:
        """None while another process holds the lock. Raises RetryableError, FatalError."""
        raw, self._waiting = self._waiting, None
        if raw is None or raw.closed:
            raw = self._database.open_raw()
        session = PostgresConnection(_once(raw, self._database.name), self._database.name)
        try:
            row = session.execute("SELECT pg_try_advisory_lock(?)", (self._key,)).fetchone()
            if row is not None and row[0]:
                session.execute("SELECT set_config('idle_session_timeout', ?, false)", (f"{HANG_SECONDS}s",))
                return Lease(session, self._database, self._key)
        except BaseException:
            session.close()
            raise
        self._waiting = raw
        return None

    def close(self) -> None:
        if self._waiting is not None:
            self._waiting.close()


class _once:  # noqa: N801 - a function with a memory
    """Gives the one connection, and no other after it."""

    def __init__(self, raw: Raw, name: str) -> None:
        self._raw: Raw | None = raw
        self._name = name

    def __call__(self) -> Raw:
        raw, self._raw = self._raw, None
        if raw is None:
            raise RetryableError(
                f"{self._name}: the session that held the lock has ended; another process settles from now on"
            )
        return raw


class Lease:
    """The lock, as long as its session lives: a `Database` whose connections all are that session.

    Threads take turns: a transaction of one lets the others wait.
    """

    is_shared: Final = True

    def __init__(self, session: PostgresConnection, database: PostgresDatabase, key: int) -> None:
        self._session = session
        self._database = database
        self._key = key
        self._turn = threading.RLock()
        self.name = database.name

    def is_held(self) -> bool:
        """Asks the server. False for ever once the session has ended."""
        try:
            with self._turn:
                return self._session.execute(_HELD, (self._key,)).fetchone() is not None
        except RetryableError as error:
            _log.warning("session with the lock ended", log=self.name, error=str(error))
            return False

    def release(self) -> None:
        """End the session; what uses it is given a little time."""
        is_ours = self._turn.acquire(timeout=RELEASE_SECONDS)
        self._session.close()
        if is_ours:
            self._turn.release()

    def exists(self) -> bool:
        return True

    def connect(self) -> Connection:
        return _Turns(self._session, self._turn)

    @contextlib.contextmanager
    def session(self) -> Iterator[Connection]:
        """Reading needs no lock."""
        with self._database.session() as connection:
            yield connection

    def close(self) -> None:
        """The session goes on: it is the lock."""


class _Turns:
    """The session as one of several users has it."""

    def __init__(self, session: PostgresConnection, turn: AbstractContextManager[bool]) -> None:
        self._session = session
        self._turn = turn

    def execute(self, sql: str, parameters: Parameters = ()) -> Cursor:
        with self._turn:
            return self._session.execute(sql, parameters)

    def executemany(self, sql: str, rows: Iterable[Parameters]) -> None:
        with self._turn:
            self._session.executemany(sql, rows)

    @contextlib.contextmanager
    def stream(self, sql: str, parameters: Parameters = ()) -> Iterator[Iterator[Row]]:
        with self._turn, self._session.stream(sql, parameters) as rows:
            yield rows

    @contextlib.contextmanager
    def transaction(self, *, snapshot: bool = False) -> Iterator[None]:
        with self._turn, self._session.transaction(snapshot=snapshot):
            yield

    def define(self, statements: str) -> None:
        with self._turn:
            self._session.define(statements)

    def lock_schema(self) -> None:
        self._session.lock_schema()

    def has_table(self, name: str) -> bool:
        with self._turn:
            return self._session.has_table(name)

    def close(self) -> None:
        """The session goes on: it is the lock."""
