"""Nodes that cheat, each in its own way, against a challenger who knows the truth: the challenger wins."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import boa
import numpy as np
import pytest
from assay.commitments.merkle import MerkleTree
from assay.commitments.tensors import tensor_root
from assay.exact.dispute import decode_element, element_width
from assay.exact.game import MAX_MOVES, Move, Phase
from assay.exact.program import Program
from assay.types import Receipt
from eth.codecs.abi.exceptions import ABIError

from tests.contracts.unit.dispute_game.conftest import Setting
from tests.support.arena import SLASH, Dispute
from tests.support.game_players import Altering, Challenger, Node, Player, play_game, replaced
from tests.support.small_programs import PlainTrace
from tests.support.tampered_trace import (
    Opened,
    TamperedTrace,
    forged_leaf,
    with_padding,
)

KERNELS = range(19)
LAST = 18


def beat(setting: Setting, trace: Any, receipt: Receipt | None = None, node: Player | None = None) -> Dispute:
    """A node that stands on `trace` loses, within the moves that there can be, and is slashed."""
    receipt = receipt or setting.receipt(trace)
    dispute = setting.arena.open(receipt)
    play_game(setting.arena, dispute, node or Node(trace, receipt), Challenger(setting.honest))
    assert not dispute.node_won
    assert len(dispute.moves) < MAX_MOVES
    assert setting.arena.nodes.nodes(setting.arena.operator).stake == 1_000 * 10**18 - SLASH
    return dispute


def pinned(dispute: Dispute) -> tuple[int, int]:
    """Kernel and element that the challenger pinned the node to."""
    assert dispute.closed is not None
    assert dispute.closed["phase"] == Phase.PROVE_STEP
    return dispute.state.kernel, dispute.state.element


def changed(trace: Any, kernel: int, element: int) -> int:
    """Another value than an element has, of its dtype."""
    dtype = trace.program.kernels[kernel].dtype
    width = element_width(dtype)
    data = bytearray(trace.tensor(kernel)[element * width : (element + 1) * width])
    data[0] ^= 1
    return decode_element(dtype, bytes(data))


@pytest.mark.parametrize("kernel", KERNELS)
def test_one_element__wrong_and_computed_on__is_pinned(setting: Setting, kernel: int) -> None:
    """Every kernel of every dtype; first and last element among them; all that follows fits the lie."""
    rng = random.Random(kernel)
    count = setting.program.kernels[kernel].elements
    element = (0, count - 1, rng.randrange(count))[kernel % 3]
    value = changed(setting.honest, kernel, element)

    def tamper(number: int, values: list[int]) -> None:
        if number == kernel:
            values[element] = value

    trace = PlainTrace(setting.program, setting.plain.inputs, tamper=tamper)
    assert pinned(beat(setting, trace)) == (kernel, element)


@pytest.mark.parametrize("kernel", [2, LAST])
def test_one_element__of_the_output_alone__is_pinned(setting: Setting, kernel: int) -> None:
    trace = TamperedTrace(setting.honest, {kernel: {7: changed(setting.honest, kernel, 7)}})
    assert pinned(beat(setting, trace)) == (kernel, 7)


@pytest.mark.parametrize("kernel", [0, 1, 3, 10])
def test_one_element__of_the_trace_alone__is_pinned(setting: Setting, kernel: int) -> None:
    """The receipt is right; the node that asserts a wrong trace for it has itself to blame."""
    trace = TamperedTrace(setting.honest, {kernel: {5: changed(setting.honest, kernel, 5)}})
    receipt = setting.receipt(setting.plain)
    assert pinned(beat(setting, trace, receipt)) == (kernel, 5)


def test_several_elements__wrong__the_leftmost_is_pinned(setting: Setting) -> None:
    places = {4: (2, 9), LAST: (0, 1), 1: (11, 6)}
    changes = {k: {e: changed(setting.honest, k, e) for e in at} for k, at in places.items()}
    trace = TamperedTrace(setting.honest, changes)
    assert pinned(beat(setting, trace)) == (1, 6)


def with_constants(program: Program, change: Callable[[Any], None], which: int) -> Program:
    """The program as if one constant had other values."""
    root = list(program.constants)[which]
    values = np.array(program.constants[root])
    change(values)
    other = tensor_root(values.tobytes())
    kernels = tuple(
        replace(
            kernel,
            operands=tuple(replace(one, root=other) if one.root == root else one for one in kernel.operands),
        )
        for kernel in program.kernels
    )
    return replace(program, kernels=kernels, constants={**program.constants, other: values})


@pytest.mark.parametrize(("which", "kernel"), [(0, 0), (1, 1)])
def test_weights__others_than_committed__are_pinned(setting: Setting, which: int, kernel: int) -> None:
    def change(values: Any) -> None:
        values[3] ^= 64

    used = with_constants(setting.program, change, which)
    trace = PlainTrace(setting.program, setting.plain.inputs, computed=used)
    assert pinned(beat(setting, trace))[0] == kernel


def test_weights__others_opened__are_refused(setting: Setting) -> None:
    """The node opens the weights that it used; they do not lead to the constant's root."""

    def change(values: Any) -> None:
        values[3] ^= 64

    used = with_constants(setting.program, change, 1)
    trace = PlainTrace(setting.program, setting.plain.inputs, computed=used)
    other = next(values for root, values in used.constants.items() if root not in setting.program.constants)

    def alter(move: Move) -> Move:
        openings = list(move.arguments[2])
        openings[1] = (*openings[1][:2], other.tobytes(), openings[1][3])
        return replaced(move, 2, tuple(openings))

    receipt = setting.receipt(trace)
    node = Altering(Node(trace, receipt), alter, Phase.PROVE_STEP)
    beat(setting, trace, receipt, node)
    assert node.altered == 1


