"""The view of the chain: which accounts are read again, and when."""

from __future__ import annotations

import asyncio
import gc
import math
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
from assay.chain.errors import RpcUnavailable
from assay.errors import RetryableError
from assay.node.errors import Unavailable
from assay.node.payments import follower as follower_module
from assay.node.payments.follower import (
    MIN_REFRESH_SECONDS,
    READS_AT_ONCE,
    REFRESHED_PER_POLL,
    Account,
    Follower,
)
from assay.node.payments.ledger import AccountView, NodeView
from assay.node.receipts.database import SqliteDatabase
from assay.node.receipts.entries import ChannelKey, ChannelState, HeldVoucher
from assay.node.receipts.log import ReceiptLog
from assay.types import Address, Domain, Hash32
from structlog.testing import capture_logs

NODE, SETTLEMENT = Address("0x" + "11" * 20), Address("0x" + "22" * 20)
VERSION, OTHER = Hash32(b"\x01" * 32), Hash32(b"\x02" * 32)


class Asked:
    """A ledger that counts, poll by poll, whose accounts it was asked for."""

    def __init__(self) -> None:
        self.polls: list[Counter[Address]] = []
        self.reads: list[int] = []
        """Accounts, by request."""
        self.whose: list[tuple[Address, ...]] = []
        self.is_down = False
        self.is_active = True
        self.held = threading.Event()
        self.held.set()

    def node_view(self, versions: Iterable[Hash32]) -> NodeView:
        self.polls.append(Counter())
        return NodeView(1, 1, NODE, self.is_active, {}, {})

    def account_views(
        self, channels: Mapping[Address, Iterable[Hash32]], block: int | None = None
    ) -> Mapping[Address, AccountView]:
        assert self.held.wait(10)
        self.polls[-1].update(list(channels))
        self.reads.append(len(channels))
        self.whose.append(tuple(channels))
        if self.is_down:
            raise RpcUnavailable("no answer")
        return {consumer: AccountView(settled=dict.fromkeys(ids, 0)) for consumer, ids in channels.items()}

    def wallet_accepts(self, consumer: Address, digest: bytes, signature: bytes) -> bool:
        return False


@pytest.mark.parametrize("count", [1, 40, 1_000])
def test_poll__accounts_in_use__are_read_again_in_equal_parts_before_they_are_too_old(
    tmp_path: Path, count: int
) -> None:
    now, ledger = 1.0, Asked()
    log = ReceiptLog(SqliteDatabase(tmp_path / "log.sqlite3"), Domain(1, SETTLEMENT), NODE)
    follower = Follower(
        ledger, log, lambda: (VERSION,), poll_seconds=2.0, max_age_seconds=30.0, clock=lambda: now
    )

    async def scenario() -> None:
        nonlocal now
        await follower.poll()
        accounts = [follower.account(Address(f"0x{number:040x}")) for number in range(count)]
        for account in accounts:
            follower.channel(account, VERSION)
            await follower.refresh(account)
        ledger.polls.clear()
        for _ in range(8):  # in 16 seconds
            now += 2.0
            await follower.poll()
        assert all(account.fetched_at is not None and now - account.fetched_at <= 16 for account in accounts)

    asyncio.run(scenario())
    read = [sum(poll.values()) for poll in ledger.polls]
    assert max(read) - min(read) <= 1 and max(read) <= max(REFRESHED_PER_POLL, 1)
    assert sum(read) <= 2 * count + len(read)


def opened(follower: Follower, count: int) -> list[Account]:
    accounts = [follower.account(Address(f"0x{number:040x}")) for number in range(count)]
    for account in accounts:
        follower.channel(account, VERSION)
    return accounts


async def refresh_all(follower: Follower, ledger: Asked, accounts: list[Account]) -> list[object]:
    """What each of them hears, all asked before the first read ends; then who is waited for."""
    ledger.held.clear()
    asked = [asyncio.create_task(follower.refresh(account)) for account in accounts]
    await asyncio.sleep(0.05)
    ledger.held.set()
    return list(await asyncio.gather(*asked, return_exceptions=True))


