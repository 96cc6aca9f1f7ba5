"""Index databases in tests: open one, follow a chain into it, compare contents."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

from assay.chain.client import ChainClient
from assay.chain.deployments import Deployment
from assay.db.engine import normalize_url, open_engine, read_session, upgrade
from assay.db.tables import Base
from assay.index.batches import BatchChecker
from assay.index.download import ShouldStop, go_on
from assay.index.fetch import Fetcher
from assay.index.follower import Follower, Outcome
from sqlalchemy import Engine, select, text

CLOCKED = {"updated_at"}
OWN = {"batch_checks", "program_checks", "receipts", "probes"}


_opened: list[Engine] = []


def new_database(folder: Path, name: str = "index") -> Engine:
    """A migrated database; `close_databases` closes it.

    SQLite in `folder`, or a new database on the PostgreSQL server that `ASSAY_TEST_POSTGRESQL` names.
    """
    server = os.environ.get("ASSAY_TEST_POSTGRESQL")
    url = _create_postgresql(server) if server else f"sqlite:///{folder / name}.sqlite3"
    engine = open_engine(url)
    _opened.append(engine)
    upgrade(engine)
    return engine


def url_of(engine: Engine) -> str:
    return engine.url.render_as_string(hide_password=False)


def close_databases() -> None:
    while _opened:
        engine = _opened.pop()
        engine.dispose()
        if engine.dialect.name == "postgresql":
            _run_on_server(
                os.environ["ASSAY_TEST_POSTGRESQL"], f'DROP DATABASE "{engine.url.database}" (FORCE)'
            )


def _create_postgresql(server: str) -> str:
    name = f"assay_test_{uuid.uuid4().hex}"
    _run_on_server(server, f'CREATE DATABASE "{name}"')
    return normalize_url(server).set(database=name).render_as_string(hide_password=False)


def _run_on_server(server: str, statement: str) -> None:
    engine = open_engine(server).execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(statement))
    engine.dispose()


def new_follower(engine: Engine, client: ChainClient, deployment: Deployment, **options: Any) -> Follower:
    follower = Follower(engine, Fetcher.of(client, deployment), deployment, **options)
    follower.prepare()
    return follower


def follow(follower: Follower, until: int | None = None) -> int:
    """Step to the head; returns how many windows were written."""
    windows = 0
    while follower.step(until).outcome is Outcome.ADVANCED:
        windows += 1
    return windows


def check_batches(checker: BatchChecker, should_stop: ShouldStop = go_on) -> None:
    """Until nothing is due."""
    while checker.step(should_stop=should_stop, wait=0.25) or checker.is_busy:
        pass


def contents(engine: Engine, *without: str) -> dict[str, list[dict[str, Any]]]:
    """Every chain-derived table's rows, sorted; clock readings left out."""
    found: dict[str, list[dict[str, Any]]] = {}
    with read_session(engine) as session:
        for table in Base.metadata.sorted_tables:
            if table.name in OWN or table.name in without:
                continue
            rows = session.execute(select(table)).mappings()
            plain = [{k: v for k, v in row.items() if k not in CLOCKED} for row in rows]
            found[table.name] = sorted(plain, key=repr)
    return found
