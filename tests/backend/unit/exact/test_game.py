"""Both sides' moves and the states after them, without a chain."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import pytest
from assay.commitments.merkle import node_hash
from assay.exact.dispute import (
    PARTS,
    Concession,
    Phase,
    Side,
    State,
    decode_elements,
    encode_elements,
    segment_cuts,
)
from assay.exact.game import MAX_MOVES, Move, challenge, children_of, defend
from assay.exact.referee import next_state, revealed_data
from assay.types import Address, Hash32, Receipt
from hypothesis import given
from hypothesis import strategies as st

from tests.support.small_programs import PlainTrace, commitments_of, ladder, random_input

PROGRAM = ladder(random.Random(1))
TRUTH = PlainTrace(PROGRAM, random_input(random.Random(2), PROGRAM))
ZERO = Address("0x" + "00" * 20)
HASH = Hash32(bytes(32))


def receipt_of(trace: Any) -> Receipt:
    return Receipt(ZERO, ZERO, HASH, *commitments_of(PROGRAM, trace), 1, 1, 1)


def opened() -> State:
    return State(ZERO, ZERO, HASH, HASH, PROGRAM.root, deadline=10)


def play(node: Any, challenger: Any) -> tuple[State, Concession | None, int]:
    """Until the step is owed or the challenger concedes: state, concession, moves."""
    state, data, moves = opened(), b"", 0
    while state.phase is not Phase.PROVE_STEP:
        if state.side is Side.NODE:
            move: Move | Concession = defend(state, node, receipt_of(node))
        else:
            move = challenge(state, data, challenger)
        if isinstance(move, Concession):
            return state, move, moves
        following = next_state(state, move, 10 * moves)
        assert following is not None
        assert following.deadline == 10 * moves
        state, data, moves = following, revealed_data(move), moves + 1
    return state, None, moves


@pytest.mark.parametrize("kernel", range(len(PROGRAM.kernels)))
def test_challenge__one_wrong_element__ends_at_a_step_that_cannot_be_proven(kernel: int) -> None:
    count = PROGRAM.kernels[kernel].elements
    element = random.Random(kernel).randrange(count)

    def tamper(number: int, values: list[int]) -> None:
        if number == kernel:
            values[element] ^= 1

    lie = PlainTrace(PROGRAM, TRUTH.inputs, tamper=tamper)
    state, _, moves = play(lie, TRUTH)
    assert (state.kernel, state.element, state.high - state.low) == (kernel, element, 1)
    before, after = TRUTH.accumulators(kernel, element, [state.low, state.high])
    assert state.before == before
    assert state.after != after
    assert moves < MAX_MOVES


def test_challenge__nothing_wrong__concedes() -> None:
    state, concession, moves = play(TRUTH, TRUTH)
    assert concession == Concession("every child that the node revealed is the true one")
    assert (state.phase, moves) == (Phase.SELECT, 1)


@pytest.mark.parametrize("phase", list(Phase))
def test_defend_and_challenge__not_their_phase__raise(phase: Phase) -> None:
    state = State(ZERO, ZERO, HASH, HASH, HASH, phase=phase)
    if state.side is not Side.NODE:
        with pytest.raises(ValueError, match="the node owes no move"):
            defend(state, TRUTH, receipt_of(TRUTH))
    if state.side is not Side.CHALLENGER:
        with pytest.raises(ValueError, match="the challenger owes no move"):
            challenge(state, b"", TRUTH)
    with pytest.raises(ValueError, match="is not the move of phase"):
        next_state(state, Move("something", ()), 1)


@pytest.mark.parametrize("level", [0, 1, 3, 4, 5])
def test_children_of__any_node__hash_to_it(level: int) -> None:
    children = list(children_of(TRUTH.tree, level, 0))
    assert len(children) == (0 if level == 0 else 1 << min(level, 4))
    while len(children) > 1:
        children = [node_hash(a, b) for a, b in zip(children[::2], children[1::2], strict=True)]
    if level:
        assert children == [TRUTH.tree.node(level, 0)]


@given(st.integers(0, 1 << 20), st.integers(1, 1 << 24))
def test_segment_cuts__any_reduction__is_cut_whole_and_soon_to_single_steps(low: int, steps: int) -> None:
    high, rounds = low + steps, 0
    while high - low > 1:
        cuts = segment_cuts(low, high)
        assert (cuts[0], cuts[-1]) == (low, high)
        assert all(a < b for a, b in pairwise(cuts))
        assert len(cuts) - 1 <= PARTS
        low, high = max(pairwise(cuts), key=lambda ends: ends[1] - ends[0])
        rounds += 1
    assert rounds <= 3


@given(st.sampled_from([2, 3, 4, 5, 6, 7, 9, 12, 13, 1]), st.data())
def test_elements__encoded__come_back(dtype: int, data: st.DataObject) -> None:
    raw = data.draw(st.binary(min_size=8, max_size=64).map(lambda one: one[: len(one) // 8 * 8]))
    assert encode_elements(dtype, decode_elements(dtype, raw)) == raw
