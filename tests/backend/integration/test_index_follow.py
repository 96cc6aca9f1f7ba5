"""The index on a real chain: what it derives, reorgs, faults, restarts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from assay.chain.settlement import voucher_rows
from assay.chain.values import Call
from assay.db.engine import read_session
from assay.db.tables import (
    Batch,
    BatchVoucher,
    Channel,
    Escrow,
    Event,
    Model,
    Node,
    Offer,
    Reorg,
    Signer,
    Version,
)
from assay.errors import ConfigurationError, FatalError, RetryableError
from assay.index.follower import MAX_REORG, Outcome
from assay.types import SkipReason
from sqlalchemy import select

from tests.support.deploy import UNIT, deploy
from tests.support.index_tables import contents, follow, new_database, new_follower
from tests.support.index_world import World, index_world
from tests.support.postgresql import Cluster

on_both = pytest.mark.parametrize("server", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which database `new_database` makes."""
    if request.param == "postgresql":
        cluster: Cluster = request.getfixturevalue("postgresql")
        monkeypatch.setenv("ASSAY_TEST_POSTGRESQL", cluster.url())


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with index_world(tmp_path) as made:
        yield made


@on_both
@pytest.mark.usefixtures("server")
def test_step__whole_life_of_a_market__derives_what_the_contracts_say(world: World, tmp_path: Path) -> None:
    version = world.publish("digits")
    other = world.publish("trees", program_root=b"\x01" * 32)
    node = world.add_node("http://node.test", {version: 10, other: 0})
    consumer = world.consumer(1)
    first = world.serve(node, version, consumer, 3)
    receipts = world.receipts(node, version, consumer.address, 2)
    stale = world.voucher(node, version, consumer, 30, 3)
    poor = world.voucher(node, version, world.consumer(2), 5, 1)
    forged = world.voucher(node, version, consumer, 50, 5)
    forged = type(forged)(forged.voucher, b"\x01" * 65)
    world.fund(consumer.address, node.operator, 15)
    good = world.voucher(node, version, consumer, 50, 5)
    second = world.post(node, version, receipts, [stale, poor, good, forged])
    world.deprecate(other)
    rotated = world.key("second signer")
    world.send(node.operator, world.nodes.rotate_signer(rotated.address))
    world.send(node.operator, world.nodes.begin_unstake(5 * UNIT))
    world.send(node.operator, world.nodes.withdraw_offer(other))
    world.finish()
    world.send(world.accounts[0], world.settlement.collect([first.key]))

    engine = new_database(tmp_path)
    follow(new_follower(engine, world.rpc, world.deployment))

    with read_session(engine) as session:
        assert {m.name for m in session.scalars(select(Model))} == {"digits", "trees"}
        assert [v.status for v in session.scalars(select(Version).order_by(Version.block_number))] == [1, 2]
        row = session.scalars(select(Node)).one()
        on_chain = world.nodes.node(node.operator)
        assert (row.stake, row.thawing, row.thaw_at) == (on_chain.stake, on_chain.thawing, on_chain.thaw_at)
        assert row.signer == rotated.address
        signers = {s.signer: (s.valid_from, s.valid_to) for s in session.scalars(select(Signer))}
        for key in (node.signer.address, rotated.address):
            info = world.nodes.signer_info(key)
            assert signers[key] == (info.valid_from, info.valid_to)
        assert {o.version_id: o.active for o in session.scalars(select(Offer))} == {
            "0x" + version.hex(): True,
            "0x" + other.hex(): False,
        }
        channel = session.scalars(select(Channel)).one()
        chain_channel = world.settlement.channel(consumer.address, node.operator, version)
        assert (channel.settled, channel.count) == (chain_channel.settled, chain_channel.count)
        assert (channel.settled, channel.amount) == (45, 50)
        escrow = session.scalars(select(Escrow)).one()
        assert escrow.balance == world.settlement.escrow(consumer.address, node.operator).balance == 0
        batches = {b.batch_id: b for b in session.scalars(select(Batch))}
        assert batches[first.batch_id].collected and not batches[second.batch_id].collected
        assert batches[second.batch_id].vouchers_known
        rows = session.scalars(select(BatchVoucher).where(BatchVoucher.batch_id == second.batch_id)).all()
        assert [(r.paid, r.counted) for r in rows if not r.skipped] == [(15, 2)]
        assert sorted(r.reason for r in rows if r.skipped) == [
            SkipReason.STALE,
            SkipReason.BAD_SIGNATURE,
            SkipReason.NO_ESCROW,
        ]


def test_step__unsigned_copy_before_the_voucher__does_not_mislead(world: World, tmp_path: Path) -> None:
    """Which of two equal rows was skipped no event tells; taking the wrong one gave a negative payment."""
    version = world.publish()
    node = world.add_node("http://node.test", {version: 10})
    consumer = world.consumer(1)
    world.fund(consumer.address, node.operator, 30)
    receipts = world.receipts(node, version, consumer.address, 3)
    signed = [world.voucher(node, version, consumer, 10 * n, n) for n in (1, 2, 3)]
    rows, _ = voucher_rows(world.deployment.domain, signed)
    copy = (*rows[1][:3], b"\x01" * 32, b"\x01" * 32)
    root = world.batch(node, version, receipts).key.receipts_root
    order = [copy, rows[0], rows[1], rows[2]]
    world.send(node.operator, world.settlement.write("post_batch", node.operator, version, root, order, []))
    engine = new_database(tmp_path)
    follow(new_follower(engine, world.rpc, world.deployment))
    with read_session(engine) as session:
        assert session.scalars(select(Batch)).one().vouchers_known
        channel = session.scalars(select(Channel)).one()
        assert (channel.settled, channel.count) == (30, 3)
        assert session.scalars(select(Escrow)).one().balance == 0
        paid = session.scalars(select(BatchVoucher).where(~BatchVoucher.skipped)).all()
        assert [(row.paid, row.counted) for row in paid] == [(30, 3)]


