"""The index on a chain with real disputes: what it derives from games, time-outs, frauds; reorgs of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from assay.api.figures import count_inferences
from assay.chain.values import Call
from assay.commitments.receipts import receipt_digest
from assay.commitments.tensors import commit_tensors
from assay.db.engine import read_session
from assay.db.repositories.network import dispute_figures, final_batches
from assay.db.tables import Batch, Cursor, Dispute, DisputeMove, Escrow, Fraud, Node, ProgramCheck, Void
from assay.errors import ConfigurationError
from assay.exact.dispute import Phase, Side
from assay.exact.game import defend
from assay.exact.lowering import lower
from assay.exact.trace import run_trace
from assay.index.batches import BatchChecker
from assay.index.disputes import GAME_FIELDS
from assay.index.download import Limits
from assay.index.rows import plain
from assay.types import Hash32, SignedReceipt
from sqlalchemy import Engine, insert, select, update

from tests.support.batch_server import BatchServer, batch_server
from tests.support.deploy import UNIT
from tests.support.game_players import point
from tests.support.index_tables import check_batches, contents, follow, new_database, new_follower
from tests.support.index_world import PostedBatch, TestNode, World, index_world
from tests.support.onnx_models import convolution_model

SLASH = UNIT


@dataclass
class Setting:
    world: World
    server: BatchServer
    engine: Engine
    folder: Path
    version: Hash32
    node: TestNode

    def index(self) -> None:
        follow(new_follower(self.engine, self.world.rpc, self.world.deployment))

    def check(self) -> None:
        check_batches(BatchChecker(self.engine, self.world.deployment.domain, Limits(1 << 20, 2.0, True)))
        with self.engine.begin() as connection:
            row = {
                "outcome": "lowered",
                "reason": "",
                "attempts": 1,
                "checked_at": 1,
                "next_attempt_at": 2**62,
            }
            artifact = "0x" + self.world.models.version(self.version).artifact.hex()
            root = "0x" + lower(convolution_model()).root.hex()
            connection.execute(insert(ProgramCheck).values(artifact=artifact, program_root=root, **row))

    def serve(self, count: int = 3, consumer: int = 1) -> PostedBatch:
        batch = self.world.serve(self.node, self.version, self.world.consumer(consumer), count)
        self.server.publish(batch.batch_id, batch.body)
        return batch

    def row(self, number: int) -> Dispute:
        with read_session(self.engine) as session:
            row = session.get(Dispute, number)
        assert row is not None
        return row

    def answer(self, sequence: int) -> tuple[SignedReceipt, Any]:
        """A true receipt of zeros, and its trace."""
        trace = run_trace(lower(convolution_model()), [np.zeros((1, 1, 4, 4), np.uint8)])
        signed = self.world.receipt(self.node, self.version, self.world.consumer(5).address, sequence)
        inputs = commit_tensors([np.zeros((1, 1, 4, 4), np.uint8)])
        receipt = replace(signed.receipt, input_hash=inputs, output_hash=commit_tensors(trace.outputs))
        digest = receipt_digest(self.world.deployment.domain, receipt)
        return SignedReceipt(receipt, self.node.signer.sign(digest)), trace

    def play(self, number: int, trace: Any, until: Phase | None = None) -> None:
        """The node by its trace, the challenger pointing at the first place, to the end."""
        while (record := self.world.dispute(number)).side and record.state.phase != until:
            if record.side is Side.NODE:
                sender, move = self.node.operator, defend(record.state, trace, record.receipt)
            else:
                chosen = point(record.state, record.data, 0)
                assert chosen is not None
                sender, move = self.world.accounts[0], chosen
            self.world.send(sender, self.world.game.move(number, record.state, move))


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Setting]:
    with index_world(tmp_path, disputes=True) as world, batch_server() as server:
        version = world.publish("digits", lower(convolution_model()).root)
        node = world.add_node(server.url, {version: 10})
        yield Setting(world, server, new_database(tmp_path), tmp_path, version, node)


def test_step__game_that_the_node_wins__has_every_move_and_the_contract_s_state(setting: Setting) -> None:
    signed, trace = setting.answer(1)
    number = setting.world.open_dispute(signed)
    setting.play(number, trace, until=Phase.PROVE_STEP)
    setting.index()
    row, record = setting.row(number), setting.world.dispute(number)
    assert row.game == dict(zip(GAME_FIELDS, map(plain, record.state.row()), strict=True))
    assert (row.state, row.phase, row.deadline) == ("open", Phase.PROVE_STEP, record.state.deadline)
    with read_session(setting.engine) as session:
        moves = session.scalars(select(DisputeMove).order_by(DisputeMove.number)).all()
        frozen = session.scalars(select(Node.frozen)).one()
    assert [(m.number, m.phase, m.data) for m in moves] == [
        (position, played.phase, "0x" + played.data.hex())
        for position, played in enumerate(record.moves, start=1)
    ]
    assert (row.moves, frozen) == (len(moves), 1) and len(moves) >= 3

    setting.play(number, trace)
    setting.index()
    row = setting.row(number)
    assert (row.state, row.phase, row.slashed) == ("node_won", Phase.PROVE_STEP, 0)
    assert row.closed_at >= row.opened_at > 0
    with read_session(setting.engine) as session:
        assert session.scalars(select(Node.frozen)).one() == 0
        assert session.scalars(select(Void)).all() == []


def test_step__silent_node__loses_stake_receipt_and_shows_who_got_what(setting: Setting) -> None:
    batch = setting.serve()
    number = setting.world.open_dispute(batch.receipts[1], batch)
    setting.index()
    assert setting.row(number).batch_id == batch.batch_id
    with read_session(setting.engine) as session:
        assert session.get(Batch, batch.batch_id).holds == 1  # type: ignore[union-attr]
    setting.world.time_out(number)
    setting.index()
    row, closing = setting.row(number), setting.world.dispute(number).closing
    assert closing is not None and row.state == "challenger_won"
    shares = (row.slashed, row.to_challenger, row.to_consumer, row.to_treasury)
    assert shares == (closing.slashed, closing.to_challenger, closing.to_consumer, closing.to_treasury)
    on_chain = setting.world.nodes.node(setting.node.operator)
    with read_session(setting.engine) as session:
        node, posted = session.scalars(select(Node)).one(), session.get(Batch, batch.batch_id)
        assert posted is not None and (posted.holds, posted.voided) == (0, 1)
        assert (node.stake, node.slashed, node.frozen) == (on_chain.stake, SLASH, 0)
        escrow = setting.world.settlement.escrow(setting.world.consumer(1).address, setting.node.operator)
        assert session.scalars(select(Escrow.balance)).one() == escrow.balance == 10
        assert dispute_figures(session).slashed == SLASH


def test_step__two_disputes_of_one_receipt__end_each_by_itself(setting: Setting) -> None:
    batch = setting.serve()
    first = setting.world.open_dispute(batch.receipts[0], batch)
    second = setting.world.open_dispute(batch.receipts[0], batch)
    setting.world.time_out(first)
    setting.index()
    assert (setting.row(first).state, setting.row(second).state) == ("challenger_won", "open")
    setting.world.time_out(second)
    setting.index()
    assert setting.row(second).state == "challenger_won"
    with read_session(setting.engine) as session:
        assert len(session.scalars(select(Void)).all()) == 1
        assert session.get(Batch, batch.batch_id).voided == 1  # type: ignore[union-attr]


def contradict(setting: Setting) -> Call:
    one = setting.world.receipt(setting.node, setting.version, setting.world.consumer(7).address, 1)
    other = replace(one.receipt, output_hash=Hash32(b"\x05" * 32), sequence=2)
    digest = receipt_digest(setting.world.deployment.domain, other)
    second = SignedReceipt(other, setting.node.signer.sign(digest))
    return setting.world.game.prove_contradiction(one, second)


def equivocate(setting: Setting) -> Call:
    pair = [
        setting.world.receipt(setting.node, setting.version, setting.world.consumer(7).address, 1, price)
        for price in (1, 2)
    ]
    return setting.world.game.prove_equivocation(*pair)


@pytest.mark.parametrize(("prove", "kind"), [(contradict, "contradiction"), (equivocate, "equivocation")])
def test_step__two_signatures_that_convict__are_a_fraud(
    setting: Setting, prove: Callable[[Setting], Call], kind: str
) -> None:
    setting.world.send(setting.world.accounts[0], prove(setting))
    setting.index()
    with read_session(setting.engine) as session:
        fraud = session.scalars(select(Fraud)).one()
        figures = dispute_figures(session)
    assert (fraud.kind, fraud.node, fraud.reporter) == (
        kind,
        setting.node.operator,
        setting.world.accounts[0],
    )
    assert (fraud.slashed, fraud.to_reporter) == (SLASH, SLASH // 2)
    assert (figures.frauds, figures.slashed) == (1, SLASH)


def verified(setting: Setting) -> tuple[int, int]:
    with read_session(setting.engine) as session:
        found = count_inferences(final_batches(session))
    return found.settled, found.verified


def test_figures__receipt_voided_before_its_batch__is_not_verified(setting: Setting) -> None:
    """Nothing of the batch was given back for it, so the batch's own count does not tell."""
    early = setting.world.receipts(setting.node, setting.version, setting.world.consumer(1).address, 3)
    setting.world.time_out(setting.world.open_dispute(early[1]))
    consumer = setting.world.consumer(1)
    setting.world.fund(consumer.address, setting.node.operator, 30)
    voucher = setting.world.voucher(setting.node, setting.version, consumer, 30, 3)
    batch = setting.world.post(setting.node, setting.version, early, [voucher])
    setting.server.publish(batch.batch_id, batch.body)
    setting.world.finish()
    setting.world.chain.mine()
    setting.index()
    setting.check()
    with read_session(setting.engine) as session:
        assert session.get(Batch, batch.batch_id).voided == 0  # type: ignore[union-attr]
    assert verified(setting) == (2, 2)


