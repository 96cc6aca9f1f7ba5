"""The receipts log in PostgreSQL (14 or later), where several processes of one node share it: `Database` by
psycopg 3.

A connection that was lost is opened again by the next statement outside a transaction; a transaction that was
under way is over, and says so with a RetryableError. The server must keep what it acknowledges: with
`fsync` off, or as a hot standby, it is refused.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus

from assay.errors import AssayError, ConfigurationError, FatalError, RetryableError
from assay.node.receipts.database import Cursor, IntegrityError, Parameters, Row, statements_of
from assay.node.receipts.dialect import adapt, lock_key, translate, translate_schema

CONNECT_SECONDS: Final = 5
IDLE_SESSIONS: Final = 4
MAX_SESSIONS: Final = 8
SESSION_WAIT_SECONDS: Final = 10.0
STREAMED_ROWS: Final = 2_000
SETTINGS: Final = {
    "lock_timeout": "20s",
    "statement_timeout": "600s",
    "idle_in_transaction_session_timeout": "60s",
}
"""A process that hangs must not hold rows for long; the longest statement takes a batch of a million
receipts."""
SERVER_KEEPALIVE: Final = {
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
}
"""The server ends what a machine that is gone has held: its rows and locks."""
KEEPALIVE: Final = {
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
_NOT_DURABLE: Final = ("off", "local", "remote_write")
_PASSING: Final = ("25006", "25P03", "25P04")
"""Read-only for now; a transaction that went on for too long, as that of a process that was stopped for a
while does: the server has ended its session."""
_REFUSED: Final = ("authentication failed", "does not exist", "no pg_hba.conf entry", "no password supplied")

Raw = psycopg.Connection[Row]


class PostgresDatabase:
    """`url` as libpq reads it, without a password: that comes from `password_file`, PGPASSFILE or
    ~/.pgpass."""

    is_shared: Final = True

    def __init__(self, url: str, password_file: Path | None = None) -> None:
        """Raises ConfigurationError."""
        try:
            given = conninfo_to_dict(url)
        except psycopg.ProgrammingError as error:
            raise ConfigurationError(f"[log] url is no PostgreSQL URL: {error}; correct it") from None
        if given.pop("password", None):
            raise ConfigurationError(
                "[log] url has a password in it; put it into a file that only this user can read, name that "
                "as "
                "password_file in [log] (or in PGPASSFILE), and take it out of the url"
            )
        options: dict[str, Any] = {"connect_timeout": CONNECT_SECONDS, "application_name": "assay-node"}
        options |= {"target_session_attrs": "read-write"} | KEEPALIVE | given
        self._conninfo = make_conninfo(**options)
        logging.getLogger("psycopg").setLevel(logging.ERROR)  # what it warns of is raised as well
        self._password_file = password_file
        host, port = given.get("host") or given.get("hostaddr") or "local", given.get("port") or "5432"
        self.name = f"postgresql://{host}:{port}/{given.get('dbname') or given.get('user') or ''}"
        self._idle: queue.LifoQueue[PostgresConnection] = queue.LifoQueue(IDLE_SESSIONS)
        self._places = threading.BoundedSemaphore(MAX_SESSIONS)

    def exists(self) -> bool:
        """Whether the node has made its log there. Raises RetryableError, ConfigurationError."""
        with self.session() as connection:
            return connection.has_table("meta")

    def connect(self) -> PostgresConnection:
        connection = PostgresConnection(self.open_raw, self.name)
        connection.ensure_open()
        return connection

    def close(self) -> None:
        """End the connections that wait for the next `session`."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._idle.get_nowait().close()

    @contextlib.contextmanager
    def session(self) -> Iterator[PostgresConnection]:
        """One of a few that are kept open. Raises RetryableError if all are in use for long."""
        if not self._places.acquire(timeout=SESSION_WAIT_SECONDS):
            raise RetryableError(
                f"{self.name}: all {MAX_SESSIONS} connections for reading are in use; try again"
            )
        try:
            try:
                connection = self._idle.get_nowait()
            except queue.Empty:
                connection = self.connect()
            try:
                yield connection
            except BaseException:
                connection.close()
                raise
            try:
                self._idle.put_nowait(connection)
            except queue.Full:
                connection.close()
        finally:
            self._places.release()

    def open_raw(self) -> Raw:
        """psycopg's own connection, in autocommit mode. Raises RetryableError, ConfigurationError,
        FatalError."""
        password = None if self._password_file is None else self._read_password(self._password_file)
        try:
            raw: Raw = psycopg.connect(
                self._conninfo, password=password, autocommit=True, cursor_factory=psycopg.RawCursor
            )
        except psycopg.OperationalError as error:
            text = " ".join(str(error).split())
            if any(part in text for part in _REFUSED):
                raise ConfigurationError(
                    f"{self.name} lets this node not in: {text}; correct [log] in node.toml, or the "
                    "server's roles"
                ) from None
            raise RetryableError(f"{self.name} cannot be reached: {text}") from None
        try:
            adapt(raw)
            self._check(raw)
        except BaseException:
            raw.close()
            raise
        return raw

    def _check(self, raw: Raw) -> None:
        try:
            for name, value in (SETTINGS | SERVER_KEEPALIVE).items():
                raw.execute("SELECT set_config($1, $2, false)", (name, value))
            row = raw.execute(
                "SELECT current_setting('fsync'), current_setting('synchronous_commit'), pg_is_in_recovery()"
            ).fetchone()
            assert row is not None
            fsync, commit, standby = row
            if commit in _NOT_DURABLE:
                raw.execute("SET synchronous_commit = on")
        except psycopg.Error as error:
            raise as_ours(error, self.name) from error
        if standby:
            raise RetryableError(f"{self.name} is a standby; it will do once it is promoted")
        if fsync != "on":
            raise FatalError(
                f"{self.name} runs with fsync = {fsync}: it forgets receipts when its machine fails, and a "
                "sequence "
                "that is given twice is slashed; set fsync = on in postgresql.conf"
            )

    def _read_password(self, path: Path) -> str:
        try:
            return path.read_text().rstrip("\r\n")
        except OSError as error:
            raise ConfigurationError(
                f"password_file {path} in [log] cannot be read: {error.strerror}; correct it in node.toml"
            ) from None


