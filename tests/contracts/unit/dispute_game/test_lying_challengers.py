"""Challengers who lie at every move that they can make, against an honest node: the node wins."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import boa
import pytest
from assay.exact.game import Move, Phase

from tests.contracts.unit.dispute_game.conftest import Setting
from tests.support.arena import BOND, MIN_STAKE, Dispute
from tests.support.game_players import (
    Aiming,
    Altering,
    Challenger,
    Node,
    Player,
    Pointing,
    Silent,
    play_game,
    point,
    replaced,
)
from tests.support.small_programs import PlainTrace
from tests.support.tampered_trace import TamperedTrace


def withstand(setting: Setting, challenger: Player) -> Dispute:
    """The honest node wins, whoever plays like this, and has the bond for it."""
    arena = setting.arena
    receipt = setting.receipt(setting.plain)
    dispute = play_game(arena, arena.open(receipt), Node(setting.honest, receipt), challenger)
    assert dispute.node_won
    assert not arena.settlement.is_void(dispute.state.digest)
    assert arena.balance(arena.operator) == BOND
    assert arena.nodes.nodes(arena.operator).stake == MIN_STAKE
    return dispute


@pytest.mark.parametrize("first", range(16))
def test_first_selection__any_child__is_answered(setting: Setting, first: int) -> None:
    """Then anywhere; children that stand for padding alone leave the challenger nothing to point at."""
    dispute = withstand(setting, Pointing(random.Random(first), [first]))
    assert dispute.closed is not None
    if first != 9:  # one kernel, one leaf of padding
        assert (dispute.closed["phase"] == Phase.PROVE_STEP) == (first < 9)


@pytest.mark.parametrize("kernel", range(19))
def test_step__of_any_kernel__is_proven(setting: Setting, kernel: int) -> None:
    rng = random.Random(kernel)
    one = setting.program.kernels[kernel]
    aiming = Aiming(kernel, rng.randrange(one.elements), rng.randrange(one.steps))
    dispute = withstand(setting, aiming)
    assert dispute.closed is not None
    assert dispute.closed["phase"] == Phase.PROVE_STEP
    assert (dispute.state.kernel, dispute.state.element) == (kernel, aiming.element)
    assert dispute.state.low == aiming.step


@pytest.mark.parametrize("step", [0, 1, 17, 150, 298, 299])
def test_step__of_a_long_reduction__is_proven_wherever_it_is(setting: Setting, step: int) -> None:
    assert withstand(setting, Aiming(1, 11, step)).state.low == step


def test_wrong_trace__of_the_challengers_own__finds_nothing_to_point_at(setting: Setting) -> None:
    """It believes in another tensor; at the latest the accumulators show that the node's are true."""
    for lie_from in (0, 150, 300):
        value = setting.honest.accumulators(1, 4, [300])[0] + 1
        own = TamperedTrace(setting.honest, {1: {4: value}}, lie_from=lie_from)
        dispute = withstand_once(setting, Challenger(own), sequence=lie_from + 1)
        assert dispute.closed is not None


def withstand_once(setting: Setting, challenger: Player, sequence: int) -> Dispute:
    arena = setting.arena
    receipt = setting.receipt(setting.plain, sequence=sequence)
    dispute = play_game(arena, arena.open(receipt), Node(setting.honest, receipt), challenger)
    assert dispute.node_won
    return dispute


@pytest.mark.parametrize("moves", range(7))
def test_silence__at_any_move__loses(setting: Setting, moves: int) -> None:
    """Also of a challenger who is right; it has five selections to make."""
    receipt = setting.receipt(setting.wrong)
    dispute = setting.arena.open(receipt)
    challenger = Silent(Challenger(setting.honest), moves)
    play_game(setting.arena, dispute, Node(setting.wrong, receipt), challenger)
    assert dispute.node_won == (moves < 5)


