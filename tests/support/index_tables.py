"""Index databases in tests: open one, follow a chain into it, compare contents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from assay.chain.client import ChainClient
from assay.chain.deployments import Deployment
from assay.db.engine import open_engine, read_session, upgrade
from assay.db.tables import Base
from assay.index.fetch import Fetcher
from assay.index.follower import Follower, Outcome
from sqlalchemy import Engine, select

CLOCKED = {"updated_at"}
OWN = {"batch_checks", "receipts", "probes"}


_opened: list[Engine] = []


def new_database(folder: Path, name: str = "index") -> Engine:
    """A migrated database; `close_databases` closes it."""
    engine = open_engine(f"sqlite:///{folder / name}.sqlite3")
    _opened.append(engine)
    upgrade(engine)
    return engine


def close_databases() -> None:
    while _opened:
        _opened.pop().dispose()


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