@pytest.mark.parametrize("count", [1, 2, 64, REFRESHED_PER_POLL + 10])
def test_refresh__many_consumers_at_once__are_read_together(tmp_path: Path, count: int) -> None:
    ledger = Asked()
    log = ReceiptLog(SqliteDatabase(tmp_path / "log.sqlite3"), Domain(1, SETTLEMENT), NODE)
    follower = Follower(ledger, log, lambda: (VERSION,))

    async def scenario() -> None:
        await follower.poll()
        accounts = opened(follower, count)
        assert await refresh_all(follower, ledger, accounts) == [None] * count
        assert all(account.is_known and not account.busy for account in accounts)
        first = accounts[READS_AT_ONCE : READS_AT_ONCE + REFRESHED_PER_POLL]  # of those that had to wait
        assert not first or tuple(account.consumer for account in first) in ledger.whose

    asyncio.run(scenario())
    assert sum(ledger.reads) == count
    assert len(ledger.reads) <= READS_AT_ONCE + math.ceil(count / REFRESHED_PER_POLL)
    assert max(ledger.reads) <= REFRESHED_PER_POLL


def test_refresh__just_done__is_not_done_again(tmp_path: Path) -> None:
    ledger, now = Asked(), [100.0]
    log = ReceiptLog(SqliteDatabase(tmp_path / "log.sqlite3"), Domain(1, SETTLEMENT), NODE)
    follower = Follower(ledger, log, lambda: (VERSION,), clock=lambda: now[0])

    async def scenario() -> None:
        await follower.poll()
        (account,) = opened(follower, 1)
        for seconds, reads in ((0.0, 1), (0.9 * MIN_REFRESH_SECONDS, 1), (0.2 * MIN_REFRESH_SECONDS, 2)):
            now[0] += seconds
            await follower.refresh(account)
            assert len(ledger.reads) == reads

    asyncio.run(scenario())


def test_refresh__chain_down__each_hears_so_and_may_ask_again(tmp_path: Path) -> None:
    ledger = Asked()
    log = ReceiptLog(SqliteDatabase(tmp_path / "log.sqlite3"), Domain(1, SETTLEMENT), NODE)
    follower = Follower(ledger, log, lambda: (VERSION,))

    async def scenario() -> None:
        await follower.poll()
        accounts = opened(follower, 5)
        ledger.is_down = True
        outcomes = await refresh_all(follower, ledger, accounts)
        assert all(isinstance(outcome, Unavailable) for outcome in outcomes)
        assert not any(account.busy for account in accounts)
        ledger.is_down = False
        assert await refresh_all(follower, ledger, accounts) == [None] * 5

    asyncio.run(scenario())


def test_refresh__who_asked_first_is_gone__the_others_get_theirs(tmp_path: Path) -> None:
    ledger = Asked()
    log = ReceiptLog(SqliteDatabase(tmp_path / "log.sqlite3"), Domain(1, SETTLEMENT), NODE)
    follower = Follower(ledger, log, lambda: (VERSION,))

    async def scenario() -> None:
        await follower.poll()
        accounts = opened(follower, 4)
        ledger.held.clear()
        asked = [asyncio.create_task(follower.refresh(account)) for account in [*accounts, accounts[0]]]
        await asyncio.sleep(0.02)
        asked[0].cancel()
        asked[2].cancel()
        await asyncio.sleep(0.02)
        ledger.held.set()
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [
            asyncio.CancelledError, type(None), asyncio.CancelledError, type(None), type(None),
        ]  # fmt: skip
        assert all(account.is_known and not account.busy for account in accounts)

    asyncio.run(scenario())


def test_refresh__chain_down_and_who_asked_is_gone__leaves_no_error_unheard(tmp_path: Path) -> None:
    ledger = Asked()
    log = ReceiptLog(SqliteDatabase(tmp_path / "log.sqlite3"), Domain(1, SETTLEMENT), NODE)
    follower = Follower(ledger, log, lambda: (VERSION,))
    unheard: list[object] = []

    async def scenario() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))
        await follower.poll()
        (account,) = opened(follower, 1)
        ledger.is_down = True
        ledger.held.clear()
        asked = asyncio.create_task(follower.refresh(account))
        await asyncio.sleep(0.02)
        asked.cancel()
        await asyncio.sleep(0.02)
        ledger.held.set()
        async with asyncio.timeout(10):
            while account.busy:  # noqa: ASYNC110 - the thing under test tells nobody
                await asyncio.sleep(0.01)

    asyncio.run(scenario())
    gc.collect()
    assert not unheard