class PostgresConnection:
    """`Connection` on PostgreSQL. One thread at a time."""

    def __init__(self, opener: Callable[[], Raw], name: str) -> None:
        self._opener = opener
        self._name = name
        self._raw: Raw | None = None
        self._in_transaction = False

    def ensure_open(self) -> Raw:
        """The driver's connection, opened again if it was lost outside a transaction."""
        if self._raw is not None and self._raw.closed:
            self._raw = None
        if self._raw is None:
            if self._in_transaction:
                raise RetryableError(f"{self._name}: the connection was lost within a transaction")
            self._raw = self._opener()
        return self._raw

    def execute(self, sql: str, parameters: Parameters = ()) -> Cursor:
        try:
            return self._execute(sql, parameters)
        except RetryableError:
            if self._in_transaction or self._raw is not None or not sql.startswith("SELECT"):
                raise
        return self._execute(sql, parameters)  # the connection was lost since it was last used

    def _execute(self, sql: str, parameters: Parameters) -> Cursor:
        raw = self.ensure_open()
        try:
            return raw.execute(translate(sql), parameters)
        except psycopg.Error as error:
            raise self._failed(error) from error

    def executemany(self, sql: str, rows: Iterable[Parameters]) -> None:
        with contextlib.nullcontext() if self._in_transaction else self.transaction():
            raw = self.ensure_open()
            try:
                with raw.cursor() as cursor:
                    cursor.executemany(translate(sql), rows)
            except psycopg.Error as error:
                raise self._failed(error) from error

    @contextlib.contextmanager
    def stream(self, sql: str, parameters: Parameters = ()) -> Iterator[Iterator[Row]]:
        with contextlib.nullcontext() if self._in_transaction else self.transaction():
            raw = self.ensure_open()
            try:
                with psycopg.RawServerCursor(raw, "rows") as cursor:
                    cursor.itersize = STREAMED_ROWS
                    cursor.execute(translate(sql), parameters)
                    yield iter(cursor)
            except psycopg.Error as error:
                raise self._failed(error) from error

    @contextlib.contextmanager
    def transaction(self, *, snapshot: bool = False) -> Iterator[None]:
        self.execute("BEGIN ISOLATION LEVEL " + ("REPEATABLE READ" if snapshot else "READ COMMITTED"))
        self._in_transaction = True
        try:
            yield
            if not self._commits():
                raise RetryableError(f"{self._name}: the transaction was rolled back")
        except BaseException:
            self._roll_back()
            raise
        finally:
            self._in_transaction = False

    def _commits(self) -> bool:
        raw = self.ensure_open()
        try:
            return raw.execute("COMMIT").statusmessage == "COMMIT"
        except psycopg.Error as error:
            raise self._failed(error) from error

    def _roll_back(self) -> None:
        raw = self._raw
        if raw is None or raw.closed or raw.info.transaction_status == TransactionStatus.IDLE:
            return
        try:
            raw.execute("ROLLBACK")
        except psycopg.Error:
            self.close()

    def define(self, statements: str) -> None:
        for statement in statements_of(translate_schema(statements)):
            self.execute(statement)

    def lock_schema(self) -> None:
        self.execute("SELECT pg_advisory_xact_lock(?)", (lock_key("schema"),))

    def has_table(self, name: str) -> bool:
        row = self.execute("SELECT to_regclass(?) IS NOT NULL", (name,)).fetchone()
        return row is not None and bool(row[0])

    def close(self) -> None:
        if self._raw is not None:
            self._raw.close()
            self._raw = None

    def _failed(self, error: psycopg.Error) -> AssayError:
        if self._raw is not None and (self._raw.closed or isinstance(error, errors.ReadOnlySqlTransaction)):
            self.close()
        return as_ours(error, self._name)


def as_ours(error: psycopg.Error, name: str) -> AssayError:
    """What the driver's error means to a node."""
    text = f"{name}: {' '.join(str(error).split())}"
    if isinstance(error, psycopg.IntegrityError):
        return IntegrityError(text)
    if isinstance(error, errors.DiskFull):
        return FatalError(f"{text}; make room on its disk")
    if isinstance(error, psycopg.OperationalError) or error.sqlstate in _PASSING:
        return RetryableError(text)
    return FatalError(text)
