"""Each move: what it does to the state, and everything that it refuses."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial
from typing import Any

import boa
import pytest
from assay.chain.dispute_game import state_hash
from assay.exact.dispute import FUNCTIONS, side_of
from assay.exact.game import Move, Phase, Side, challenge, defend
from assay.types import Hash32

from tests.contracts.unit.dispute_game.conftest import Setting
from tests.support.arena import MOVE_WINDOW, Dispute
from tests.support.contracts import events
from tests.support.game_players import point, replaced
from tests.support.market import key
from tests.support.small_programs import PlainTrace, single

PHASES = [phase for phase in FUNCTIONS if phase is not Phase.REVEAL_CHUNK]
"""Those that the game about `lie` goes through; `wide_lie` has the other."""
NODE_PHASES = [phase for phase in PHASES if side_of(phase) is Side.NODE]
CHALLENGER_PHASES = [phase for phase in PHASES if side_of(phase) is Side.CHALLENGER]
HASH = Hash32(b"\x07" * 32)


def next_move(setting: Setting, dispute: Dispute, trace: Any) -> Move:
    node, challenger = setting.players(dispute, trace)
    player = node if dispute.state.side is Side.NODE else challenger
    move = player.play(dispute.state, dispute.data)
    assert move is not None
    return move


def owed_to(setting: Setting, dispute: Dispute) -> str:
    return setting.arena.operator if dispute.state.side is Side.NODE else dispute.state.challenger


def test_moves__whole_game__states_follow_each_other(setting: Setting, lie: Dispute) -> None:
    setting.play_until(Phase.PROVE_STEP, lie, setting.wrong)
    phases = [phase for phase, _, _ in lie.moves]
    two_rounds = [Phase.SELECT, Phase.REVEAL, Phase.SELECT]
    assert phases == [
        Phase.ASSERT,
        *two_rounds,
        Phase.REVEAL_TENSOR,
        Phase.SELECT_ELEMENT,
        *[Phase.REVEAL_PARTIALS, Phase.SELECT_SEGMENT] * 2,
    ]
    state = lie.state
    assert (state.kernel, state.element, state.dtype, state.rows) == (1, 3, 6, 1)
    assert state.kernels == len(setting.program.kernels)
    assert state.high - state.low == 1
    honest = setting.honest.accumulators(1, 3, [state.low, state.low + 1])
    assert state.before == honest[0]
    assert state.after != honest[1]
    assert setting.arena.game.disputes(lie.number) == state_hash(state)


def test_moves__wide_tensor__is_revealed_in_two_rounds(setting: Setting) -> None:
    """Element 2,000 of an int64 tensor stands in chunk 15 of 21."""

    def change(kernel: int, values: list[int]) -> None:
        if kernel == 0:
            values[2_000] -= 5

    wrong = PlainTrace(setting.program, setting.plain.inputs, tamper=change)
    dispute = setting.arena.open(setting.receipt(wrong))
    setting.play_until(Phase.PROVE_STEP, dispute, wrong)
    phases = [phase for phase, _, _ in dispute.moves]
    assert phases.count(Phase.REVEAL) == 2
    assert phases[-2:] == [Phase.REVEAL_CHUNK, Phase.SELECT_ELEMENT]
    assert (dispute.state.position, dispute.state.element) == (15, 2_000)
    assert dispute.state.before == 0
    assert dispute.state.after == setting.plain.values[0][2_000] - 5


@pytest.mark.parametrize("phase", NODE_PHASES)
def test_node_moves__any_other_caller__reverts(setting: Setting, lie: Dispute, phase: Phase) -> None:
    arena = setting.arena
    setting.play_until(phase, lie, setting.wrong)
    move = next_move(setting, lie, setting.wrong)
    for caller in (arena.stranger, arena.challenger, arena.consumer):
        with boa.reverts("disputes: caller is not the node"):
            arena.move(lie, move, by=caller)


@pytest.mark.parametrize("phase", [phase for phase in NODE_PHASES if phase is not Phase.PROVE_STEP])
def test_node_moves__by_its_current_signer__are_taken(setting: Setting, lie: Dispute, phase: Phase) -> None:
    arena = setting.arena
    setting.play_until(phase, lie, setting.wrong)
    arena.move(lie, next_move(setting, lie, setting.wrong), by=arena.signer.address)


def test_node_moves__by_a_former_signer__revert(setting: Setting, lie: Dispute) -> None:
    arena = setting.arena
    former, current = arena.signer.address, key("next").address
    arena.nodes.rotate_signer(current, sender=arena.operator)
    move = next_move(setting, lie, setting.wrong)
    with boa.reverts("disputes: caller is not the node"):
        arena.move(lie, move, by=former)
    arena.move(lie, move, by=current)


@pytest.mark.parametrize("phase", CHALLENGER_PHASES)
def test_challenger_moves__any_other_caller__reverts(setting: Setting, lie: Dispute, phase: Phase) -> None:
    arena = setting.arena
    setting.play_until(phase, lie, setting.wrong)
    move = next_move(setting, lie, setting.wrong)
    for caller in (arena.stranger, arena.operator, arena.consumer):
        with boa.reverts("disputes: caller is not the challenger"):
            arena.move(lie, move, by=caller)


@pytest.mark.parametrize("phase", PHASES)
def test_moves__deadline__is_the_last_second(setting: Setting, lie: Dispute, phase: Phase) -> None:
    """One second later the move is refused and the time-out can be claimed; a second earlier it cannot."""
    arena = setting.arena
    setting.play_until(phase, lie, setting.wrong)
    move, by = next_move(setting, lie, setting.wrong), owed_to(setting, lie)
    deadline = lie.state.deadline
    with boa.env.anchor():
        boa.env.timestamp = deadline + 1
        with boa.reverts("disputes: move is too late"):
            arena.move(lie, move, by=by)
        arena.close(replace(lie))
    boa.env.timestamp = deadline
    with boa.reverts("disputes: move is not overdue"):
        arena.close(lie)
    if phase is Phase.PROVE_STEP:
        with boa.reverts("disputes: step computes to another value"):
            arena.move(lie, move, by=by)
    else:
        arena.move(lie, move, by=by)
        assert lie.state.deadline == deadline + MOVE_WINDOW


def test_moves__deadline__starts_anew_with_each_move(setting: Setting, lie: Dispute) -> None:
    """A quick move shortens nobody's time, a slow one adds to nobody's."""
    for wait in (0, 1, MOVE_WINDOW, 7):
        boa.env.timestamp += wait
        setting.arena.move(lie, next_move(setting, lie, setting.wrong), by=owed_to(setting, lie))
        assert lie.state.deadline == boa.env.timestamp + MOVE_WINDOW


@pytest.mark.parametrize("phase", PHASES)
def test_moves__another_one_than_is_owed__reverts(setting: Setting, lie: Dispute, phase: Phase) -> None:
    arena = setting.arena
    setting.play_until(phase, lie, setting.wrong)
    for function, arguments in any_moves(setting, lie).items():
        if function != FUNCTIONS[phase]:
            for by in (arena.operator, arena.challenger):
                with boa.reverts("disputes: another move is owed"):
                    arena.move(lie, Move(function, arguments), by=by)


def any_moves(setting: Setting, dispute: Dispute) -> dict[str, tuple[Any, ...]]:
    """Every move with arguments of the right form."""
    ready = defend(replace(dispute.state, phase=Phase.ASSERT), setting.wrong, dispute.receipt)
    return {
        "assert_trace": ready.arguments,
        "reveal": ([],),
        "select": (0, HASH, []),
        "reveal_tensor": (b"", [], HASH, [], b""),
        "reveal_chunk": (b"",),
        "select_element": (b"", 0),
        "reveal_partials": (b"",),
        "select_segment": (b"", 0),
        "prove_step": (b"", [], []),
    }


def test_moves__state_of_before__reverts(setting: Setting, lie: Dispute) -> None:
    arena = setting.arena
    opened = lie.state
    move = next_move(setting, lie, setting.wrong)
    arena.move(lie, move, by=arena.operator)
    assert events(arena.game)[0][0] == "Moved"
    with boa.reverts("disputes: state is not current"):
        arena.move(replace(lie, state=opened), move, by=arena.operator)
    with boa.reverts("disputes: state is not current"):
        arena.close(replace(lie, state=opened))


@pytest.mark.parametrize(
    "field", ["challenger", "node", "claim", "deadline", "level", "kernels", "before", "phase"]
)
def test_moves__a_field_of_the_state_changed__reverts(setting: Setting, lie: Dispute, field: str) -> None:
    arena = setting.arena
    values: dict[str, Any] = {"challenger": arena.stranger, "node": arena.stranger, "claim": HASH}
    value = values.get(field, Phase.FORFEIT if field == "phase" else getattr(lie.state, field))
    value = value + 1 if field in ("deadline", "level", "kernels", "before") else value
    forged = replace(lie, state=replace(lie.state, **{field: value}))
    with boa.reverts("disputes: state is not current"):
        arena.move(forged, next_move(setting, lie, setting.wrong), by=arena.operator)
    boa.env.timestamp = lie.state.deadline + 2
    with boa.reverts("disputes: state is not current"):
        arena.close(forged)


def test_moves__dispute_that_is_not_there__reverts(setting: Setting, lie: Dispute) -> None:
    move = next_move(setting, lie, setting.wrong)
    for number in (0, 2, 2**255):
        with boa.reverts("disputes: state is not current"):
            setting.arena.move(replace(lie, number=number), move, by=setting.arena.operator)


def test_moves__closed_dispute__reverts(setting: Setting, lie: Dispute) -> None:
    arena = setting.arena
    move = next_move(setting, lie, setting.wrong)
    arena.claim_timeout(lie)
    with boa.reverts("disputes: state is not current"):
        arena.move(lie, move, by=arena.operator)
    with boa.reverts("disputes: state is not current"):
        arena.close(lie)


def refuse(setting: Setting, dispute: Dispute, reason: str, altered: Move) -> None:
    with boa.reverts(reason):
        setting.arena.move(dispute, altered, by=owed_to(setting, dispute))


def test_assert_trace__altered__reverts(setting: Setting, lie: Dispute) -> None:
    move = next_move(setting, lie, setting.wrong)
    receipt, children = move.arguments[0], move.arguments[-1]
    other = (*receipt[:5], receipt[5] + 1, *receipt[6:])
    swapped = (children[1], children[0], *children[2:])
    same = partial(refuse, setting, lie)
    same("disputes: receipt is another one", replaced(move, 0, other))
    same("steps: header is not the program's", replaced(move, 1, move.arguments[1] + b"\x00"))
    same("steps: inputs are not the receipt's", replaced(move, 4, (HASH,)))
    same("steps: output is not in the trace", replaced(move, 5, (HASH, move.arguments[5][1])))
    same("steps: output is not in the trace", replaced(move, 7, HASH))
    same("disputes: children do not hash to the claim", replaced(move, 8, swapped))
    for wrong in ((), children[:8], children[:15]):
        same("disputes: children have another number", replaced(move, 8, wrong))


def test_assert_trace__outputs_of_another_trace__reverts(setting: Setting, lie: Dispute) -> None:
    """The receipt's wrong outputs are not in the true trace."""
    honest = defend(lie.state, setting.honest, lie.receipt)
    refuse(setting, lie, "steps: outputs are not the receipt's", honest)


