"""What is at risk stays below the stake."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from assay.node.errors import Unavailable
from assay.node.receipts.database import SqliteDatabase
from assay.node.settlement.cover import StakeCover
from tests.backend.unit.node.settlement.test_closing import ALICE, PRICE, Desk


def test_admit__until_the_stake_is_used_up__then_refuses_until_a_batch_is_final(tmp_path: Path) -> None:
    desk = Desk(SqliteDatabase(tmp_path / "log.sqlite3"))
    stake: list[int | None] = [None]

    async def play() -> None:
        cover = StakeCover(desk.database, lambda: stake[0])
        await cover.poll()
        cover.admit(10**9)  # nobody knows the stake yet: the view's own check refuses
        stake[0] = 3 * PRICE
        cover = StakeCover(desk.database, lambda: stake[0])
        for _ in range(3):
            cover.admit(PRICE)
            desk.issue(ALICE)
        with pytest.raises(Unavailable) as refused:
            cover.admit(1)
        assert (refused.value.code, refused.value.retry_after) == ("stake_exhausted", 60)
        for _ in range(2):  # what was admitted before a reading counts until the next
            await cover.poll()
        assert cover.at_risk == 3 * PRICE
        with pytest.raises(Unavailable):
            cover.admit(1)
        stake[0] = 4 * PRICE
        cover.admit(PRICE)

    asyncio.run(play())
    desk.close()