def test_figures__held_batch__counts_once_it_is_released(setting: Setting) -> None:
    batch = setting.serve(3)
    number = setting.world.open_dispute(batch.receipts[0], batch)
    setting.world.finish()
    setting.world.chain.mine()
    setting.index()
    setting.check()
    assert verified(setting) == (0, 0)
    setting.world.time_out(number)
    setting.index()
    assert verified(setting) == (2, 2)


def test_figures__receipt_disputed_outside_its_final_batch__waits(setting: Setting) -> None:
    """Opened before the batch was posted, the dispute does not hold it."""
    consumer = setting.world.consumer(1)
    receipts = setting.world.receipts(setting.node, setting.version, consumer.address, 3)
    number = setting.world.open_dispute(receipts[0])
    voucher = setting.world.voucher(setting.node, setting.version, consumer, 0, 3)
    batch = setting.world.post(setting.node, setting.version, receipts, [voucher])
    setting.server.publish(batch.batch_id, batch.body)
    setting.world.finish()
    setting.world.chain.mine()
    setting.index()
    setting.check()
    assert verified(setting) == (3, 2)
    setting.world.time_out(number)
    setting.index()
    assert verified(setting) == (2, 2)


def test_figures__program_not_reproduced__is_settled_and_not_verified(setting: Setting) -> None:
    setting.serve(3)
    setting.world.finish()
    setting.world.chain.mine()
    setting.index()
    setting.check()
    assert verified(setting) == (3, 3)
    with setting.engine.begin() as connection:
        connection.execute(update(ProgramCheck).values(program_root="0x" + "66" * 32))
    assert verified(setting) == (3, 0)
    with setting.engine.begin() as connection:
        connection.execute(update(ProgramCheck).values(program_root=None, outcome="failed"))
    assert verified(setting) == (3, 0)