def test_reveal__altered__reverts(setting: Setting, lie: Dispute) -> None:
    setting.play_until(Phase.REVEAL, lie, setting.wrong)
    move = next_move(setting, lie, setting.wrong)
    (children,) = move.arguments
    assert len(children) == 2
    for altered in ((children[1], children[0]), (HASH, HASH)):
        refuse(setting, lie, "disputes: children do not hash to the claim", Move("reveal", (altered,)))
    for altered in ((), children[:1], (*children, *children)):
        refuse(setting, lie, "disputes: children have another number", Move("reveal", (altered,)))


def test_select__altered__reverts(setting: Setting, lie: Dispute) -> None:
    setting.play_until(Phase.SELECT, lie, setting.wrong)
    move = next_move(setting, lie, setting.wrong)
    index, child, siblings = move.arguments
    under = "disputes: child is not under the claim"
    refuse(setting, lie, under, Move("select", (index + 1, child, siblings)))
    refuse(setting, lie, under, Move("select", (index + 16, child, siblings)))
    refuse(setting, lie, under, Move("select", (index, HASH, siblings)))
    refuse(setting, lie, under, Move("select", (index, child, (HASH, *siblings[1:]))))
    for wrong in ((), siblings[:3]):
        refuse(setting, lie, "disputes: proof has another length", Move("select", (0, child, wrong)))


