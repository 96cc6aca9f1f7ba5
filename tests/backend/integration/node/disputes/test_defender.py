"""The defender against a real dispute game: it answers, wins what is right, and knows what it cannot win."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from assay.chain.errors import RpcUnavailable
from assay.commitments.merkle import MerkleTree
from assay.errors import FatalError
from assay.exact.game import Phase
from assay.node.disputes.defender import REORG_BLOCKS, RETRY_SECONDS, Defender
from assay.node.disputes.dispute_log import DisputeLog, Outcome
from assay.node.disputes.tracing import TraceSource
from assay.node.receipts.log import read_data
from assay.node.receipts.retention import Retention
from assay.node.settlement.profit import read_profit
from assay.node.settlement.spending import Kind, totals
from assay.types import Hash32, Receipt
from numpy.typing import NDArray

from tests.support.chain_requests import chain_requests
from tests.support.defence import BOND, DISPUTE_WINDOW, MOVE_WINDOW, SLASH, DefenceWorld, defence_world
from tests.support.nodes import STAKE

TABLES = ("disputes", "cursors", "receipt_data", "receipts", "channels", "spending", "spending_totals")


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DefenceWorld]:
    with defence_world(tmp_path_factory.mktemp("defence")) as made:
        yield made


@pytest.fixture
def world(deployed: DefenceWorld) -> Iterator[DefenceWorld]:
    """The chain as it was deployed, and empty files of the node."""
    snapshot = deployed.network.chain.snapshot()
    yield deployed
    deployed.network.chain.revert(snapshot)
    with closing(deployed.log.database.connect()) as connection:
        for table in TABLES:
            connection.execute(f"DELETE FROM {table}")
    for file in deployed.node.folder.glob("outbox.sqlite3*"):
        file.unlink()


class Clock:
    """Follows the chain's time, and may be moved on."""

    def __init__(self, world: DefenceWorld) -> None:
        self._world, self.ahead = world, 0.0

    def __call__(self) -> float:
        return self._world.network.chain.timestamp() + self.ahead


def outcome(world: DefenceWorld, number: int) -> Outcome | None:
    with closing(DisputeLog(world.log.database)) as log:
        return next(row.outcome for row in log.unsettled(0) if row.dispute_id == number)


def step_until(defender: Defender, check: Callable[[], bool], seconds: float = 10.0) -> None:
    """A transaction that was broadcast is mined a moment later."""
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, "it did not happen in time"
        defender.step()


def test_step__honest_receipt__is_proven_wherever_the_challenger_points(world: DefenceWorld) -> None:
    record = world.open(world.issue().signed)
    places = random.Random(5)
    with world.defender() as defender:
        world.play(defender, lambda: places.randrange(1 << 20))
    closing_ = world.record(record.dispute_id).closing
    assert closing_ is not None
    assert (closing_.node_won, closing_.phase) == (True, Phase.PROVE_STEP)
    assert outcome(world, record.dispute_id) is Outcome.WON
    assert world.network.token.balance_of(world.node.operator) == BOND
    assert world.network.nodes.node(world.node.operator).stake == STAKE


def test_step__under_dispute__is_told_until_it_is_over(world: DefenceWorld) -> None:
    record = world.open(world.issue().signed)
    assert world.rows() == []
    with world.defender() as defender:
        defender.step()
        (row,) = world.rows()
        assert (row.dispute_id, row.phase, row.is_ours) == (record.dispute_id, Phase.ASSERT, True)
        step_until(defender, lambda: world.rows()[0].phase is Phase.SELECT)
        (row,) = world.rows()
        assert (row.is_ours, row.problem) == (False, None)
        assert row.deadline == world.record(record.dispute_id).state.deadline
        world.play(defender)
    assert world.rows() == []


def test_step__no_new_block__asks_for_the_head_alone(world: DefenceWorld) -> None:
    with world.defender() as defender:
        defender.step()
        with chain_requests() as seen:
            defender.step()
        assert seen == [("eth_getBlockByNumber",)]
        record = world.open(world.issue().signed)
        defender.step()
        assert [row.dispute_id for row in world.rows()] == [record.dispute_id]


@pytest.mark.parametrize("boundary", ["prepared", "persisted", "broadcast"])
def test_step__ended_at_every_move__goes_on_and_plays_each_once(world: DefenceWorld, boundary: str) -> None:
    """A new process for every step, each ended at a boundary of the sender's first transaction."""

    def die(name: str) -> None:
        if name == boundary:
            raise KeyboardInterrupt

    record = world.open(world.issue().signed)
    for turn in range(120):
        with world.defender(on_send=die if turn % 2 == 0 else lambda name: None) as defender:
            try:
                defender.step()
            except KeyboardInterrupt:
                continue
        world.challenge(3)
        if not world.record(record.dispute_id).is_open:
            break
    found = world.record(record.dispute_id)
    assert found.closing is not None
    assert found.closing.node_won
    own = [move for move in found.moves if move.phase not in (Phase.SELECT, *SELECTIONS)]
    assert world.sent() == len(own) + 1  # the step that was proven closed it
    with world.defender() as defender:
        defender._sender.resume()  # as the settler does
        defender.step()
    check_costs(world)