def test_refresh__loop_ends_meanwhile__nothing_more_is_read(tmp_path: Path) -> None:
    ledger = Asked()
    log = ReceiptLog(SqliteDatabase(tmp_path / "log.sqlite3"), Domain(1, SETTLEMENT), NODE)
    follower = Follower(ledger, log, lambda: (VERSION,))
    unheard: list[object] = []
    asked: list[asyncio.Task[None]] = []

    async def scenario() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))
        await follower.poll()
        accounts = opened(follower, 2 * REFRESHED_PER_POLL)
        ledger.held.clear()
        asked.extend(asyncio.create_task(follower.refresh(account)) for account in accounts)
        await asyncio.sleep(0.05)
        threading.Timer(0.2, ledger.held.set).start()

    asyncio.run(scenario())
    gc.collect()
    assert all(task.cancelled() for task in asked)
    assert ledger.reads == [1] * READS_AT_ONCE and not unheard


def test_refresh__channel_opened_while_it_is_read__is_read_as_well(tmp_path: Path) -> None:
    ledger = Asked()
    log = ReceiptLog(SqliteDatabase(tmp_path / "log.sqlite3"), Domain(1, SETTLEMENT), NODE)
    follower = Follower(ledger, log, lambda: (VERSION,))

    async def scenario() -> None:
        await follower.poll()
        (account,) = opened(follower, 1)
        ledger.held.clear()
        asked = [asyncio.create_task(follower.refresh(account))]
        await asyncio.sleep(0.02)
        follower.channel(account, OTHER)
        asked.append(asyncio.create_task(follower.refresh(account)))
        await asyncio.sleep(0.02)
        ledger.held.set()
        await asyncio.gather(*asked)
        assert account.is_known and account.channels[OTHER].settled == 0
        assert ledger.reads == [1, 1]

    asyncio.run(scenario())


def test_account__as_many_as_may_be_are_busy__refuses_and_forgets_none_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a request holds must be what the next one of the same consumer finds."""
    monkeypatch.setattr(follower_module, "MAX_ACCOUNTS", 3)
    ledger = Asked()
    log = ReceiptLog(SqliteDatabase(tmp_path / "log.sqlite3"), Domain(1, SETTLEMENT), NODE)
    follower = Follower(ledger, log, lambda: (VERSION,))

    async def scenario() -> None:
        await follower.poll()
        busy, idle, other = opened(follower, 3)
        busy.channels[VERSION].pending = 1
        ledger.held.clear()
        asked = asyncio.create_task(follower.refresh(other))
        await asyncio.sleep(0.02)
        new = follower.account(NODE)
        assert follower.accounts() == (busy, other, new)
        follower.channel(new, VERSION).pending = 1
        with pytest.raises(Unavailable, match="too many consumers") as refused:
            follower.account(idle.consumer)
        assert refused.value.code == "busy" and follower.accounts() == (busy, other, new)
        ledger.held.set()
        await asked
        again = follower.account(idle.consumer)
        assert follower.accounts() == (busy, new, again)

    asyncio.run(scenario())


def test_account__log_cannot_be_read__is_none_that_owes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its escrow would seem to cover the next request beside what is owed on other channels."""
    log = ReceiptLog(SqliteDatabase(tmp_path / "log.sqlite3"), Domain(1, SETTLEMENT), NODE)
    follower = Follower(Asked(), log, lambda: (VERSION,))
    owing = ChannelState(ChannelKey(OTHER, NODE), 1, 0, 7, HeldVoucher(7, 0, b"\x01" * 65, wallet=False))

    def busy(consumer: Address) -> list[ChannelState]:
        raise RetryableError("log.sqlite3 is busy")

    with monkeypatch.context() as patched:
        patched.setattr(log, "channels_of", busy)
        with pytest.raises(RetryableError):
            follower.account(NODE)
    monkeypatch.setattr(log, "channels_of", lambda consumer: [owing])
    assert follower.account(NODE).owed == 7


def test_poll__stake_below_the_minimum__is_told_once_and_when_it_is_over(tmp_path: Path) -> None:
    ledger = Asked()
    log = ReceiptLog(SqliteDatabase(tmp_path / "log.sqlite3"), Domain(1, SETTLEMENT), NODE)
    follower = Follower(ledger, log, lambda: (VERSION,))

    async def scenario() -> list[list[str]]:
        told = []
        for ledger.is_active in (False, False, True, True, False):
            with capture_logs() as lines:
                await follower.poll()
            told.append([line["log_level"] for line in lines])
        return told

    assert asyncio.run(scenario()) == [["warning"], [], ["info"], [], ["warning"]]