def test_input__another_than_committed__is_pinned(setting: Setting) -> None:
    used = [bytes(reversed(setting.plain.inputs[0]))]
    trace = PlainTrace(setting.program, setting.plain.inputs, inputs_used=used)
    assert pinned(beat(setting, trace))[0] == 0


def test_input__another_asserted_than_receipted__is_refused(setting: Setting) -> None:
    trace = PlainTrace(setting.program, [bytes(20)])
    receipt = replace(setting.receipt(trace), input_hash=setting.receipt(setting.plain).input_hash)
    assert beat(setting, trace, receipt).moves == []


def test_output__another_receipted_than_in_the_trace__is_refused(setting: Setting) -> None:
    receipt = replace(setting.receipt(setting.plain), output_hash=b"\x05" * 32)
    assert beat(setting, setting.plain, receipt).moves == []


@pytest.mark.parametrize("lie_from", [0, 1, 2, 40, 299, 300])
def test_partial_sum__lies_from_some_step_on__that_step_is_pinned(setting: Setting, lie_from: int) -> None:
    changes = {1: {4: changed(setting.honest, 1, 4)}}
    trace = TamperedTrace(setting.honest, changes, lie_from=lie_from)
    dispute = beat(setting, trace)
    assert pinned(dispute) == (1, 4)
    assert dispute.state.low == max(lie_from, 1) - 1


def test_partial_sum__garbage__is_pinned(setting: Setting) -> None:
    rng = random.Random(4)

    def garble(move: Move) -> Move:
        return replaced(move, 0, rng.randbytes(len(move.arguments[0])))

    trace = TamperedTrace(setting.honest, {1: {4: changed(setting.honest, 1, 4)}})
    receipt = setting.receipt(trace)
    node = Altering(Node(trace, receipt), garble, Phase.REVEAL_PARTIALS)
    assert pinned(beat(setting, trace, receipt, node)) == (1, 4)
    assert node.altered >= 1


Openings = tuple[tuple[Any, ...], ...]


def _other_chunk(openings: Openings) -> Openings:
    first = openings[0]
    return ((*first[:2], first[2][::-1], first[3]), *openings[1:])


