"""Both kinds of database behind the one interface: values, transactions, streams, and what errors become."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from enum import StrEnum
from pathlib import Path

import pytest
from assay.errors import ConfigurationError, FatalError, RetryableError
from assay.node.receipts.database import Connection, Database, IntegrityError, SqliteDatabase, statements_of
from assay.node.receipts.postgresql import PostgresDatabase
from assay.node.receipts.schema import SCHEMA_VERSION, TABLES, prepare_database

from tests.backend.unit.node.receipts.test_log import DOMAIN, NODE
from tests.support.postgresql import Cluster, cluster

SCHEMA = """
CREATE TABLE things (
    id INTEGER PRIMARY KEY,                       -- given by the database
    name TEXT NOT NULL UNIQUE,
    size INTEGER,
    raw BLOB NOT NULL DEFAULT (zeroblob(4))
) STRICT;
CREATE INDEX things_by_size ON things (size) WHERE size > 0;
"""


class Kind(StrEnum):
    GREAT = "the great one"


@pytest.fixture
def db(database: Database) -> Iterator[Connection]:
    with closing(database.connect()) as connection:
        connection.define(SCHEMA)
        yield connection


def add(db: Connection, name: str, size: int | None = None) -> int:
    row = db.execute("INSERT INTO things (name, size) VALUES (?, ?) RETURNING id", (name, size)).fetchone()
    assert row is not None
    return int(row[0])


def names(db: Connection) -> list[str]:
    return [row[0] for row in db.execute("SELECT name FROM things ORDER BY id")]


def test_execute__values__come_back_as_they_went(db: Connection) -> None:
    insert = "INSERT INTO things (name, size, raw) VALUES (?, ?, ?)"
    assert db.execute(insert, (Kind.GREAT, True, b"\x00\xff?")).rowcount == 1
    db.execute(insert, ("none", None, b""))
    db.execute(insert, ("large", (1 << 63) - 1, b"\x01" * 70_000))
    rows = db.execute("SELECT name, size, raw FROM things ORDER BY id").fetchall()
    assert rows == [
        ("the great one", 1, b"\x00\xff?"),
        ("none", None, b""),
        ("large", (1 << 63) - 1, b"\x01" * 70_000),
    ]
    assert db.execute("SELECT 1 FROM things WHERE raw > x'00ff40' AND size > ?", (5,)).fetchone() == (1,)
    assert db.execute("SELECT 1 FROM things WHERE size IS DISTINCT FROM ?", (None,)).fetchone() == (1,)


def test_execute__row_ids__rise(db: Connection) -> None:
    assert add(db, "a") < add(db, "b")
    assert db.execute("SELECT raw FROM things").fetchone() == (bytes(4),)


def test_execute__sum_of_integers__is_an_integer(db: Connection) -> None:
    add(db, "a", 1 << 40)
    add(db, "b", 2)
    row = db.execute("SELECT coalesce(sum(size), 0), count(*) FROM things").fetchone()
    assert row == ((1 << 40) + 2, 2)
    assert row is not None
    assert type(row[0]) is int


def test_has_table__before_and_after__tells(db: Connection) -> None:
    assert db.has_table("things")
    assert not db.has_table("others")


def test_execute__constraint_broken__is_an_integrity_error(db: Connection) -> None:
    add(db, "a")
    with pytest.raises(IntegrityError):
        add(db, "a")
    with pytest.raises(IntegrityError):
        db.execute("INSERT INTO things (name) VALUES (?)", (None,))
    add(db, "b")


def test_execute__unknown_table__is_fatal(db: Connection) -> None:
    with pytest.raises(FatalError, match="others"):
        db.execute("SELECT 1 FROM others")


def test_transaction__that_raises__leaves_nothing(db: Connection) -> None:
    with pytest.raises(IntegrityError), db.transaction():
        add(db, "a")
        add(db, "a")
    with pytest.raises(ZeroDivisionError), db.transaction():
        add(db, "a")
        1 / 0  # noqa: B018
    assert names(db) == []
    with db.transaction():
        add(db, "a")
    assert names(db) == ["a"]


def test_executemany__one_row_refused__leaves_nothing(db: Connection) -> None:
    insert = "INSERT INTO things (name) VALUES (?)"
    with pytest.raises(IntegrityError):
        db.executemany(insert, [("a",), ("b",), ("a",)])
    assert names(db) == []
    db.executemany(insert, [("a",), ("b",)])
    db.executemany(insert, [])
    with db.transaction():
        db.executemany(insert, iter([("c",)]))
    assert names(db) == ["a", "b", "c"]


def test_stream__more_rows_than_are_fetched_at_once__gives_them_all(db: Connection) -> None:
    db.executemany("INSERT INTO things (name, size) VALUES (?, ?)", [(str(n), n) for n in range(5_000)])
    with db.stream("SELECT size FROM things WHERE size >= ? ORDER BY size", (10,)) as rows:
        assert next(rows) == (10,)
        assert sum(size for (size,) in rows) == sum(range(11, 5_000))
    with db.transaction(), db.stream("SELECT 1 FROM things") as rows:
        assert len(list(rows)) == 5_000
    add(db, "after")


def test_session__of_a_database_that_exists__reads(database: Database, db: Connection) -> None:
    add(db, "a")
    with database.session() as session:
        assert names(session) == ["a"]
    with database.session() as session:
        assert names(session) == ["a"]


def test_statements_of__script__ends_them_at_their_lines() -> None:
    script = "CREATE TABLE t (a TEXT);  -- first; or so\nCREATE INDEX i\n    ON t (a);\n\n"
    assert list(statements_of(script)) == [
        "CREATE TABLE t (a TEXT);  -- first; or so",
        "CREATE INDEX i\n    ON t (a);",
    ]


def test_sqlite__locked_by_another__is_retryable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assay.node.receipts.database.BUSY_SECONDS", 0.05)
    database = SqliteDatabase(tmp_path / "log.sqlite3")
    with closing(database.connect()) as first, closing(database.connect()) as second:
        first.define(SCHEMA)
        with first.transaction():
            add(first, "a")
            with pytest.raises(RetryableError, match="busy"):
                add(second, "b")


def test_sqlite__file_that_is_none__is_fatal(tmp_path: Path) -> None:
    path = tmp_path / "log.sqlite3"
    path.write_bytes(b"this is not a database, however one looks at it" * 100)
    with pytest.raises(FatalError, match=r"log\.sqlite3"):
        SqliteDatabase(path).connect()


@pytest.mark.network
def test_transaction__of_one_snapshot__refuses_what_another_changed(
    shared_database: PostgresDatabase,
) -> None:
    with closing(shared_database.connect()) as first, closing(shared_database.connect()) as second:
        first.define(SCHEMA)
        add(first, "a", 1)
        with pytest.raises(RetryableError), first.transaction(snapshot=True):
            assert first.execute("SELECT size FROM things").fetchone() == (1,)
            second.execute("UPDATE things SET size = 2")
            assert first.execute("SELECT size FROM things").fetchone() == (1,)
            first.execute("UPDATE things SET size = 3")
        assert first.execute("SELECT size FROM things").fetchone() == (2,)


@pytest.mark.network
def test_connection__lost__is_opened_again_but_not_within_a_transaction(
    shared_database: PostgresDatabase, postgresql: Cluster
) -> None:
    with closing(shared_database.connect()) as db:
        db.define(SCHEMA)
        postgresql.terminate_backends(postgresql.url())
        assert names(db) == []  # a read is repeated
        postgresql.terminate_backends(postgresql.url())
        with pytest.raises(RetryableError):
            add(db, "a")  # a write is not: it may have happened
        add(db, "b")
        with pytest.raises(RetryableError), db.transaction():
            add(db, "c")
            postgresql.terminate_backends(postgresql.url())
            assert names(db)
        assert names(db) == ["b"]


@pytest.mark.network
def test_transaction__error_swallowed_within__commits_nothing_and_says_so(
    shared_database: PostgresDatabase, postgresql: Cluster
) -> None:
    """The server answers such a COMMIT with ROLLBACK; a connection that is gone must not be opened again
    before the transaction has ended."""
    with closing(shared_database.connect()) as db:
        db.define(SCHEMA)
        with pytest.raises(RetryableError, match="rolled back"), db.transaction():
            add(db, "a")
            with contextlib.suppress(IntegrityError):
                add(db, "a")
        with pytest.raises(RetryableError, match="within a transaction"), db.transaction():
            add(db, "b")
            postgresql.terminate_backends(postgresql.url())
            with contextlib.suppress(RetryableError):
                add(db, "c")
            add(db, "d")
        assert names(db) == []


@pytest.mark.network
def test_connect__server_that_would_lose_what_it_confirms__is_refused() -> None:
    with cluster() as server:
        database = PostgresDatabase(server.url() + "?target_session_attrs=any")
        server.run("ALTER SYSTEM SET fsync = off")
        server.run("SELECT pg_reload_conf()")
        until = time.monotonic() + 10
        with pytest.raises(FatalError, match="fsync = off"):
            while time.monotonic() < until:
                database.connect().close()
        server.run("ALTER SYSTEM RESET fsync")
        server.stop()
        (server.folder / "data" / "standby.signal").touch()
        server.start()
        with pytest.raises(RetryableError, match="is a standby"):
            database.connect()


@pytest.mark.network
@pytest.mark.parametrize("age", ["new", "old"])
def test_prepare_database__of_several_processes_at_once__is_done_by_one(
    shared_database: PostgresDatabase, age: str
) -> None:
    if age == "old":
        with closing(shared_database.connect()) as db, db.transaction():
            db.define(TABLES)
            meta = {"schema": 1, "node": NODE, "chain_id": DOMAIN.chain_id, "settlement": DOMAIN.settlement}
            db.executemany("INSERT INTO meta VALUES (?, ?)", [(key, str(meta[key])) for key in meta])
    failures: list[BaseException] = []

    def start() -> None:
        try:
            prepare_database(shared_database, DOMAIN, NODE).close()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=start) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    with shared_database.session() as db:
        assert db.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone() == (str(SCHEMA_VERSION),)


@pytest.mark.network
def test_session__server_was_restarted__goes_on(
    shared_database: PostgresDatabase, postgresql: Cluster
) -> None:
    with shared_database.session() as db:
        db.define(SCHEMA)
        add(db, "a")
    postgresql.crash()
    try:
        with pytest.raises(RetryableError, match="cannot be reached"):
            shared_database.connect()
    finally:
        postgresql.start()
    with shared_database.session() as db:
        assert names(db) == ["a"]


@pytest.mark.network
def test_session__all_in_use__is_retryable(
    shared_database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("assay.node.receipts.postgresql.SESSION_WAIT_SECONDS", 0.05)
    monkeypatch.setattr(shared_database, "_places", threading.BoundedSemaphore(1))
    with shared_database.session(), pytest.raises(RetryableError, match="in use"), shared_database.session():
        pass
    with shared_database.session():
        pass


@pytest.mark.network
def test_open__password_in_a_file__lets_in_and_is_not_told(postgresql: Cluster, tmp_path: Path) -> None:
    postgresql.run("CREATE ROLE locked LOGIN PASSWORD 'open sesame'")
    url, file = postgresql.url(user="locked"), tmp_path / "password"
    file.write_text("open sesame\n")
    try:
        with closing(PostgresDatabase(url, file)) as database, database.session() as db:
            assert db.execute("SELECT current_user").fetchone() == ("locked",)
        file.write_text("open the door")
        with pytest.raises(ConfigurationError, match="authentication failed") as caught:
            PostgresDatabase(url, file).connect()
        assert "open the door" not in str(caught.value)
        with pytest.raises(ConfigurationError, match="cannot be read"):
            PostgresDatabase(url, tmp_path / "none").connect()
    finally:
        postgresql.run("DROP ROLE locked")


@pytest.mark.network
def test_open__no_such_database__is_a_setting_to_correct(postgresql: Cluster) -> None:
    with pytest.raises(ConfigurationError, match=r"does not exist.*\[log\]"):
        PostgresDatabase(postgresql.url("nowhere")).connect()


@pytest.mark.network
def test_open__commit_that_does_not_wait_for_the_disk__is_made_to(postgresql: Cluster) -> None:
    postgresql.run("CREATE ROLE hasty LOGIN")
    postgresql.run("ALTER ROLE hasty SET synchronous_commit = off")
    try:
        with closing(PostgresDatabase(postgresql.url(user="hasty"))) as database, database.session() as db:
            assert db.execute("SHOW synchronous_commit").fetchone() == ("on",)
    finally:
        postgresql.run("DROP ROLE hasty")


@pytest.mark.parametrize(
    ("url", "message"),
    [("postgresql://a:secret@h/d", "password"), ("postgresql://h/d?nonsense=1", "correct it")],
)
def test_postgres_database__url_that_will_not_do__says_why(url: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        PostgresDatabase(url)
    assert "secret" not in str(caught.value)


def test_name__of_a_shared_log__has_neither_user_nor_options() -> None:
    assert PostgresDatabase("postgresql://me@db.example:6543/assay?sslmode=require").name == (
        "postgresql://db.example:6543/assay"
    )
