"""The undo journal: whatever blocks did, rolling back gives the rows of the block before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from assay.db.engine import open_engine, upgrade, write_transaction
from assay.db.tables import Escrow, Journal
from assay.index.state import State
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, delete, select

CHANGES = st.lists(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2**128 - 1)), max_size=4),
    min_size=1,
    max_size=6,
)


def rows(engine: Engine) -> list[Any]:
    with engine.connect() as connection:
        return sorted(tuple(row) for row in connection.execute(select(Escrow.__table__)))


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(blocks=CHANGES, data=st.data())
def test_rollback_to__any_changes__gives_what_the_ancestor_had(
    tmp_path: Path, blocks: Any, data: Any
) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'state.sqlite3'}")
    upgrade(engine)
    with write_transaction(engine) as connection:
        connection.execute(delete(Escrow))
        connection.execute(delete(Journal))
    state, history = State(), [rows(engine)]
    for number, changes in enumerate(blocks, start=1):
        with write_transaction(engine) as connection:
            state.begin(connection, 0)
            state.begin_block(number)
            for consumer, balance in changes:
                before = state.get("escrows", consumer, "node")
                row = {"consumer": consumer, "node": "node", "thawing": 0, "thaw_at": 0}
                state.put("escrows", {**(before or row), "balance": balance})
            state.flush()
        history.append(rows(engine))
    ancestor = data.draw(st.integers(0, len(blocks)))
    with write_transaction(engine) as connection:
        state.begin(connection, 0)
        state.rollback_to(ancestor)
    assert rows(engine) == history[ancestor]
    engine.dispose()