def _other_root(openings: Openings) -> Openings:
    first = openings[0]
    return ((tensor_root(first[2]), first[1], first[2], ()), *openings[1:])


def _other_siblings(openings: Openings) -> Openings:
    first = openings[0]
    return ((*first[:3], tuple(reversed(first[3]))), *openings[1:])


def _other_trace_siblings(openings: Openings) -> Openings:
    first = openings[0]
    return ((first[0], tuple(reversed(first[1])), *first[2:]), *openings[1:])


def _empty(openings: Openings) -> Openings:
    return ((bytes(32), (), b"", ()), *openings[1:])


def _swapped(openings: Openings) -> Openings:
    return (openings[1], openings[0])


def _fewer(openings: Openings) -> Openings:
    return openings[:1]


@pytest.mark.parametrize(
    "forge", [_other_chunk, _other_root, _other_siblings, _other_trace_siblings, _empty, _swapped, _fewer]
)
def test_openings__forged__are_refused(setting: Setting, forge: Callable[[Openings], Openings]) -> None:
    trace = TamperedTrace(setting.honest, {1: {4: changed(setting.honest, 1, 4)}}, lie_from=60)
    receipt = setting.receipt(trace)
    node = Altering(
        Node(trace, receipt), lambda move: replaced(move, 2, forge(move.arguments[2])), Phase.PROVE_STEP
    )
    assert pinned(beat(setting, trace, receipt, node)) == (1, 4)
    assert node.altered == 1


def test_openings__of_a_tensor_that_is_not_in_the_trace__are_refused(setting: Setting) -> None:
    """The lie is opened with its own tensor instead of the asserted one."""
    trace = TamperedTrace(setting.honest, {1: {4: changed(setting.honest, 1, 4)}}, lie_from=60)
    forged = TamperedTrace(setting.honest, {0: {e: 1 for e in range(2_600)}})

    def alter(move: Move) -> Move:
        mine = forged.openings(1, 4, 59)[0]
        opened = Opened(mine.root, mine.trace_siblings, mine.chunk, mine.siblings)
        row = (opened.root, opened.trace_siblings, opened.chunk, opened.siblings)
        return replaced(move, 2, (row, *move.arguments[2][1:]))

    receipt = setting.receipt(trace)
    node = Altering(Node(trace, receipt), alter, Phase.PROVE_STEP)
    beat(setting, trace, receipt, node)
    assert node.altered == 1


class ForgedTrace(TamperedTrace):
    """A trace under a tree of the node's own making."""

    def __init__(self, trace: Any, tree: MerkleTree) -> None:
        super().__init__(trace, {})
        self.__dict__["tree"] = tree


@pytest.mark.parametrize("place", [19, 20, 31])
def test_padding__of_the_trace__forfeits(setting: Setting, place: int) -> None:
    tree = with_padding(setting.honest.tree, place, b"\x01" * 32)
    trace = ForgedTrace(setting.honest, tree)
    dispute = beat(setting, trace, setting.receipt(setting.plain))
    assert dispute.state.phase is Phase.FORFEIT
    assert dispute.state.position == place


@pytest.mark.parametrize("place", [21, 31])
def test_padding__of_a_tensor__forfeits(setting: Setting, place: int) -> None:
    tree = with_padding(setting.honest.tensor_tree(0), place, b"\x01" * 32)
    trace = TamperedTrace(setting.honest, {}, trees={0: tree})
    dispute = beat(setting, trace, setting.receipt(setting.plain))
    assert dispute.state.phase is Phase.FORFEIT
    assert (dispute.state.kernel, dispute.state.position) == (0, place)


