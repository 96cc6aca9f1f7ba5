"""The view of the chain: which accounts are read again, and when."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
from assay.node.payments.follower import REFRESHED_PER_POLL, Follower
from assay.node.payments.ledger import AccountView, NodeView
from assay.node.receipts.database import SqliteDatabase
from assay.node.receipts.log import ReceiptLog
from assay.types import Address, Domain, Hash32

NODE, SETTLEMENT = Address("0x" + "11" * 20), Address("0x" + "22" * 20)
VERSION = Hash32(b"\x01" * 32)


class Asked:
    """A ledger that counts, poll by poll, whose accounts it was asked for."""

    def __init__(self) -> None:
        self.polls: list[Counter[Address]] = []

    def node_view(self, versions: Iterable[Hash32]) -> NodeView:
        self.polls.append(Counter())
        return NodeView(1, 1, NODE, True, {}, {})

    def account_views(
        self, channels: Mapping[Address, Iterable[Hash32]], block: int | None = None
    ) -> Mapping[Address, AccountView]:
        self.polls[-1].update(list(channels))
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
