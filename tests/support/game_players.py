"""Players of a dispute: honest ones, silent ones, liars; and the game between two of them."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from assay.commitments.merkle import node_hash
from assay.commitments.tensors import CHUNK_BYTES
from assay.exact.dispute import element_width, segment_count, segment_cuts
from assay.exact.game import MAX_MOVES, Concession, Move, Phase, Side, State, challenge, defend
from assay.types import Receipt

if TYPE_CHECKING:
    from tests.support.arena import Arena, Dispute


class Player(Protocol):
    """Answers the next move, or None: it has none, or keeps silent."""

    def play(self, state: State, data: bytes) -> Move | None: ...


@dataclass
class Node:
    """Plays what its trace says; honest if the trace is."""

    trace: Any
    receipt: Receipt

    def play(self, state: State, data: bytes) -> Move | None:
        return defend(state, self.trace, self.receipt)


@dataclass
class Challenger:
    """Points at the leftmost difference to its trace; honest if the trace is."""

    trace: Any

    def play(self, state: State, data: bytes) -> Move | None:
        move = challenge(state, data, self.trace)
        return None if isinstance(move, Concession) else move


@dataclass
class Silent:
    """Plays like another for so many moves, then never again."""

    player: Player
    moves: int

    def play(self, state: State, data: bytes) -> Move | None:
        self.moves -= 1
        return self.player.play(state, data) if self.moves >= 0 else None


@dataclass
class Altering:
    """Plays like another, but alters its moves in one phase, or in all."""

    player: Player
    alter: Callable[[Move], Move | None]
    phase: Phase | None = None
    altered: int = 0

    def play(self, state: State, data: bytes) -> Move | None:
        move = self.player.play(state, data)
        if move is None or self.phase not in (None, state.phase):
            return move
        self.altered += 1
        return self.alter(move)


@dataclass
class Pointing:
    """A challenger who points where it is told to: a number for each selection, modulo what there is to
    select; then anywhere.
    """

    rng: random.Random
    places: list[int] = field(default_factory=list)

    def play(self, state: State, data: bytes) -> Move | None:
        place = self.places.pop(0) if self.places else self.rng.randrange(1 << 30)
        return point(state, data, place)


def point(state: State, data: bytes, place: int) -> Move | None:
    """The selection of a place, modulo how many there are; None where there is nothing to select."""
    match state.phase:
        case Phase.SELECT:
            children = [data[at : at + 32] for at in range(0, len(data), 32)]
            index = place % len(children)
            return Move("select", (index, children[index], siblings_of(children, index)))
        case Phase.SELECT_ELEMENT:
            count = len(data) // element_width(state.dtype)
            return Move("select_element", (data, place % count)) if count else None
    return Move("select_segment", (data, place % segment_count(state.high - state.low)))


def siblings_of(children: list[bytes], index: int) -> tuple[bytes, ...]:
    level, found = list(children), []
    while len(level) > 1:
        found.append(level[index ^ 1])
        level = [node_hash(level[at], level[at + 1]) for at in range(0, len(level), 2)]
        index >>= 1
    return tuple(found)


def replaced(move: Move, place: int, value: Any) -> Move:
    """The move with one argument replaced."""
    arguments = list(move.arguments)
    arguments[place] = value
    return replace(move, arguments=tuple(arguments))


def play_game(
    arena: Arena,
    dispute: Dispute,
    node: Player,
    challenger: Player,
    wait: Callable[[], int] = lambda: 0,
) -> Dispute:
    """Plays to the end. A move that the contract refuses is no move: the other side claims the time-out.

    `wait`: seconds that pass before each move, at most a move's window.
    """
    import boa  # only here: the players alone need no EVM

    while dispute.closed is None:
        side = dispute.state.side
        boa.env.timestamp = min(boa.env.timestamp + wait(), dispute.state.deadline)
        if side is None:
            arena.close(dispute)
            break
        player, by = (node, arena.operator) if side is Side.NODE else (challenger, dispute.state.challenger)
        move = player.play(dispute.state, dispute.data)
        if move is None or not _sent(arena, dispute, move, by):
            arena.claim_timeout(dispute)
    assert len(dispute.moves) <= MAX_MOVES
    return dispute


def _sent(arena: Arena, dispute: Dispute, move: Move, by: str) -> bool:
    import boa

    try:
        arena.move(dispute, move, by=by)
    except boa.BoaError:
        return False
    return True


@dataclass
class Aiming:
    """A challenger who points at one step of one element of one kernel, whatever is true."""

    kernel: int
    element: int
    step: int

    def play(self, state: State, data: bytes) -> Move | None:
        width = element_width(state.dtype) if state.dtype else 1
        per_chunk = CHUNK_BYTES // width
        if state.phase is Phase.SELECT:
            leaf = self.element // per_chunk if state.in_tensor else self.kernel
            down = state.reveal_levels
            return point(state, data, (leaf >> (state.level - down)) % (1 << down))
        if state.phase is Phase.SELECT_ELEMENT:
            return point(state, data, self.element % per_chunk)
        cuts = segment_cuts(state.low, state.high)
        return point(state, data, next(j for j, cut in enumerate(cuts[1:]) if self.step < cut))