@pytest.mark.parametrize("moves", range(7))
def test_silence__of_an_honest_node__loses(setting: Setting, moves: int) -> None:
    """Being right does not help a node that does not answer."""
    receipt = setting.receipt(setting.plain)
    node = Silent(Node(setting.honest, receipt), moves)
    dispute = play_game(setting.arena, setting.arena.open(receipt), node, Aiming(1, 4, 200))
    needed = 7  # assert, reveal, reveal tensor, two rounds of partials, step: 6 moves
    assert dispute.node_won == (moves >= needed - 1)


def test_garbage__in_any_argument_of_any_selection__is_refused(setting: Setting) -> None:
    """A challenger that is right but alters its moves has made none."""

    def index(move: Move) -> Move:
        place = 0 if move.function == "select" else 1
        return replaced(move, place, move.arguments[place] + 2**32)

    def content(move: Move) -> Move:
        place = 1 if move.function == "select" else 0
        data = move.arguments[place]
        return replaced(move, place, data[:-1] + bytes([data[-1] ^ 1]))

    for sequence, alter in enumerate((index, content), 1):
        for phase in (Phase.SELECT, Phase.SELECT_ELEMENT, Phase.SELECT_SEGMENT):
            receipt = setting.receipt(setting.wrong, sequence=100 * sequence + phase)
            challenger = Altering(Challenger(setting.honest), alter, phase)
            dispute = play_game(
                setting.arena, setting.arena.open(receipt), Node(setting.wrong, receipt), challenger
            )
            assert dispute.node_won
            assert challenger.altered == 1


def test_selection__left_of_the_first_difference__is_lost(setting: Setting) -> None:
    """A challenger of a wrong receipt who points at something true loses that game; another can still win."""
    arena, receipt = setting.arena, setting.receipt(setting.wrong)
    lost = play_game(arena, arena.open(receipt), Node(setting.wrong, receipt), Aiming(0, 17, 0))
    assert lost.node_won
    won = play_game(arena, arena.open(receipt), Node(setting.wrong, receipt), Challenger(setting.honest))
    assert not won.node_won


def test_selection__right_of_the_first_difference__is_lost_if_the_node_computed_on(setting: Setting) -> None:
    """What follows the lie was computed from it, so it can be proven."""
    receipt = setting.receipt(setting.wrong)
    arena = setting.arena
    lost = play_game(arena, arena.open(receipt), Node(setting.wrong, receipt), Aiming(2, 3, 0))
    assert lost.node_won


def test_padding__that_is_zero__cannot_be_selected(setting: Setting) -> None:
    receipt = setting.receipt(setting.plain)
    dispute = setting.arena.open(receipt)
    node = Node(setting.honest, receipt)
    for place in (9, 1):  # leaf 19 of 19
        move = node.play(dispute.state, dispute.data)
        assert move is not None
        setting.arena.move(dispute, move, by=setting.arena.operator)
        chosen = point(dispute.state, dispute.data, place)
        assert chosen is not None
        if place == 9:
            setting.arena.move(dispute, chosen, by=setting.arena.challenger)
        else:
            with boa.reverts("disputes: leaf is padding, as it should be"):
                setting.arena.move(dispute, chosen, by=setting.arena.challenger)


def test_rows__of_a_batched_program__are_played_over_all_of_them(setting: Setting) -> None:
    """The element under dispute is in the last row."""
    program = replace(setting.program, batched=True)
    version_id = setting.arena.publish(program)
    inputs = [random.Random(3).randbytes(3 * 20)]
    trace = PlainTrace(program, inputs, rows=3)
    here = replace(setting, program=program, version_id=version_id, honest=trace, plain=trace)
    element = 2 * 12 + 7
    dispute = withstand(here, Aiming(1, element, 123))
    assert (dispute.state.rows, dispute.state.element) == (3, element)
    value: Any = trace.values[1][element] + 1
    lie = TamperedTrace(trace, {1: {element: value}}, lie_from=124)
    receipt = here.receipt(lie)
    beaten = play_game(here.arena, here.arena.open(receipt), Node(lie, receipt), Challenger(trace))
    assert not beaten.node_won
    assert (beaten.state.element, beaten.state.low) == (element, 123)
