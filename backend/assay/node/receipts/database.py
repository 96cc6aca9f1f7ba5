"""Where the receipts log is: one small interface over SQLite and PostgreSQL.

SQL is written once, in what both understand: `?` for parameters, `x'…'` for bytes, `ON CONFLICT`,
`RETURNING`, `IS DISTINCT FROM`; amounts are 16-byte big-endian blobs, flags 0 or 1. Row ids rise in SQLite
with every commit. In PostgreSQL several processes are given them before their commits: a row of a lower id
may appear later.

Errors of either driver become this project's: `IntegrityError`; `RetryableError` where the database is busy,
another transaction was in the way, or the connection was lost (the next call opens a new one); `FatalError`
for a full disk, a damaged file, or SQL that the schema does not know.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final, Protocol

from assay.errors import AssayError, FatalError, RetryableError

BUSY_SECONDS: Final = 30
CHECKPOINT_PAGES: Final = 8192
"""Of 4 KiB in SQLite's write-ahead log before they go into its file, each once however often it changed.
Under load its own 1,000 would have both synced several times a second."""

Row = tuple[Any, ...]
Parameters = Sequence[object]


class IntegrityError(AssayError):
    """A constraint of the schema refused a row; the transaction was rolled back."""


class Cursor(Protocol):
    """What a statement answered."""

    @property
    def rowcount(self) -> int: ...

    def fetchone(self) -> Row | None: ...

    def fetchall(self) -> list[Row]: ...

    def __iter__(self) -> Iterator[Row]: ...


class Connection(Protocol):
    """Every statement outside `transaction` is a transaction of its own, durable when it returns. One thread
    at a time."""

    def execute(self, sql: str, parameters: Parameters = ()) -> Cursor: ...

    def executemany(self, sql: str, rows: Iterable[Parameters]) -> None:
        """All rows in one transaction."""
        ...

    def stream(self, sql: str, parameters: Parameters = ()) -> AbstractContextManager[Iterator[Row]]:
        """Rows as they are asked for, in bounded memory, however many they are."""
        ...

    def transaction(self, *, snapshot: bool = False) -> AbstractContextManager[None]:
        """All or nothing. With `snapshot` every statement sees the log as the first one saw it, and writing
        to a row that another process changed meanwhile is a RetryableError; SQLite has but one writer, so
        there it is always so."""
        ...

    def define(self, statements: str) -> None:
        """Run statements of a schema, written for SQLite."""
        ...

    def lock_schema(self) -> None:
        """Within a transaction: no other process changes the schema until it ends."""
        ...

    def has_table(self, name: str) -> bool: ...

    def close(self) -> None: ...


class Database(Protocol):
    """Opens connections; may be used by any thread."""

    @property
    def name(self) -> str:
        """For messages: without secrets."""
        ...

    @property
    def is_shared(self) -> bool:
        """Whether several processes write to it."""
        ...

    def exists(self) -> bool:
        """Whether there may be a log to read; opening one would make it."""
        ...

    def connect(self) -> Connection:
        """One of the caller's own, to be closed. Raises RetryableError, FatalError."""
        ...

    def session(self) -> AbstractContextManager[Connection]:
        """One for a few reads."""
        ...

    def close(self) -> None:
        """End what `session` keeps open. It may be used again."""
        ...


class SqliteDatabase:
    """A file in WAL mode, synchronous=FULL: a commit that returned is on disk."""

    is_shared: Final = False

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def name(self) -> str:
        return str(self.path)

    def exists(self) -> bool:
        return self.path.exists()

    def open_file(self) -> sqlite3.Connection:
        """The driver's own connection, in autocommit mode, for the path that every receipt takes."""
        connection = sqlite3.connect(
            self.path, isolation_level=None, timeout=BUSY_SECONDS, check_same_thread=False
        )
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        connection.execute("PRAGMA foreign_keys = ON")
        return connection

    def connect(self) -> SqliteConnection:
        with translated(self.name):
            return SqliteConnection(self.open_file(), self.name)

    @contextlib.contextmanager
    def session(self) -> Iterator[SqliteConnection]:
        with contextlib.closing(self.connect()) as connection:
            yield connection

    def close(self) -> None:
        """Nothing is kept open."""


class SqliteConnection:
    """`Connection` on SQLite."""

    def __init__(self, connection: sqlite3.Connection, name: str) -> None:
        self._db = connection
        self._name = name

    def execute(self, sql: str, parameters: Parameters = ()) -> Cursor:
        try:
            return self._db.execute(sql, parameters)
        except sqlite3.Error as error:
            raise _as_ours(error, self._name) from error

    def executemany(self, sql: str, rows: Iterable[Parameters]) -> None:
        with translated(self._name):
            if self._db.in_transaction:
                self._db.executemany(sql, rows)
                return
            with self.transaction():
                self._db.executemany(sql, rows)

    @contextlib.contextmanager
    def stream(self, sql: str, parameters: Parameters = ()) -> Iterator[Iterator[Row]]:
        with translated(self._name), contextlib.closing(self._db.execute(sql, parameters)) as cursor:
            yield cursor

    @contextlib.contextmanager
    def transaction(self, *, snapshot: bool = False) -> Iterator[None]:
        del snapshot  # there is one writer
        with translated(self._name):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def define(self, statements: str) -> None:
        for statement in statements_of(statements):
            self.execute(statement)

    def lock_schema(self) -> None:
        """`transaction` took the only write lock already."""

    def has_table(self, name: str) -> bool:
        return self.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (name,)).fetchone() is not None

    def close(self) -> None:
        self._db.close()


def statements_of(script: str) -> Iterator[str]:
    """The statements of a script in which each ends with `;` at a line's end, comments after it included."""
    lines = []
    for line in script.splitlines():
        lines.append(line)
        if line.partition("--")[0].rstrip().endswith(";"):
            yield "\n".join(lines)
            lines = []
    if any(line.strip() for line in lines):
        yield "\n".join(lines)


@contextlib.contextmanager
def translated(name: str) -> Iterator[None]:
    """The driver's errors inside become this project's, about the log of that name."""
    try:
        yield
    except sqlite3.Error as error:
        raise _as_ours(error, name) from error


def _as_ours(error: sqlite3.Error, name: str) -> AssayError:
    if isinstance(error, sqlite3.IntegrityError):
        return IntegrityError(f"{name}: {error}")
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return RetryableError(f"{name} is busy: {error}")
    if isinstance(error, sqlite3.OperationalError):
        return FatalError(f"{name}: {error}; check free space and permissions")
    return FatalError(f"{name}: {error}; if it is damaged, bring back a whole copy of it")