def test_step__reorg_in_the_middle_of_disputes__leaves_the_tables_of_a_fresh_index(setting: Setting) -> None:
    world, chain = setting.world, setting.world.chain
    signed, trace = setting.answer(1)
    running, batch = world.open_dispute(signed), setting.serve()
    lost = world.open_dispute(batch.receipts[0], batch)
    setting.play(running, trace, until=Phase.SELECT)
    snapshot, start = chain.snapshot(), chain.block_number()
    setting.play(running, trace)
    world.time_out(lost)
    world.send(world.accounts[0], equivocate(setting))
    setting.index()
    assert (setting.row(running).state, setting.row(lost).state) == ("node_won", "challenger_won")
    depth = chain.block_number() - start

    chain.revert(snapshot)
    world.time_out(running)
    chain.mine(depth)
    setting.index()
    assert (setting.row(running).state, setting.row(lost).state) == ("node_won", "open")
    assert setting.row(running).phase == Phase.SELECT, "the challenger was silent this time"
    fresh = new_database(setting.folder, "fresh")
    follow(new_follower(fresh, world.rpc, world.deployment))
    left, right = contents(setting.engine, "reorgs", "cursor"), contents(fresh, "reorgs", "cursor")
    for tables in (left, right):
        for row in tables["events"]:
            del row["seq"]
        tables["events"].sort(key=repr)
    assert left == right
    assert left["frauds"] == [] and len(left["dispute_moves"]) == 1


def test_prepare__database_filled_without_the_game__is_refused(setting: Setting) -> None:
    setting.index()
    with setting.engine.begin() as connection:
        connection.execute(update(Cursor).values(dispute_game="0x" + "00" * 20))
    with pytest.raises(ConfigurationError, match=r"without the events of DisputeGame.*backfill --reset"):
        setting.index()
