"""What is at risk stays below the stake."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from assay.errors import FatalError, RetryableError
from assay.node.errors import Unavailable
from assay.node.receipts.database import SqliteConnection, SqliteDatabase
from assay.node.settlement.cover import StakeCover

from tests.backend.unit.node.receipts.test_journal_writer import issue, open_log, open_writer
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
            cover.finish(PRICE)
        with pytest.raises(Unavailable) as refused:
            cover.admit(1)
        assert (refused.value.code, refused.value.retry_after) == ("stake_exhausted", 60)
        for _ in range(2):  # what was finished before a reading counts until the next
            await cover.poll()
        assert cover.at_risk == 3 * PRICE
        with pytest.raises(Unavailable):
            cover.admit(1)
        stake[0] = 4 * PRICE
        cover.admit(PRICE)

    asyncio.run(play())
    desk.close()


def test_admit__nothing_more_at_risk_above_the_stake__is_let_in(tmp_path: Path) -> None:
    """What was paid for outside of the vouchers, and must be served, also after a slash."""
    desk = Desk(SqliteDatabase(tmp_path / "log.sqlite3"))
    stake = 3 * PRICE

    async def play() -> None:
        nonlocal stake
        cover = StakeCover(desk.database, lambda: stake)
        await cover.poll()
        cover.admit(3 * PRICE)
        stake = PRICE
        cover.admit(0)
        with pytest.raises(Unavailable):
            cover.admit(1)

    asyncio.run(play())
    desk.close()


class Failing(SqliteDatabase):
    """Fails while told to."""

    fails = False

    @contextlib.contextmanager
    def session(self) -> Iterator[SqliteConnection]:
        if self.fails:
            raise FatalError("disk image is malformed")
        with super().session() as connection:
            yield connection


def test_run__reading_that_fails_for_whatever_reason__is_tried_again(tmp_path: Path) -> None:
    database = Failing(tmp_path / "log.sqlite3")
    desk = Desk(database)

    async def play() -> None:
        cover = StakeCover(database, lambda: None, poll_seconds=0.01)
        await cover.start()
        database.fails = True
        desk.issue(ALICE)
        await asyncio.sleep(0.1)
        database.fails = False
        async with asyncio.timeout(10):
            while cover.exposure.total != PRICE:  # noqa: ASYNC110 - the thing under test tells nobody
                await asyncio.sleep(0.01)
        await cover.stop()

    asyncio.run(play())
    desk.close()


def test_poll__log_cannot_be_read__goes_on_counting_what_was_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(SqliteDatabase(tmp_path / "log.sqlite3"))

    def away() -> None:
        raise RetryableError("the log is away")

    async def play() -> None:
        cover = StakeCover(desk.database, lambda: 3 * PRICE)
        await cover.poll()
        cover.admit(PRICE)
        cover.finish(PRICE)
        monkeypatch.setattr(cover, "_read", away)
        for _ in range(3):
            with pytest.raises(RetryableError):
                await cover.poll()
            cover.admit(0)
        assert cover.at_risk == PRICE

    asyncio.run(play())
    desk.close()


def test_admit__requests_that_take_long__count_until_they_end(tmp_path: Path) -> None:
    desk = Desk(SqliteDatabase(tmp_path / "log.sqlite3"))

    async def play() -> None:
        cover = StakeCover(desk.database, lambda: 2 * PRICE)
        await cover.poll()
        for _ in range(2):
            cover.admit(PRICE)
        for _ in range(4):
            await cover.poll()
            with pytest.raises(Unavailable):
                cover.admit(1)
        cover.give_up(PRICE)
        assert cover.at_risk == PRICE
        cover.admit(PRICE)
        desk.issue(ALICE)
        cover.finish(PRICE)
        for _ in range(2):
            assert cover.at_risk >= 2 * PRICE
            await cover.poll()
        assert cover.at_risk == 2 * PRICE
        cover.give_up(PRICE)
        assert cover.at_risk == PRICE

    asyncio.run(play())
    desk.close()


def test_give_up__flood_of_failed_requests__leaves_room_for_others(tmp_path: Path) -> None:
    desk = Desk(SqliteDatabase(tmp_path / "log.sqlite3"))

    async def play() -> None:
        cover = StakeCover(desk.database, lambda: PRICE)
        await cover.poll()
        for _ in range(100):
            cover.admit(PRICE)
            cover.give_up(PRICE)
        cover.admit(PRICE)

    asyncio.run(play())
    desk.close()


def test_poll__tables_stay_behind_the_journal__counts_what_is_in_the_journal_alone(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    assert isinstance(log.database, SqliteDatabase)
    pending = (writer := open_writer(log, tmp_path))._pending

    async def play() -> None:
        cover = StakeCover(log.database, lambda: 3, unread=lambda: pending.value)
        await cover.poll()
        writer.start()
        with contextlib.closing(SqliteDatabase(tmp_path / "log.sqlite3").open_file()) as other:
            other.execute("BEGIN IMMEDIATE")  # nothing gets into the tables
            for number in range(1, 4):
                cover.admit(1)
                await writer.submit(issue(number, amount=number))
                cover.finish(1)
            for _ in range(4):
                await cover.poll()
                with pytest.raises(Unavailable, match="its stake of 3 does not cover 1 more"):
                    cover.admit(1)
            assert (cover.exposure.total, cover.at_risk) == (0, 3)
            other.execute("ROLLBACK")
        await writer.stop()
        await cover.poll()
        assert (cover.exposure.total, cover.at_risk) == (3, 3)

    asyncio.run(play())
    log.close()
