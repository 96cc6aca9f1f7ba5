"""The migrations give exactly the tables that the code declares."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from assay.db.engine import drop_everything, open_engine, upgrade
from assay.db.tables import Base
from assay.errors import ConfigurationError
from sqlalchemy import Engine, inspect, text


def check(engine: Engine) -> None:
    upgrade(engine)
    upgrade(engine)
    with engine.connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), Base.metadata)
    assert differences == []
    drop_everything(engine)
    assert set(inspect(engine).get_table_names()) == set()
    upgrade(engine)
    assert set(inspect(engine).get_table_names()) == {*Base.metadata.tables, "alembic_version"}


def test_upgrade__sqlite__equals_the_declared_tables(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'new' / 'index.sqlite3'}")
    check(engine)
    engine.dispose()


@pytest.mark.network
def test_upgrade__postgresql__equals_the_declared_tables() -> None:
    url = os.environ.get("ASSAY_TEST_POSTGRESQL")
    if not url:
        pytest.skip("ASSAY_TEST_POSTGRESQL does not name an empty PostgreSQL database")
    engine = open_engine(url)
    drop_everything(engine)
    check(engine)
    drop_everything(engine)
    engine.dispose()


@pytest.mark.parametrize("url", ["mysql://x/y", "nonsense", "sqlite+aiosqlite:///x"])
def test_open_engine__other_databases__are_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="sqlite:///path or postgresql"):
        open_engine(url)


def test_open_engine__read_only__cannot_write(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'index.sqlite3'}"
    writer = open_engine(url)
    upgrade(writer)
    reader = open_engine(url, read_only=True)
    with reader.connect() as connection, pytest.raises(Exception, match="readonly"):
        connection.execute(text("DELETE FROM events"))
    reader.dispose()
    writer.dispose()