def check_costs(world: DefenceWorld) -> None:
    """What the signer has paid for its moves is what the books say, with the version that was defended."""
    network = world.network
    paid = 10**18 - network.client.get_balance(world.node.signer.address)
    with closing(world.log.database.connect()) as connection:
        rows = {row.version_id: row.gas[Kind.DEFEND] for row in read_profit(connection, 0, {})}
        counted = totals(connection)[Kind.DEFEND]
    assert rows == {world.published.version_id: paid}
    assert (counted.transactions, counted.wei) == (world.sent(), paid)


SELECTIONS = (Phase.SELECT_ELEMENT, Phase.SELECT_SEGMENT)


def test_step__several_disputes_of_one_receipt__answers_each(world: DefenceWorld) -> None:
    logged = world.issue()
    numbers = [world.open(logged.signed).dispute_id for _ in range(3)]
    with world.defender() as defender:
        world.play(defender, lambda: 1)
    assert [outcome(world, number) for number in numbers] == [Outcome.WON] * 3
    assert world.network.token.balance_of(world.node.operator) == 3 * BOND


def test_step__challenger_is_silent__claims_the_time_out(world: DefenceWorld) -> None:
    record = world.open(world.issue().signed)
    with world.defender() as defender:
        step_until(defender, lambda: bool(world.rows()) and not world.rows()[0].is_ours)
        sent = world.sent()
        world.network.chain.increase_time(MOVE_WINDOW - 10)
        defender.step()
        assert world.sent() == sent
        world.network.chain.increase_time(20)
        step_until(defender, lambda: outcome(world, record.dispute_id) is Outcome.WON)
    assert world.network.nodes.node(world.node.operator).frozen == 0
    assert world.sent() == sent + 1


def test_step__its_receipt_is_wrong__sends_nothing_and_names_the_element(world: DefenceWorld) -> None:
    logged = world.issue(lie={4: 1})
    record = world.open(logged.signed)
    true = int(world.version.run(read_input(world, logged.digest)).reshape(-1)[4])
    with world.defender() as defender:
        defender.step()
        (row,) = world.rows()
        assert row.problem is not None
        assert f"output 'y' element 4 was signed as {true + 1}; it is {true}" in row.problem
        world.network.chain.increase_time(MOVE_WINDOW + 1)
        defender.step()
        (row,) = world.rows()
        found = world.record(record.dispute_id)
        world.send(world.game.claim_timeout(found.dispute_id, found.state, found.receipt))
        defender.step()
    assert world.sent() == 0
    assert outcome(world, record.dispute_id) is Outcome.LOST
    assert world.network.nodes.node(world.node.operator).stake == STAKE - SLASH


def read_input(world: DefenceWorld, digest: bytes) -> NDArray[Any]:
    with closing(world.log.database.connect()) as connection:
        data = read_data(connection, digest)
    assert data is not None
    return data.inputs[0].array


def test_step__log_without_the_tensors__says_so(world: DefenceWorld) -> None:
    world.open(world.issue(keep=False).signed)
    with world.defender() as defender:
        defender.step()
    (row,) = world.rows()
    assert row.problem is not None
    assert "has no inputs of receipt" in row.problem
    assert world.sent() == 0


def test_step__one_dispute_is_lost__the_other_is_answered(world: DefenceWorld) -> None:
    lost = world.open(world.issue(lie={0: 1}).signed).dispute_id
    right = world.open(world.issue().signed).dispute_id
    with world.defender() as defender:
        step_until(defender, lambda: world.record(right).state.phase is Phase.SELECT)
    assert world.record(lost).state.phase is Phase.ASSERT


def test_step__signer_without_gas__says_so_and_goes_on_with_gas(world: DefenceWorld) -> None:
    clock = Clock(world)
    record = world.open(world.issue().signed)
    signer = world.node.signer.address
    world.network.chain.set_balance(signer, 0)
    with world.defender(clock=clock) as defender:
        defender.step()
        (row,) = world.rows()
        assert row.problem is not None
        assert "cannot pay gas" in row.problem
        world.network.chain.set_balance(signer, 10**18)
        clock.ahead = RETRY_SECONDS
        defender.step()
        assert world.rows()[0].problem is None
        step_until(defender, lambda: world.record(record.dispute_id).state.phase is Phase.SELECT)


