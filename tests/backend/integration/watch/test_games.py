"""Wrong receipts are disputed and won, right ones left alone; signatures that contradict are proven."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from assay.chain.outbox import Outbox
from assay.exact.game import Phase
from assay.types import ZERO_HASH, FraudKind, Hash32
from assay.watch.account import account_for, fetch_gas, recompute
from assay.watch.decision import Join
from assay.watch.setup import OUTBOX_FILE, open_judge
from assay.watch.values import ChallengeState

from tests.support.watched import BOND, INNER, SLASH, WatchedWorld, exact_model, publish


def test_watch__one_wrong_answer_of_two__is_disputed_won_and_void(world: WatchedWorld, folder: Path) -> None:
    right, wrong = world.node.answer(), world.node.answer(changes={3: 1})
    world.node.post([right, wrong])
    key = world.watcher_key()
    before = world.contracts.token.balance_of(key.address)
    with world.watch(folder, key) as watch:
        world.play_to_end(lambda: watch.run(once=True))
        summary = watch.summary()
    (record,) = world.disputes().values()
    assert record.opened.digest == wrong.digest
    assert record.closing is not None
    assert not record.closing.node_won
    assert record.closing.phase is Phase.PROVE_STEP
    assert world.contracts.settlement.is_void(wrong.digest)
    assert not world.contracts.settlement.is_void(right.digest)
    money = summary.money
    assert (money.disputes, money.won, money.bonds_back, money.slash_share) == (1, 1, BOND, SLASH // 2)
    assert world.contracts.token.balance_of(key.address) - before == money.tokens == SLASH // 2
    (node,) = summary.nodes
    assert node.verdicts == {"right": 1, "wrong": 1}
    assert node.data == {"available": 2}


def test_watch__gas_that_it_reports__is_what_left_its_account(world: WatchedWorld, folder: Path) -> None:
    world.node.post([world.node.answer(changes={0: 1})])
    key = world.watcher_key()
    before = world.contracts.client.get_balance(key.address)
    with world.watch(folder, key) as watch:
        world.play_to_end(lambda: watch.run(once=True))
        money = watch.summary().money
    assert before - world.contracts.client.get_balance(key.address) == money.gas_wei > 0
    with Outbox(folder / OUTBOX_FILE) as outbox:
        spent = outbox.gas_spent(world.chain.chain_id, key.address)
    assert len(spent) == money.transactions
    (record,) = world.disputes().values()
    bills = fetch_gas(world.contracts.client, [record])[record.dispute_id]
    assert money.gas_wei > bills["challenger"].wei > 0  # type: ignore[index]


def test_watch__honest_node__is_left_alone(world: WatchedWorld, folder: Path) -> None:
    world.node.post([world.node.answer() for _ in range(3)])
    with world.watch(folder, world.watcher_key()) as watch:
        watch.run(once=True)
        watch.run(once=True)
        (node,) = watch.summary().nodes
    assert node.verdicts == {"right": 3}
    assert world.disputes() == {}


def test_watch__node_that_never_answers__loses_by_time(world: WatchedWorld, folder: Path) -> None:
    world.node.silent_after = 0
    world.node.post([world.node.answer(changes={1: 7})])
    with world.watch(folder, world.watcher_key()) as watch:
        world.play_to_end(lambda: watch.run(once=True))
    (record,) = world.disputes().values()
    assert record.closing is not None
    assert (record.closing.node_won, record.closing.phase) == (False, Phase.ASSERT)


def test_watch__inputs_that_no_program_takes__are_won_without_a_trace(
    world: WatchedWorld, folder: Path
) -> None:
    good = world.node.answer()
    wide = replace(good.data.inputs[0], shape=(1, 2 * INNER), data=good.data.inputs[0].data)
    data = replace(good.data, inputs=(wide,))
    wrong = world.node.answer(input_hash=data.input_hash)
    world.node.post([wrong])
    world.node.serve_data(replace(wrong, data=data))
    world.node.silent_after = 0
    with world.watch(folder, world.watcher_key()) as watch:
        world.play_to_end(lambda: watch.run(once=True))
    (record,) = world.disputes().values()
    assert record.closing is not None
    assert not record.closing.node_won


def test_watch__somebody_disputes_it_already__joins_unless_told_not_to(
    world: WatchedWorld, folder: Path, tmp_path: Path
) -> None:
    wrong = world.node.answer(changes={3: 1})
    world.node.post([wrong])
    first, second, third = (world.watcher_key(seed) for seed in (1, 2, 3))
    with world.watch(tmp_path / "friend", first) as friend:
        friend.run(once=True)
    assert len(world.disputes()) == 1
    with world.watch(tmp_path / "never", third, join=Join.NEVER) as watch:
        watch.run(once=True)
        assert watch.summary().challenges == {"due": 1}
    assert len(world.disputes()) == 1
    with world.watch(folder, second) as watch:
        # the friend never moves again: it loses, this one wins
        world.play_to_end(lambda: watch.run(once=True), challenger=second.address)
    friendly, ours = world.disputes().values()
    assert (friendly.challenger, ours.challenger) == (first.address, second.address)
    assert ours.closing is not None
    assert not ours.closing.node_won


def test_watch__receipt_that_is_void_already__is_not_disputed(
    world: WatchedWorld, folder: Path, tmp_path: Path
) -> None:
    world.node.post([world.node.answer(changes={3: 1})])
    with world.watch(tmp_path / "first", world.watcher_key(1)) as watch:
        world.play_to_end(lambda: watch.run(once=True))
    with world.watch(folder, world.watcher_key(2)) as watch:
        watch.run(once=True)
        assert watch.summary().challenges == {"dropped": 1}
    assert len(world.disputes()) == 1


def test_watch__without_the_bond__waits_until_it_is_there(world: WatchedWorld, folder: Path) -> None:
    wrong = world.node.answer(changes={3: 1})
    world.node.post([wrong])
    key = world.watcher_key(tokens=0)
    with world.watch(folder, key) as watch:
        watch.run(once=True)
        assert world.disputes() == {}
        (row,) = watch.store.rows("SELECT state, reason FROM challenges")
        assert row[0] == ChallengeState.DUE
        assert "bond" in row[1]
        world.fund(key.address, BOND)
        watch.store.record_challenge(wrong.digest, ChallengeState.DUE, attempts=0)
        watch.run(once=True)
    assert len(world.disputes()) == 1


def test_watch__without_gas__does_not_open(world: WatchedWorld, folder: Path) -> None:
    world.node.post([world.node.answer(changes={3: 1})])
    key = world.watcher_key()
    world.chain.set_balance(key.address, 10**9)
    with world.watch(folder, key) as watch:
        watch.run(once=True)
        (row,) = watch.store.rows("SELECT state, reason FROM challenges")
    assert row[0] == ChallengeState.DUE
    assert "gas" in row[1]
    assert world.disputes() == {}


def test_watch__two_receipts_of_one_sequence__are_proven_an_equivocation(
    world: WatchedWorld, folder: Path
) -> None:
    first = world.node.answer(public=False)
    second = world.node.answer(public=False, sequence=first.signed.receipt.sequence)
    world.node.post([first])
    world.node.post([second])
    with world.watch(folder, world.watcher_key()) as watch:
        for _ in range(3):
            watch.run(once=True)
        summary = watch.summary()
        (report,) = watch.parts.challenger.ledger.reports()  # type: ignore[union-attr]
    assert report.kind is FraudKind.EQUIVOCATION
    assert report.digests == {first.digest, second.digest}
    assert (summary.money.reports, summary.money.report_share) == (1, SLASH // 2)


def test_watch__two_outputs_for_one_input__are_proven_and_the_wrong_one_disputed(
    world: WatchedWorld, folder: Path
) -> None:
    inputs = np.full((1, INNER), 9, np.uint8)
    right, wrong = world.node.answer(inputs), world.node.answer(inputs, changes={2: 5})
    world.node.post([right, wrong])
    with world.watch(folder, world.watcher_key(), rate=0.0) as watch:  # the sample alone would find nothing
        world.play_to_end(lambda: watch.run(once=True))
        kinds = {report.kind for report in watch.parts.challenger.ledger.reports()}  # type: ignore[union-attr]
        assert watch.summary().money.reports == 1
    assert kinds == {FraudKind.CONTRADICTION}
    (record,) = world.disputes().values()
    assert record.opened.digest == wrong.digest


def test_watch__version_whose_root_is_another__is_reported_and_left_alone(
    world: WatchedWorld, folder: Path
) -> None:
    version = publish(world, "impostor", exact_model(), Hash32(b"\x05" * 32))
    world.node.post([world.node.answer(changes={3: 1}, version=version)])
    with world.watch(folder, world.watcher_key()) as watch:
        watch.run(once=True)
        summary = watch.summary()
    (reason,) = summary.skipped
    assert "it is not what it claims to be" in reason
    assert world.disputes() == {}


def test_recompute__won_dispute__says_in_words_what_was_claimed(
    world: WatchedWorld, folder: Path, tmp_path: Path
) -> None:
    world.node.post([world.node.answer(changes={3: 1})])
    with world.watch(folder, world.watcher_key()) as watch:
        world.play_to_end(lambda: watch.run(once=True))
    (record,) = world.disputes().values()
    with open_judge(world.contracts, tmp_path / "elsewhere", str(world.hub)) as judge:
        program, trace, unknown = recompute(record, *judge)
        account = account_for(record, 0, program, trace)
    assert unknown == ""
    assert account.claim is not None
    assert account.claim.true is not None
    assert account.claim.claimed == (account.claim.true + 1) % 256
    said = f"claimed element 3 of row 0 of /dense is {account.claim.claimed}; it is {account.claim.true}"
    assert account.sentence == f"node {world.node.operator} {said}"
    assert account.standing == "closed at PROVE_STEP: the challenger won"
    alone = account_for(record, 0, None, None)
    assert (
        alone.sentence
        == f"node {world.node.operator} claimed element 3 of kernel 1 is {account.claim.claimed}"
    )
    assert record.opened.batch_id != ZERO_HASH
