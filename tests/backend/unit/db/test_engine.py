"""Transactions on SQLite beside one that writes for long."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from assay.db.engine import open_engine, read_session, upgrade, write_transaction
from assay.errors import RetryableError
from sqlalchemy import Engine, QueuePool, text


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    monkeypatch.setattr("assay.db.engine.SQLITE_BUSY_MS", 100)
    engine = open_engine(f"sqlite:///{tmp_path / 'index.sqlite3'}")
    upgrade(engine)
    with write_transaction(engine) as connection:
        connection.execute(text("CREATE TABLE seen (number INTEGER)"))
    yield engine
    engine.dispose()


def test_read_session__while_another_transaction_writes__sees_what_was_before(engine: Engine) -> None:
    """A batch of a million receipts is written for minutes; whoever reads meanwhile must not fail for it."""
    with write_transaction(engine) as writing:
        writing.execute(text("INSERT INTO seen VALUES (1)"))
        with read_session(engine) as session:
            assert session.execute(text("SELECT number FROM seen")).all() == []
    with read_session(engine) as session:
        assert session.execute(text("SELECT number FROM seen")).all() == [(1,)]


def test_read_session__committed_meanwhile__goes_on_seeing_one_state(engine: Engine) -> None:
    with read_session(engine) as session:
        before = session.execute(text("SELECT count(*) FROM seen")).all()
        with write_transaction(engine) as writing:
            writing.execute(text("INSERT INTO seen VALUES (1)"))
        assert session.execute(text("SELECT count(*) FROM seen")).all() == before == [(0,)]


def test_write_transaction__while_another_writes__is_told_to_try_again(engine: Engine) -> None:
    refused = pytest.raises(RetryableError, match="did not take a transaction")
    with write_transaction(engine), refused, write_transaction(engine):
        pass


def test_read_session__database_that_does_not_answer__is_told_to_try_again(engine: Engine) -> None:
    with pytest.raises(RetryableError, match="did not answer"), read_session(engine) as session:
        session.execute(text("SELECT * FROM nowhere"))


def test_upgrade__of_what_is_up_to_date__waits_for_no_writer(engine: Engine) -> None:
    """`assay index status` beside an index that writes a large batch."""
    with write_transaction(engine):
        upgrade(engine)


def test_read_session__all_connections_in_use__is_told_to_try_again(engine: Engine) -> None:
    assert isinstance(engine.pool, QueuePool)
    engine.pool._timeout = 0.05
    with ExitStack() as others:
        for _ in range(engine.pool.size() + engine.pool._max_overflow):
            others.enter_context(read_session(engine)).connection()
        with pytest.raises(RetryableError, match="QueuePool"), read_session(engine) as session:
            session.connection()