def test_step__reorg_drops_its_move__plays_it_again(world: DefenceWorld) -> None:
    record = world.open(world.issue().signed)
    world.network.chain.mine(2)
    with world.defender() as defender:
        step_until(defender, lambda: world.record(record.dispute_id).state.phase is Phase.SELECT)
        world.network.chain.reorg(1)
        assert world.record(record.dispute_id).state.phase is Phase.ASSERT
        world.play(defender)
    assert outcome(world, record.dispute_id) is Outcome.WON


def test_step__reorg_drops_the_opening__forgets_the_dispute(world: DefenceWorld) -> None:
    world.open(world.issue().signed)
    with world.defender() as defender:
        defender.follow(world.network.client.get_block("latest"))
        assert len(world.rows()) == 1
        world.network.chain.reorg(1)
        defender.step()
    assert world.rows() == []
    assert world.sent() == 0


def test_step__reorg_drops_the_closing__goes_on_until_it_is_closed_again(world: DefenceWorld) -> None:
    record = world.open(world.issue().signed)
    with world.defender() as defender:
        world.play(defender)
        assert world.rows() == []
        world.network.chain.reorg(1)
        assert world.record(record.dispute_id).is_open
        step_until(defender, lambda: not world.record(record.dispute_id).is_open)
        step_until(defender, lambda: outcome(world, record.dispute_id) is Outcome.WON)


def test_step__started_long_after_the_opening__reads_it_from_the_chain(world: DefenceWorld) -> None:
    record = world.open(world.issue().signed)
    with world.defender() as defender:
        defender.step()
    world.network.chain.mine(2 * REORG_BLOCKS, 0)
    with world.defender() as defender:
        defender.step()
        world.network.chain.mine(2 * REORG_BLOCKS, 0)
        defender.step()
    with world.defender() as defender:
        world.play(defender)
    assert outcome(world, record.dispute_id) is Outcome.WON


def test_step__move_that_the_contract_refuses__is_not_sent_and_said(world: DefenceWorld) -> None:
    """Nothing doomed is sent; with its own trace the next defender goes on."""
    logged = world.issue()
    record = world.open(logged.signed)

    class Forged:
        """The honest trace under a tree that is not its own."""

        def __init__(self, honest: TraceSource) -> None:
            self._honest = honest

        def trace(self, receipt: Receipt, digest: Hash32) -> Any:
            trace: Any = self._honest.trace(receipt, digest)
            trace.__dict__["tree"] = MerkleTree([bytes(32)] * len(trace.roots))
            return trace

    with world.defender(traces=Forged(world.traces())) as defender:
        defender.step()
    (row,) = world.rows()
    assert row.problem is not None
    assert "the contract refuses the move: disputes: " in row.problem or "steps: " in row.problem
    assert world.sent() == 0
    with world.defender() as defender:
        step_until(defender, lambda: world.record(record.dispute_id).state.phase is Phase.SELECT)


def test_step__rpc_is_down__raises_to_be_tried_again(
    world: DefenceWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.open(world.issue().signed)
    with world.defender() as defender:
        with monkeypatch.context() as patch:

            def down(*arguments: object, **options: object) -> None:
                raise RpcUnavailable("down")

            patch.setattr(world.network.client, "get_logs", down)
            with pytest.raises(RpcUnavailable):
                defender.step()
        defender.step()
    assert world.rows()[0].is_ours


def test_step__windows_have_passed__drops_tensors_that_no_dispute_can_need(world: DefenceWorld) -> None:
    disputed, free = world.issue(), world.issue()
    world.open(disputed.signed)
    retention = Retention(DISPUTE_WINDOW, free_receipts=False)
    with world.defender(retention=retention) as defender:
        defender.step()
        world.network.chain.increase_time(DISPUTE_WINDOW + 1)
        world.network.chain.mine(2 * REORG_BLOCKS, 0)
        defender._pruned_at = 0.0
        defender.step()
    with closing(world.log.database.connect()) as connection:
        kept = [read_data(connection, one.digest) is not None for one in (disputed, free)]
    assert kept == [True, False]


def test_log_traces__damaged_inputs__are_refused(world: DefenceWorld) -> None:
    logged, other = world.issue(), world.issue()
    world.open(logged.signed)
    with closing(world.log.database.connect()) as connection:
        connection.execute(
            "UPDATE receipt_data SET content ="
            " (SELECT content FROM receipt_data ORDER BY receipt DESC LIMIT 1)"
        )
    with world.defender() as defender:
        defender.step()
    assert other.digest != logged.digest
    problem = world.rows()[0].problem
    assert problem is not None
    assert "other inputs" in problem


def test_step__contract_of_other_rules__stops_loudly(
    world: DefenceWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("assay.node.disputes.defender.PARTS", 3)
    with world.defender() as defender, pytest.raises(FatalError, match="every dispute would be lost"):
        defender.step()