@pytest.mark.parametrize(
    ("position", "forge"),
    [
        (20, lambda chunk: chunk + b"\x00"),
        (20, lambda chunk: chunk.ljust(1_024, b"\x00")),
        (20, lambda chunk: chunk[:-8]),
        (20, lambda _: b""),
        (7, lambda chunk: chunk[:-1]),
        (7, lambda chunk: chunk[:64]),
    ],
)
def test_chunk__of_another_length__cannot_be_revealed(
    setting: Setting, position: int, forge: Callable[[bytes], bytes]
) -> None:
    chunk = forge(setting.honest.chunk(0, position))
    tree = with_padding(setting.honest.tensor_tree(0), position, forged_leaf(chunk))
    trace = TamperedTrace(setting.honest, {}, trees={0: tree}, chunks={(0, position): chunk})
    dispute = beat(setting, trace, setting.receipt(setting.plain))
    assert dispute.state.phase is Phase.REVEAL_CHUNK
    assert dispute.state.position == position


def test_tensor__of_another_depth__cannot_be_revealed(setting: Setting) -> None:
    """A tensor of one chunk, given as a tree of two."""
    chunk = setting.honest.chunk(1, 0)
    tree = MerkleTree([chunk, chunk])
    trace = TamperedTrace(setting.honest, {}, trees={1: tree})
    dispute = beat(setting, trace, setting.receipt(setting.plain))
    assert (dispute.state.phase, dispute.state.kernel) == (Phase.REVEAL_TENSOR, 1)


REVEALING = [Phase.ASSERT, Phase.REVEAL, Phase.REVEAL_TENSOR, Phase.REVEAL_PARTIALS, Phase.PROVE_STEP]


def _garbled(value: Any, rng: random.Random) -> Any:
    """The same form with something wrong in it: bytes flipped or cut, a list reordered, cut or grown."""
    if isinstance(value, bytes):
        kind = rng.randrange(3)
        if not value or kind == 0:
            return value + b"\x00" if len(value) != 32 else rng.randbytes(32)
        if kind == 1 and len(value) != 32:
            return value[:-1]
        place = rng.randrange(len(value))
        return value[:place] + bytes([value[place] ^ (1 << rng.randrange(8))]) + value[place + 1 :]
    if isinstance(value, tuple) and value and isinstance(value[0], str):
        return (*value[:6], value[6] + 1, value[7])
    if isinstance(value, tuple):
        kind = rng.randrange(3)
        if kind == 0 and len(value) > 1 and len(set(value)) > 1:
            turned = list(value)
            while tuple(turned) == value:
                rng.shuffle(turned)
            return tuple(turned)
        return value[:-1] if kind == 1 and value else _grown(value, rng)
    return value + 1


def _grown(value: tuple[Any, ...], rng: random.Random) -> tuple[Any, ...]:
    if not value or len(value) == 16:
        return value[:-1] if value else (rng.randbytes(32),)
    return (*value, value[-1])


@pytest.mark.parametrize("phase", REVEALING)
def test_garbage__in_any_argument_of_any_reveal__loses(setting: Setting, phase: Phase) -> None:
    """An otherwise honest node that alters one argument of its move: nothing of it is taken.

    Partials are data, not evidence: any of the right length are taken, and lose later.
    """
    dispute = setting.arena.open(setting.receipt(setting.wrong))
    setting.play_until(phase, dispute, setting.wrong)
    move = Node(setting.wrong, dispute.receipt).play(dispute.state, dispute.data)
    assert move is not None
    for place in range(len(move.arguments)):
        if place == 1 and phase is Phase.PROVE_STEP:
            continue  # the roots were taken in assert_trace; test_moves has others refused
        rng = random.Random(place)
        for _ in range(4):
            value = _garbled(move.arguments[place], rng)
            if phase is Phase.REVEAL_PARTIALS and len(value) == len(move.arguments[place]):
                continue
            assert is_refused(setting, dispute, replaced(move, place, value)), (place, value)


def is_refused(setting: Setting, dispute: Dispute, move: Move) -> bool:
    """By the contract, or because no call can be made of it."""
    try:
        setting.arena.move(dispute, move, by=setting.arena.operator)
    except (boa.BoaError, ABIError):
        return True
    return False