def test_select__claim_itself_without_a_proof__reverts(setting: Setting, lie: Dispute) -> None:
    setting.play_until(Phase.SELECT, lie, setting.wrong)
    move = Move("select", (0, lie.state.claim, ()))
    refuse(setting, lie, "disputes: proof has another length", move)


def test_reveal_tensor__altered__reverts(setting: Setting, lie: Dispute) -> None:
    setting.play_until(Phase.REVEAL_TENSOR, lie, setting.wrong)
    move = next_move(setting, lie, setting.wrong)
    record, proof, _, _, chunk = move.arguments
    other, records = setting.program.tree.proof(3), setting.program.records
    same = partial(refuse, setting, lie)
    same("steps: kernel is not the program's", replaced(move, 0, record + b"\x00"))
    same("steps: kernel is not the program's", replaced(move, 1, proof[:-1]))
    same("steps: kernel is not the program's", replaced(replaced(move, 0, records[3]), 1, other))
    same("disputes: tensor root is not the claimed one", replaced(move, 2, HASH))
    for wrong in (b"", chunk[:-1], chunk + b"\x00"):
        same("disputes: chunk has another length", replaced(move, 4, wrong))
    same("disputes: chunk does not hash to the claim", replaced(move, 4, bytes(len(chunk))))


def test_reveal_tensor__larger_than_any_trace_may_have__reverts(setting: Setting) -> None:
    """2^30 int64 elements are 2^23 chunks; `lower` makes no such kernel."""
    small = single(random.Random(1))
    huge = replace(small.kernels[0], dtype=7, domain=(1 << 30,), operands=())
    program = replace(small, kernels=(*small.kernels, huge))
    trace = PlainTrace(small, [bytes(6)])
    version_id = setting.arena.publish(program)
    receipt = setting.arena.receipt(version_id, trace)
    trace.program, trace.roots = program, (*trace.roots, HASH)  # type: ignore[misc]
    dispute = setting.arena.open(receipt)
    setting.arena.move(dispute, defend(dispute.state, trace, receipt), by=setting.arena.operator)
    second = point(dispute.state, dispute.data, 1)
    assert second is not None
    setting.arena.move(dispute, second, by=setting.arena.challenger)
    arguments = (program.records[2], tuple(program.tree.proof(2)), HASH, (HASH,) * 16, b"")
    refuse(setting, dispute, "disputes: tensor is too large", Move("reveal_tensor", arguments))


