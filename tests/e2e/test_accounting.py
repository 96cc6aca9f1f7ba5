"""Consumers at random, prices that change, a version revoked, kills and reorgs: in the end what consumers
paid on the chain, what receipts say and what `assay node profit` says are the same to the last unit.

ACCOUNTING_SEEDS=3,4,5 and ACCOUNTING_ROUNDS=30 run it longer.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from assay.node.receipts.database import SqliteDatabase
from assay.node.receipts.log import ReceiptLog
from assay.types import Address, Hash32

from tests.support.accounting import WINDOW, World
from tests.support.nodes import Network, local_network

pytestmark = pytest.mark.e2e

FEE_BPS = 130
TREASURY = Address("0x" + "7e" * 20)
SEEDS = [int(seed) for seed in os.environ.get("ACCOUNTING_SEEDS", "1").split(",")]
ROUNDS = int(os.environ.get("ACCOUNTING_ROUNDS", "3"))


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    options = {"dispute_window": WINDOW, "fee_bps": FEE_BPS}
    with local_network(tmp_path, treasury=TREASURY, **options) as made:
        yield made


@pytest.mark.parametrize("seed", SEEDS)
def test_profit__whatever_happened__is_what_consumers_paid_and_receipts_say(
    network: Network, seed: int
) -> None:
    world = World(network, seed)
    world.start()
    try:
        for number in range(ROUNDS):
            world.round(number)
        world.finish()
        check(world)
    finally:
        world.node.stop()


def check(world: World) -> None:
    network, node = world.network, world.node
    log = ReceiptLog(SqliteDatabase(node.folder / "receipts.sqlite3"), network.domain, node.operator)
    with closing(log):
        settled = {one.version_id: 0 for one in world.versions}
        owed, issued = dict(settled), dict(settled)
        for stream in world.streams:
            version_id, consumer = stream.published.version_id, stream.consumer.address
            state = {s.key.version_id: s for s in log.channels_of(consumer)}.get(version_id)
            if state is None:
                assert not stream.receipts
                continue
            assert sorted(stream.receipts) == list(range(1, state.sequence + 1))
            assert state.charged == stream.charged
            assert state.voucher is not None and state.voucher.amount >= state.charged
            paid = network.settlement.channel(consumer, node.operator, version_id).settled
            settled[version_id] += paid
            owed[version_id] += state.voucher.amount - paid
            issued[version_id] += state.sequence
    check_books(world, settled, owed, issued)


def check_books(
    world: World, settled: dict[Hash32, int], owed: dict[Hash32, int], issued: dict[Hash32, int]
) -> None:
    network, node = world.network, world.node
    rows = {row["version_id"]: row for row in world.profit()}
    for version_id, paid in settled.items():
        row = rows.get("0x" + version_id.hex())
        if row is None:
            assert not paid
            continue
        shares = [int(row[name]) for name in ("collected", "royalty", "fee")]
        assert (sum(shares), int(row["owed"])) == (paid, owed[version_id])
        assert (row["receipts"], row["voided"], row["pending"]) == (issued[version_id], "0", "0")
        assert row["open"] == "0"
    total = {name: sum(int(row[name]) for row in rows.values()) for name in ("collected", "royalty", "fee")}
    assert network.token.balance_of(node.operator) == total["collected"]
    assert network.settlement.claimable(world.versions[0].publisher) == total["royalty"]
    assert network.settlement.claimable(TREASURY) == total["fee"]
    left = sum(network.settlement.escrow(one.address, node.operator).balance for one in world.consumers)
    assert network.settlement.total_liabilities() == left + total["royalty"] + total["fee"]
    days = world.profit("--by", "day", "--days", "0")
    for name, value in total.items():
        assert sum(int(day[name]) for day in days) == value
    gas = sum(int(wei) for row in rows.values() for wei in row["gas_wei"].values())
    spent = 10**18 - network.client.get_balance(node.signer.address)
    assert gas == spent
