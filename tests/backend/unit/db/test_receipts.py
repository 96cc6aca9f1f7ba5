"""Lists of receipts are read in their order: a page costs the same, however many there are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from assay.db.engine import open_engine, read_session, upgrade, write_transaction
from assay.db.repositories.batches import ReceiptFilter, list_receipts
from assay.db.repositories.paging import PageRequest
from assay.db.tables import Batch, BatchCheck, Receipt
from sqlalchemy import Engine, event, insert

NODE, OTHER, CONSUMER = ("0x" + digit * 40 for digit in "123")
VERSION, BATCH = "0x" + "4" * 64, "0x" + "5" * 64
PLACE = {"block_number": 7, "log_index": 1}


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """One available batch of five receipts."""
    engine = open_engine(f"sqlite:///{tmp_path / 'index.sqlite3'}")
    upgrade(engine)
    of_batch = {"batch_id": BATCH, "node": NODE, "version_id": VERSION, **PLACE}
    zero = dict.fromkeys(("amount", "count", "voided", "voided_amount", "holds", "posted_at"), 0)
    batch = {**of_batch, **zero, "collected": False, "vouchers_known": True}
    receipt = {
        **of_batch,
        "consumer": CONSUMER,
        "price": 1,
        "executed_at": 1,
        "signature": "",
        "signer": NODE,
    }
    hashes = dict.fromkeys(("input_hash", "output_hash"), VERSION)
    check = {"availability": "available", "reason": "", "receipts": 5, "attempts": 1}
    with write_transaction(engine) as connection:
        connection.execute(insert(Batch).values(**batch, receipts_root=VERSION, tx_hash=VERSION))
        connection.execute(
            insert(BatchCheck).values(batch_id=BATCH, checked_at=1, next_attempt_at=1, **check)
        )
        for position in range(5):
            row = {"digest": f"0x{position:064x}", "position": position, "sequence": position + 1}
            connection.execute(insert(Receipt).values(**receipt, **hashes, **row))
    yield engine
    engine.dispose()


@pytest.mark.parametrize(
    "wanted",
    [
        ReceiptFilter(),
        ReceiptFilter(node=NODE),
        ReceiptFilter(consumer=CONSUMER),
        ReceiptFilter(version_id=VERSION),
        ReceiptFilter(batch_id=BATCH),
        ReceiptFilter(batch_id=BATCH, node=NODE),
        ReceiptFilter(batch_id=BATCH, consumer=CONSUMER),
    ],
)
def test_list_receipts__any_filter__sorts_nothing(engine: Engine, wanted: ReceiptFilter) -> None:
    asked: list[tuple[str, Any]] = []

    @event.listens_for(engine, "before_cursor_execute")
    def note(connection: Any, cursor: Any, statement: str, parameters: Any, *rest: Any) -> None:
        if "ORDER BY receipts" in statement:
            asked.append((statement, parameters))

    positions, cursor = list[int](), None
    while not positions or cursor is not None:
        with read_session(engine) as session:
            page = list_receipts(session, wanted, PageRequest(2, cursor))
        positions += [receipt.position for receipt in page.items]
        cursor = page.next_cursor
    assert positions == [4, 3, 2, 1, 0]
    assert len(asked) == 3
    with read_session(engine) as session:
        for statement, parameters in list(asked):
            plan = session.connection().exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
            assert not [step for step in plan if "B-TREE" in step[3]], plan


@pytest.mark.parametrize(
    "wanted", [ReceiptFilter(batch_id=VERSION), ReceiptFilter(batch_id=BATCH, node=OTHER)]
)
def test_list_receipts__of_no_such_batch__are_none(engine: Engine, wanted: ReceiptFilter) -> None:
    with read_session(engine) as session:
        assert list_receipts(session, wanted, PageRequest(2)).items == []