def wide_lie(setting: Setting) -> tuple[Dispute, Any]:
    """A game about kernel 0, whose tensor has 21 chunks; the last is shorter."""

    def change(kernel: int, values: list[int]) -> None:
        if kernel == 0:
            values[2_590] += 1

    wrong = PlainTrace(setting.program, setting.plain.inputs, tamper=change)
    return setting.arena.open(setting.receipt(wrong)), wrong


def test_reveal_chunk__altered__reverts(setting: Setting) -> None:
    dispute, wrong = wide_lie(setting)
    setting.play_until(Phase.REVEAL_CHUNK, dispute, wrong)
    (chunk,) = next_move(setting, dispute, wrong).arguments
    assert len(chunk) == 2_600 * 8 % 1_024
    with boa.reverts("disputes: caller is not the node"):
        setting.arena.move(dispute, Move("reveal_chunk", (chunk,)), by=setting.arena.stranger)
    length, content = "disputes: chunk has another length", "disputes: chunk does not hash to the claim"
    for altered in (b"", chunk[:-1], chunk + b"\x00", chunk.ljust(1_024, b"\x00")):
        refuse(setting, dispute, length, Move("reveal_chunk", (altered,)))
    refuse(setting, dispute, content, Move("reveal_chunk", (chunk[8:] + chunk[:8],)))


