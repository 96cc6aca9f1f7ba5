"""Hundreds of games on random programs, one side honest, the other anything: the honest side wins each."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from assay.commitments.tensors import tensor_root
from assay.exact.dispute import decode_element, element_width
from assay.exact.game import MAX_MOVES
from assay.exact.program import Program
from assay.types import Hash32

from tests.conftest import DEEP
from tests.support.arena import MOVE_WINDOW, Arena
from tests.support.game_players import (
    Altering,
    Challenger,
    Node,
    Player,
    Pointing,
    Silent,
    play_game,
    replaced,
)
from tests.support.small_programs import PlainTrace, ladder, random_input, single
from tests.support.tampered_trace import TamperedTrace

GAMES = 2_000 if DEEP else 200
PER_TEST = 20
WAITS = (0, 1, MOVE_WINDOW - 1, MOVE_WINDOW)


@dataclass(frozen=True)
class Case:
    program: Program
    version_id: Hash32
    trace: PlainTrace


def new_case(arena: Arena, rng: random.Random) -> Case:
    if rng.random() < 0.2:
        program = single(rng)
    else:
        sizes = {"wide": 20 * rng.choice((1, 7, 30)), "steps": rng.choice((1, 2, 5, 270))}
        program = ladder(rng, **sizes, rungs=rng.randrange(4), batched=rng.random() < 0.5)
    rows = rng.randint(1, 3) if program.batched else 1
    inputs = random_input(rng, program, rows)
    return Case(program, arena.publish(program), PlainTrace(program, inputs, rows))


def random_change(rng: random.Random, trace: PlainTrace) -> tuple[int, int, int]:
    """kernel, element, another value."""
    kernel = rng.randrange(len(trace.program.kernels))
    element = rng.randrange(len(trace.values[kernel]))
    dtype = trace.program.kernels[kernel].dtype
    width = element_width(dtype)
    data = bytearray(trace.tensor(kernel)[element * width : (element + 1) * width])
    data[rng.randrange(width)] ^= 1 << rng.randrange(8)
    return kernel, element, decode_element(dtype, bytes(data))


def computed_on(rng: random.Random, trace: PlainTrace) -> Any:
    kernel, element, value = random_change(rng, trace)

    def tamper(number: int, values: list[int]) -> None:
        if number == kernel:
            values[element] = value

    return PlainTrace(trace.program, trace.inputs, trace.rows, tamper=tamper)


def patched(rng: random.Random, trace: PlainTrace) -> Any:
    changes: dict[int, dict[int, int]] = {}
    for _ in range(rng.randint(1, 4)):
        kernel, element, value = random_change(rng, trace)
        changes.setdefault(kernel, {})[element] = value
    return TamperedTrace(trace, changes, lie_from=rng.choice((None, 0, 1, 3)))


def other_input(rng: random.Random, trace: PlainTrace) -> Any:
    used = [bytes(byte ^ 0x55 for byte in data) for data in trace.inputs]
    return PlainTrace(trace.program, trace.inputs, trace.rows, inputs_used=used)


def other_weights(rng: random.Random, trace: PlainTrace) -> Any:
    program = trace.program
    if not program.constants:
        return computed_on(rng, trace)
    root = rng.choice(list(program.constants))
    values = np.array(program.constants[root])
    values[rng.randrange(len(values))] ^= 1
    other = tensor_root(values.tobytes())
    kernels = tuple(
        replace(one, operands=tuple(replace(o, root=other) if o.root == root else o for o in one.operands))
        for one in program.kernels
    )
    used = replace(program, kernels=kernels, constants={**program.constants, other: values})
    return PlainTrace(program, trace.inputs, trace.rows, computed=used)


LIES = (computed_on, computed_on, patched, patched, other_input, other_weights)


def cheating_node(rng: random.Random, case: Case, arena: Arena) -> tuple[Any, Player]:
    """A receipt that is wrong, or a trace that is, and how the node stands for it."""
    lie = rng.choice(LIES)(rng, case.trace)
    if lie.root == case.trace.root:  # it changed nothing after all
        return cheating_node(rng, case, arena)
    receipt = arena.receipt(case.version_id, lie, consumer=arena.consumer, sequence=rng.randrange(1 << 32))
    node: Player = Node(lie, receipt)
    if rng.random() < 0.3:
        node = Silent(node, rng.randrange(8))
    elif rng.random() < 0.3:
        node = Altering(node, lambda move: replaced(move, -1, type(move.arguments[-1])()))
    return receipt, node


def lying_challenger(rng: random.Random, case: Case) -> Player:
    roll = rng.random()
    if roll < 0.6:
        return Pointing(rng)
    if roll < 0.8:
        return Challenger(rng.choice(LIES[:4])(rng, case.trace))
    return Silent(Pointing(rng), rng.randrange(6))


@pytest.mark.parametrize("seed", range(GAMES // PER_TEST))
def test_games__node_cheats_or_challenger_lies__honest_side_wins(arena: Arena, seed: int) -> None:
    rng = random.Random(seed)
    arena.stake(10**27)
    longest = 0
    for number in range(PER_TEST):
        if number % 4 == 0:
            case = new_case(arena, rng)
        node_is_honest = number % 2 == 0
        if node_is_honest:
            receipt = arena.receipt(case.version_id, case.trace, sequence=number + 1)
            node: Player = Node(case.trace, receipt)
            challenger = lying_challenger(rng, case)
        else:
            receipt, node = cheating_node(rng, case, arena)
            challenger = Challenger(case.trace)
        dispute = arena.open(receipt)
        play_game(arena, dispute, node, challenger, wait=lambda: rng.choice(WAITS))
        assert dispute.node_won == node_is_honest, (seed, number)
        longest = max(longest, len(dispute.moves))
    assert longest <= MAX_MOVES
    assert arena.balance(str(arena.game.address)) == 0
    assert arena.nodes.nodes(arena.operator).frozen == 0
