"""Engines, transactions and migrations. SQLite runs in WAL mode with explicit transactions; PostgreSQL
through psycopg 3.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from assay.errors import ConfigurationError, RetryableError

SQLITE_BUSY_MS = 30_000
JOURNAL = f"journal_size_limit={64 << 20}"
"""Bytes: what a large transaction leaves behind is given back to the disk."""
READS = "assay_reads"
"""Execution option of transactions that write nothing: on SQLite they wait for no writer."""


def normalize_url(url: str) -> URL:
    """Accepts `sqlite:///path`, `postgresql://…`; raises ConfigurationError for anything else."""
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ConfigurationError(
            "ASSAY_DATABASE_URL is not a URL: use sqlite:///path or postgresql://…"
        ) from error
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername not in ("sqlite", "postgresql+psycopg"):
        raise ConfigurationError(
            f"database {parsed.drivername!r} is not supported: use sqlite:///path or postgresql://…"
        )
    return parsed


def open_engine(url: str, *, read_only: bool = False) -> Engine:
    """An engine whose transactions see one snapshot. `read_only` engines cannot write."""
    parsed = normalize_url(url)
    if parsed.drivername == "sqlite":
        return _open_sqlite(parsed, read_only)
    options = "-c default_transaction_read_only=on" if read_only else ""
    return create_engine(
        parsed,
        pool_pre_ping=True,
        isolation_level="REPEATABLE READ" if read_only else "READ COMMITTED",
        connect_args={"options": options} if options else {},
    )


def _open_sqlite(url: URL, read_only: bool) -> Engine:
    if url.database and url.database != ":memory:":
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, connect_args={"timeout": SQLITE_BUSY_MS / 1000, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # the driver must not start transactions by itself
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", f"busy_timeout={SQLITE_BUSY_MS}", JOURNAL):
            connection.execute(f"PRAGMA {pragma}")
        if read_only:
            connection.execute("PRAGMA query_only=ON")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        reads = read_only or connection.get_execution_options().get(READS)
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    return engine


@contextmanager
def write_transaction(engine: Engine) -> Iterator[Connection]:
    """Everything inside commits together or not at all. Raises RetryableError when the database is busy or
    gone.
    """
    try:
        with engine.begin() as connection:
            yield connection
    except (OperationalError, PoolTimeout) as error:
        raise RetryableError(f"the database did not take a transaction: {_why(error)}") from error


@contextmanager
def read_session(engine: Engine) -> Iterator[Session]:
    """One read transaction: every query inside sees the same state. Raises RetryableError when the database
    is gone.
    """
    reading = engine.execution_options(**{READS: True})
    try:
        with Session(reading, expire_on_commit=False, autoflush=False) as session:
            yield session
    except (OperationalError, PoolTimeout) as error:
        raise RetryableError(f"the database did not answer: {_why(error)}") from error


def _why(error: OperationalError | PoolTimeout) -> object:
    """The pool's reason: all connections are in use."""
    return error.orig if isinstance(error, OperationalError) else error


def upgrade(engine: Engine) -> None:
    """Bring the schema to this version's, creating it if need be (alembic, packaged with `assay.db`)."""
    from alembic import command
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", "assay.db:migrations")
    config.set_main_option("path_separator", "os")
    try:
        with engine.execution_options(**{READS: True}).begin() as connection:  # nobody is waited for
            heads = MigrationContext.configure(connection).get_current_heads()
        if set(heads) == set(ScriptDirectory.from_config(config).get_heads()):
            return
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            if connection.dialect.name == "postgresql":  # two processes starting at once: one migrates
                connection.execute(text("SELECT pg_advisory_xact_lock(4715971)"))
            command.upgrade(config, "head")
    except OperationalError as error:
        where = engine.url.render_as_string(hide_password=True)
        raise ConfigurationError(f"database {where} cannot be opened: {error.orig}") from error


def drop_everything(engine: Engine) -> None:
    """Remove every table of the index, its version mark included."""
    from assay.db.tables import Base

    with write_transaction(engine) as connection:
        Base.metadata.drop_all(connection)
        connection.execute(text("DROP TABLE IF EXISTS alembic_version"))