def test_select_element__altered__reverts(setting: Setting, lie: Dispute) -> None:
    setting.play_until(Phase.SELECT_ELEMENT, lie, setting.wrong)
    chunk, index = next_move(setting, lie, setting.wrong).arguments
    assert (len(chunk), index) == (48, 3)
    for beyond in (12, 13, 2**256 - 1):
        move = Move("select_element", (chunk, beyond))
        refuse(setting, lie, "disputes: element is not in the chunk", move)
    move = Move("select_element", (bytes(48), index))
    refuse(setting, lie, "disputes: chunk does not hash to the claim", move)


def test_reveal_partials__wrong_length__reverts(setting: Setting, lie: Dispute) -> None:
    setting.play_until(Phase.REVEAL_PARTIALS, lie, setting.wrong)
    (partials,) = next_move(setting, lie, setting.wrong).arguments
    assert len(partials) == 17 * 4
    for altered in (b"", partials[:-1], partials + b"\x00", partials + bytes(4)):
        move = Move("reveal_partials", (altered,))
        refuse(setting, lie, "disputes: partials have another length", move)


def test_select_segment__altered__reverts(setting: Setting, lie: Dispute) -> None:
    setting.play_until(Phase.SELECT_SEGMENT, lie, setting.wrong)
    partials, _ = next_move(setting, lie, setting.wrong).arguments
    for beyond in (18, 2**256 - 1):
        move = Move("select_segment", (partials, beyond))
        refuse(setting, lie, "disputes: there is no such segment", move)
    move = Move("select_segment", (bytes(len(partials)), 0))
    refuse(setting, lie, "disputes: partials are others", move)


def test_prove_step__altered__reverts(setting: Setting, truth: Dispute) -> None:
    setting.play_until(Phase.SELECT_SEGMENT, truth, setting.honest)
    while truth.state.phase is not Phase.PROVE_STEP:  # points anywhere
        if truth.state.side is Side.CHALLENGER:
            move = point(truth.state, truth.data, 40)
            assert move is not None
            setting.arena.move(truth, move, by=setting.arena.challenger)
        else:
            setting.arena.move(truth, next_move(setting, truth, setting.honest), by=setting.arena.operator)
    move = next_move(setting, truth, setting.honest)
    record, roots, openings = move.arguments
    same = partial(refuse, setting, truth)
    same("disputes: record is another one", replaced(move, 0, setting.program.records[3]))
    same("disputes: record is another one", replaced(move, 0, record[:-1]))
    for wrong in ((), (HASH,), (*roots, HASH)):
        same("disputes: input roots are others", replaced(move, 1, wrong))
    for altered in ((), openings[:1], (openings[1], openings[0]), (*openings, openings[0])):
        with boa.reverts():
            setting.arena.move(truth, replaced(move, 2, altered), by=setting.arena.operator)
    setting.arena.move(truth, move, by=setting.arena.signer.address)
    assert truth.node_won


def test_challenge__node_tells_the_truth__concedes_everywhere(setting: Setting, truth: Dispute) -> None:
    setting.play_until(Phase.SELECT, truth, setting.honest)
    assert "true one" in str(challenge(truth.state, truth.data, setting.honest))