def test_step__strings_that_are_not_utf8__are_indexed_with_replacements(world: World, tmp_path: Path) -> None:
    call = world.models.register_model("odd", "x" * 40)
    hostile = Call(call.to, call.data.replace(b"x" * 40, b"\xff\x00" * 20))
    world.send(world.accounts[3], hostile)
    engine = new_database(tmp_path)
    follow(new_follower(engine, world.rpc, world.deployment))
    with read_session(engine) as session:
        uri = session.scalars(select(Model.metadata_uri).where(Model.name == "odd")).one()
    assert uri == "\ufffd" * 40


@pytest.mark.parametrize("depth", [1, 5, MAX_REORG])
def test_step__reorg_up_to_64_deep__leaves_the_tables_of_a_fresh_index(
    world: World, tmp_path: Path, depth: int
) -> None:
    version = world.publish()
    node = world.add_node("http://node.test", {version: 10})
    world.serve(node, version, world.consumer(1), 2)
    snapshot = world.chain.snapshot()
    kept = (dict(world.issued), dict(world.owed))
    start = world.chain.block_number()
    world.serve(node, version, world.consumer(1), 3)
    world.send(node.operator, world.nodes.offer(version, 99))
    world.chain.mine(max(0, depth - (world.chain.block_number() - start)))
    while world.chain.block_number() - start < depth:
        world.chain.mine()
    engine = new_database(tmp_path)
    follower = new_follower(engine, world.rpc, world.deployment)
    follow(follower, until=start + depth)
    assert follower.position().number == start + depth

    world.chain.revert(snapshot)
    world.issued, world.owed = kept
    world.chain.increase_time(7)
    world.serve(node, version, world.consumer(2), 1)
    world.chain.mine(depth)
    step = follower.step()
    follow(follower)

    assert (step.outcome, step.reorg_depth) == (Outcome.ADVANCED, depth)
    fresh = new_database(tmp_path, "fresh")
    follow(new_follower(fresh, world.rpc, world.deployment))
    left, right = contents(engine, "reorgs", "cursor"), contents(fresh, "reorgs", "cursor")
    for tables in (left, right):
        for row in tables["events"]:
            del row["seq"]
        tables["events"].sort(key=repr)
    assert left == right
    with read_session(engine) as session:
        reorg = session.scalars(select(Reorg)).one()
        later = session.scalars(select(Event.seq).where(Event.block_number > reorg.ancestor_number)).all()
    assert (reorg.ancestor_number, reorg.old_number) == (start, start + depth)
    assert all(seq > reorg.seq for seq in later)


def test_step__reorg_deeper_than_64__stops_with_a_cure(world: World, tmp_path: Path) -> None:
    world.publish()
    snapshot = world.chain.snapshot()
    world.chain.mine(MAX_REORG + 1)
    engine = new_database(tmp_path)
    follower = new_follower(engine, world.rpc, world.deployment)
    follow(follower)
    before = contents(engine)
    world.chain.revert(snapshot)
    world.chain.increase_time(3)
    world.chain.mine(MAX_REORG + 5)
    with pytest.raises(FatalError, match=r"more than 64 blocks.*backfill --reset"):
        follower.step()
    assert contents(engine) == before


def test_step__anvil_reorg_drops_transactions__their_rows_go(world: World, tmp_path: Path) -> None:
    world.publish("kept")
    engine = new_database(tmp_path)
    world.publish("dropped")
    follower = new_follower(engine, world.rpc, world.deployment)
    follow(follower)
    world.chain.reorg(2)
    world.chain.mine()
    follow(follower)
    with read_session(engine) as session:
        assert list(session.scalars(select(Model.name))) == ["kept"]


def test_step__chain_reverted_to_lower_head__waits_and_keeps_everything(world: World, tmp_path: Path) -> None:
    snapshot = world.chain.snapshot()
    world.publish()
    engine = new_database(tmp_path)
    follower = new_follower(engine, world.rpc, world.deployment)
    follow(follower)
    before = contents(engine)
    world.chain.revert(snapshot)
    assert follower.step().outcome is Outcome.BEHIND
    assert contents(engine) == before


def test_prepare__database_of_another_deployment__is_refused(world: World, tmp_path: Path) -> None:
    engine = new_database(tmp_path)
    new_follower(engine, world.rpc, world.deployment)
    other = deploy(world.chain.url, tmp_path / "other")
    with pytest.raises(ConfigurationError, match="another database"):
        new_follower(engine, world.chain.url, other)


def test_step__two_index_processes_on_one_database__second_writer_stops(world: World, tmp_path: Path) -> None:
    engine = new_database(tmp_path)
    first = new_follower(engine, world.rpc, world.deployment)
    second = new_follower(engine, world.rpc, world.deployment)
    position = second.position()
    follow(first)
    second.position = lambda: position  # type: ignore[method-assign]
    with pytest.raises(FatalError, match="another index process"):
        second.step()


def test_step__rpc_gone__is_retryable_and_changes_nothing(world: World, tmp_path: Path) -> None:
    engine = new_database(tmp_path)
    follower = new_follower(engine, world.rpc, world.deployment)
    before = contents(engine)
    world.chain.kill()
    with pytest.raises(RetryableError):
        follower.step()
    assert contents(engine) == before
