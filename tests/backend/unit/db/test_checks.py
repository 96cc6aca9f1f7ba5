"""Which nodes are asked for batches: looked for several times a second, however many batches there are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from assay.db.engine import open_engine, read_session, upgrade, write_transaction
from assay.db.repositories.checks import CheckStore
from assay.db.tables import Batch, BatchCheck, Node
from sqlalchemy import Engine, event, insert

FIRST, SECOND, THIRD = NODES = tuple("0x" + digit * 40 for digit in "123")
NEVER_AGAIN = 2**62


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """Three nodes with two batches each, those of the third the oldest."""
    engine = open_engine(f"sqlite:///{tmp_path / 'index.sqlite3'}")
    upgrade(engine)
    amounts = dict.fromkeys(("stake", "thawing", "thaw_at", "frozen", "slashed", "registered_at"), 0)
    numbers = dict.fromkeys(("amount", "count", "voided", "voided_amount", "holds", "posted_at"), 0)
    rest: dict[str, Any] = dict.fromkeys(("version_id", "receipts_root", "tx_hash"), "0x")
    flags = {"collected": False, "vouchers_known": True}
    with write_transaction(engine) as connection:
        for place, node in enumerate(reversed(NODES)):
            at = {"block_number": place, "log_index": 0}
            connection.execute(insert(Node).values(node=node, signer=node, endpoint="", **amounts, **at))
            for batch in (place, place + 10):
                at = {"block_number": batch, "log_index": 0}
                values = rest | numbers | flags | at
                connection.execute(insert(Batch).values(batch_id=name(batch), node=node, **values))
    yield engine
    engine.dispose()


def name(batch: int) -> str:
    return f"0x{batch:064x}"


def check(engine: Engine, batch: int, next_attempt_at: int) -> None:
    row = {"availability": "available", "reason": "", "receipts": 1, "attempts": 1, "checked_at": 1}
    with write_transaction(engine) as connection:
        connection.execute(
            insert(BatchCheck).values(batch_id=name(batch), next_attempt_at=next_attempt_at, **row)
        )


def due_nodes(engine: Engine, now: int) -> list[str]:
    with read_session(engine) as session:
        return CheckStore(session.connection()).due_nodes(now)


def test_due_nodes__some_never_asked_and_some_due_again__come_by_age(engine: Engine) -> None:
    assert due_nodes(engine, 0) == [THIRD, SECOND, FIRST]
    for batch, again in ((0, 50), (10, NEVER_AGAIN), (1, NEVER_AGAIN), (2, NEVER_AGAIN), (12, NEVER_AGAIN)):
        check(engine, batch, again)
    assert due_nodes(engine, 49) == [SECOND]
    assert due_nodes(engine, 50) == [THIRD, SECOND]
    check(engine, 11, 40)
    assert due_nodes(engine, 39) == []
    assert due_nodes(engine, 40) == [SECOND]


def test_due_nodes__all_batches_checked__reads_what_is_due_alone(engine: Engine) -> None:
    for batch in (0, 1, 2, 10, 11, 12):
        check(engine, batch, NEVER_AGAIN)
    asked: list[tuple[str, Any]] = []

    @event.listens_for(engine, "before_cursor_execute")
    def note(connection: Any, cursor: Any, statement: str, parameters: Any, *rest: Any) -> None:
        asked.append((statement, parameters))

    assert due_nodes(engine, 0) == []
    with read_session(engine) as session:
        for statement, parameters in [entry for entry in asked if "count(*)" not in entry[0]][1:]:
            plan = session.connection().exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
            assert not [step for step in plan if step[3].startswith("SCAN")], plan
    assert any("next_attempt_at" in statement for statement, _ in asked)
