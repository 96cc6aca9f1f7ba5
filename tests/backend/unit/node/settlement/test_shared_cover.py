"""Several processes of a node put no more at risk, together, than the stake."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest
from assay.errors import RetryableError
from assay.node.errors import Unavailable
from assay.node.receipts.database import Connection
from assay.node.receipts.postgresql import PostgresDatabase
from assay.node.receipts.schema import from_blob
from assay.node.receipts.unbatched import Exposure, read_exposure
from assay.node.settlement import shared_cover
from assay.node.settlement.shared_cover import FRESH_SECONDS, SharedCover

from tests.backend.unit.node.settlement.test_closing import ALICE, PRICE, Desk

pytestmark = pytest.mark.network
STAKE = 40 * PRICE


@pytest.fixture
def desk(shared_database: PostgresDatabase) -> Iterator[Desk]:
    made = Desk(shared_database)
    yield made
    made.close()


def burst(cover: SharedCover, most: int = 1_000) -> int:
    """How many requests it lets in at once."""
    for number in range(most):
        try:
            cover.admit(PRICE)
        except Unavailable as error:
            assert error.code == "stake_exhausted"
            return number
    return most


def test_admit__burst_on_three_processes__stays_below_the_stake(desk: Desk) -> None:
    """Requests that take long: the log knows of none, however often it is asked."""

    async def play() -> None:
        covers = [SharedCover(desk.database, lambda: STAKE) for _ in range(3)]
        for _ in range(4):
            for cover in covers:
                await cover.poll()
        first = [burst(cover) for cover in covers]
        assert min(first) >= 5
        for _ in range(8):
            for cover in covers:
                await cover.poll()
                burst(cover)
        assert 34 * PRICE <= sum(cover.at_risk for cover in covers) <= STAKE

    asyncio.run(play())


def test_admit__receipts_written_by_all__come_to_the_stake_and_no_further(desk: Desk) -> None:
    async def play() -> None:
        covers = [SharedCover(desk.database, lambda: STAKE) for _ in range(3)]
        for _ in range(20):
            for cover in covers:
                await cover.poll()
                for _ in range(burst(cover)):
                    desk.issue(ALICE)
                    cover.finish(PRICE)
        assert STAKE - 3 * PRICE <= covers[0].exposure.total <= STAKE
        assert desk.log.receipt_count() * PRICE <= STAKE

    asyncio.run(play())


def test_admit__one_s_receipts_in_the_log_and_another_s_still_in_work__stay_below_the_stake(
    desk: Desk,
) -> None:
    """What the log has taken of a budget is no part of the next one."""

    async def play() -> None:
        quick, slow = (SharedCover(desk.database, lambda: STAKE) for _ in range(2))
        await quick.poll()
        first = burst(quick)
        for _ in range(20):
            await slow.poll()
            burst(slow)
        for _ in range(first):
            desk.issue(ALICE)
            quick.finish(PRICE)
        for _ in range(8):
            await quick.poll()
            for _ in range(burst(quick)):
                desk.issue(ALICE)
                quick.finish(PRICE)
            assert read_exposure(desk.db).total + slow.at_risk - slow.exposure.total <= STAKE

    asyncio.run(play())


def test_poll__all_at_once__take_turns(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    inside: list[int] = []

    def slowly(connection: Connection) -> Exposure:
        inside.append(1)
        time.sleep(0.1)
        try:
            return read_exposure(connection)
        finally:
            assert inside == [1]
            inside.clear()

    async def play() -> None:
        covers = [SharedCover(desk.database, lambda: STAKE) for _ in range(3)]
        for _ in range(2):  # the second time over connections that are open
            await asyncio.gather(*(cover.poll() for cover in covers))
        assert sum(burst(cover) for cover in covers) * PRICE <= STAKE

    monkeypatch.setattr(shared_cover, "read_exposure", slowly)
    asyncio.run(play())


def test_poll__admitted_meanwhile__is_within_what_others_see(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log has filled up since the last budget was given: the next one is less."""

    async def play() -> None:
        cover = SharedCover(desk.database, lambda: STAKE)
        await cover.poll()
        for _ in range(20):
            desk.issue(ALICE)
        loop = asyncio.get_running_loop()

        def busily(connection: Connection) -> Exposure:
            asyncio.run_coroutine_threadsafe(admit_all(), loop).result(10)
            return read_exposure(connection)

        async def admit_all() -> None:
            assert burst(cover) == 10

        monkeypatch.setattr(shared_cover, "read_exposure", busily)
        monkeypatch.setattr(cover, "_stake", lambda: 25 * PRICE)
        cover.exposure = Exposure()
        await cover.poll()
        (row,) = desk.db.execute("SELECT budget FROM covers").fetchall()
        assert from_blob(row[0]) == cover._budget == 10 * PRICE

    asyncio.run(play())


