"""Logs of both kinds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from assay.node.receipts.database import Database, SqliteDatabase
from assay.node.receipts.postgresql import PostgresDatabase

from tests.support.postgresql import Cluster

ON_POSTGRESQL = pytest.param("postgresql", marks=pytest.mark.network)


@pytest.fixture(params=["sqlite", ON_POSTGRESQL])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """An empty one of each kind."""
    if request.param == "sqlite":
        yield SqliteDatabase(tmp_path / "log.sqlite3")
        return
    yield request.getfixturevalue("shared_database")


@pytest.fixture
def shared_database(postgresql: Cluster) -> Iterator[PostgresDatabase]:
    """An empty one that several processes could share."""
    with postgresql.schema() as url:
        made = PostgresDatabase(url)
        yield made
        made.close()
