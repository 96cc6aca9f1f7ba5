"""The migrations give exactly the tables that the code declares."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from assay.db.engine import drop_everything, open_engine, read_session, upgrade
from assay.db.tables import Base, Cursor
from assay.errors import ConfigurationError
from assay.types import ZERO_ADDRESS
from sqlalchemy import Engine, inspect, select, text

from tests.support.postgresql import Cluster


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


def test_upgrade__database_of_the_first_release__keeps_its_rows_and_has_followed_no_game(
    tmp_path: Path,
) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'index.sqlite3'}")
    config = Config()
    config.set_main_option("script_location", "assay.db:migrations")
    config.set_main_option("path_separator", "os")
    numbers = ("chain_id", "first_block", "number", "timestamp", "head_number", "finalized_number")
    numbers += ("journal_from", "next_seq", "dispute_window", "updated_at")
    texts = {"settlement": "0xa", "models": "0xb", "nodes": "0xc", "hash": "0xd", "min_stake": "0" * 39}
    row = dict.fromkeys(numbers, 1) | texts
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        names = ", ".join(row)
        values = ", ".join(f":{name}" for name in row)
        connection.execute(text(f"INSERT INTO cursor ({names}) VALUES ({values})"), row)
    upgrade(engine)
    with read_session(engine) as session:
        cursor = session.scalars(select(Cursor)).one()
    assert (cursor.settlement, cursor.dispute_game) == ("0xa", ZERO_ADDRESS)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0001")
        assert "dispute_game" not in {column["name"] for column in inspect(connection).get_columns("cursor")}
        assert not {"disputes", "frauds"} & set(inspect(connection).get_table_names())
    engine.dispose()


@pytest.mark.network
def test_upgrade__postgresql__equals_the_declared_tables(postgresql: Cluster) -> None:
    url = postgresql.new_database()
    engine = open_engine(url)
    check(engine)
    drop_everything(engine)
    engine.dispose()
    postgresql.drop_database(url)


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