def test_admit__process_that_died__leaves_its_part_to_the_others(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def play() -> None:
        dead, alive = (SharedCover(desk.database, lambda: STAKE) for _ in range(2))
        await dead.poll()
        assert burst(dead) == 20
        await alive.poll()
        assert burst(alive) < 20
        monkeypatch.setattr(shared_cover, "FRESH_SECONDS", 0.0)
        await alive.poll()
        monkeypatch.undo()
        assert burst(alive) > 0
        assert alive.at_risk > STAKE // 2

    asyncio.run(play())


def test_admit__not_heard_of_for_a_while__lets_nobody_in(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that was suspended: others may have its part by now."""
    now = 0.0

    def away(*_: object) -> None:
        raise RetryableError("the log is away")

    async def play() -> None:
        nonlocal now
        cover = SharedCover(desk.database, lambda: STAKE, clock=lambda: now)
        await cover.poll()
        cover.admit(PRICE)
        now += FRESH_SECONDS / 2
        cover.admit(0)
        with pytest.raises(Unavailable) as refused:
            cover.admit(PRICE)
        assert refused.value.retry_after == 2
        with monkeypatch.context() as patched:
            patched.setattr(cover, "_take", away)
            with pytest.raises(RetryableError):
                await cover.poll()
        assert burst(cover) == 0
        await cover.poll()
        assert burst(cover) > 0

    asyncio.run(play())


def test_shared_cover__chain_is_asked_less_often_than_a_budget_holds__takes_the_next_one_in_time(
    desk: Desk,
) -> None:
    for seconds in (0.5, 20.0):
        cover = SharedCover(desk.database, lambda: STAKE, poll_seconds=seconds)
        assert cover._poll_seconds == min(seconds, FRESH_SECONDS / 6)


def test_poll__after_a_long_sleep__keeps_nothing_of_what_others_have_by_now(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0

    async def play() -> None:
        nonlocal now
        asleep = SharedCover(desk.database, lambda: STAKE, clock=lambda: now)
        awake = SharedCover(desk.database, lambda: STAKE)
        await asleep.poll()
        asleep.admit(PRICE)
        with monkeypatch.context() as patched:  # the server has not heard of it for so long
            patched.setattr(shared_cover, "FRESH_SECONDS", 0.05)
            await asyncio.sleep(0.1)
            with pytest.raises(Unavailable):
                awake.admit(STAKE - PRICE)
            await awake.poll()
        now += 2 * FRESH_SECONDS
        await asleep.poll()
        assert asleep._budget - PRICE + awake._budget <= STAKE

    asyncio.run(play())


def test_admit__nothing_more_at_risk_above_the_stake__is_let_in(desk: Desk) -> None:
    async def play() -> None:
        cover = SharedCover(desk.database, lambda: STAKE)
        for _ in range(41):
            desk.issue(ALICE)
        await cover.poll()
        assert cover.at_risk > STAKE
        cover.admit(0)
        assert burst(cover) == 0

    asyncio.run(play())


def test_admit__price_above_its_part__gets_in_when_it_asks_again(desk: Desk) -> None:
    price = STAKE * 3 // 5

    async def play() -> None:
        idle, asked = (SharedCover(desk.database, lambda: STAKE) for _ in range(2))
        await idle.poll()
        await asked.poll()
        for _ in range(4):
            with pytest.raises(Unavailable):
                asked.admit(price)
            await idle.poll()
            await asked.poll()
            if asked._budget >= price:
                break
        asked.admit(price)

    asyncio.run(play())
