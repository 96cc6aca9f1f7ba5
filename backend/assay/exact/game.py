"""How to play a dispute (SPEC.md §11): the node's next move, the challenger's next move. Pure.

move = defend(state, trace, receipt)          # the node's, from its trace of the receipt's inputs
move = challenge(state, data, trace)          # the challenger's; `data`: what the last `Moved` revealed
game.call(move.function, dispute_id, state.row(), *move.arguments)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple
from typing import Any, Protocol

from assay.commitments.merkle import MerkleTree, node_hash
from assay.exact.dispute import (
    FUNCTIONS,
    LEVELS,
    MAX_MOVES,
    PARTS,
    Concession,
    Move,
    Phase,
    Side,
    State,
    decode_elements,
    element_width,
    encode_elements,
    segment_cuts,
    side_of,
)
from assay.exact.program import Program
from assay.types import Hash32, Receipt

__all__ = [
    "LEVELS",
    "MAX_MOVES",
    "PARTS",
    "Concession",
    "Move",
    "Phase",
    "Side",
    "State",
    "TraceView",
    "challenge",
    "defend",
    "side_of",
]


class OpeningView(Protocol):
    """`IStepVerifier.Opening`: the chunk that an operand's element is in."""

    @property
    def root(self) -> bytes: ...
    @property
    def trace_siblings(self) -> Sequence[bytes]: ...
    @property
    def chunk(self) -> bytes: ...
    @property
    def siblings(self) -> Sequence[bytes]: ...


class TraceView(Protocol):
    """What a side needs of a trace; `assay.exact.trace.Trace` is one."""

    @property
    def program(self) -> Program: ...
    @property
    def rows(self) -> int: ...
    @property
    def input_roots(self) -> Sequence[bytes]: ...
    @property
    def roots(self) -> Sequence[bytes]: ...
    @property
    def root(self) -> bytes: ...
    @property
    def tree(self) -> MerkleTree: ...

    def tensor_tree(self, kernel: int, /) -> MerkleTree: ...
    def chunk(self, kernel: int, position: int, /) -> bytes: ...
    def accumulators(self, kernel: int, element: int, steps: Sequence[int], /) -> list[int]: ...
    def openings(self, kernel: int, element: int, step: int, /) -> Sequence[OpeningView]: ...


def defend(state: State, trace: TraceView, receipt: Receipt) -> Move:
    """The node's move. Raises ValueError in a phase where the node owes none."""
    match state.phase:
        case Phase.ASSERT:
            return _assert_trace(trace, receipt)
        case Phase.REVEAL:
            return _move(state, children_of(tree_of(state, trace), state.level, state.position))
        case Phase.REVEAL_TENSOR:
            return _reveal_tensor(state, trace)
        case Phase.REVEAL_CHUNK:
            return _move(state, trace.chunk(state.kernel, state.position))
        case Phase.REVEAL_PARTIALS:
            cuts = segment_cuts(state.low, state.high)[1:-1]
            partials = trace.accumulators(state.kernel, state.element, cuts)
            return _move(state, encode_elements(state.dtype, partials))
        case Phase.PROVE_STEP:
            return _prove_step(state, trace)
    raise ValueError(f"the node owes no move in phase {state.phase.name}")


def challenge(state: State, data: bytes, trace: TraceView) -> Move | Concession:
    """The challenger's move: the leftmost difference between `data`, which the node revealed, and `trace`.

    Raises ValueError in a phase where the challenger owes none.
    """
    match state.phase:
        case Phase.SELECT:
            return _select(state, data, trace)
        case Phase.SELECT_ELEMENT:
            return _select_element(state, data, trace)
        case Phase.SELECT_SEGMENT:
            return _select_segment(state, data, trace)
    raise ValueError(f"the challenger owes no move in phase {state.phase.name}")


def tree_of(state: State, trace: TraceView) -> MerkleTree:
    """The tree that the path is in."""
    return trace.tensor_tree(state.kernel) if state.in_tensor else trace.tree


def children_of(tree: MerkleTree, level: int, position: int) -> tuple[Hash32, ...]:
    """The nodes LEVELS below a node, or the leaves where they are nearer; none below a leaf."""
    down = min(LEVELS, level)
    if not down:
        return ()
    return tuple(tree.node(level - down, (position << down) + j) for j in range(1 << down))


def _move(state: State, *arguments: Any) -> Move:
    return Move(FUNCTIONS[state.phase], arguments)


def _assert_trace(trace: TraceView, receipt: Receipt) -> Move:
    program = trace.program
    outputs = [one.kernel for one in program.outputs]
    arguments = (
        astuple(receipt),
        program.records[0],
        tuple(program.tree.proof(0)),
        trace.rows,
        tuple(trace.input_roots),
        tuple(trace.roots[kernel] for kernel in outputs),
        tuple(tuple(trace.tree.proof(kernel)) for kernel in outputs),
        trace.root,
        children_of(trace.tree, trace.tree.depth, 0),
    )
    return Move(FUNCTIONS[Phase.ASSERT], arguments)


def _reveal_tensor(state: State, trace: TraceView) -> Move:
    program, kernel = trace.program, state.kernel
    tree = trace.tensor_tree(kernel)
    chunk = b"" if tree.depth else trace.chunk(kernel, 0)
    return _move(
        state,
        program.records[1 + kernel],
        tuple(program.tree.proof(1 + kernel)),
        tree.root,
        children_of(tree, tree.depth, 0),
        chunk,
    )


def _prove_step(state: State, trace: TraceView) -> Move:
    openings = trace.openings(state.kernel, state.element, state.low)
    rows = tuple((one.root, tuple(one.trace_siblings), one.chunk, tuple(one.siblings)) for one in openings)
    return _move(state, trace.program.records[1 + state.kernel], tuple(trace.input_roots), rows)


def _select(state: State, data: bytes, trace: TraceView) -> Move | Concession:
    children = [Hash32(data[at : at + 32]) for at in range(0, len(data), 32)]
    own = children_of(tree_of(state, trace), state.level, state.position)
    index = _first_difference(children, own)
    if index is None:
        return Concession("every child that the node revealed is the true one")
    return _move(state, index, children[index], _siblings(children, index))


def _siblings(children: Sequence[bytes], index: int) -> tuple[Hash32, ...]:
    """From a child up to the node that the children hash to."""
    level, siblings = list(children), []
    while len(level) > 1:
        siblings.append(Hash32(level[index ^ 1]))
        level = [node_hash(level[at], level[at + 1]) for at in range(0, len(level), 2)]
        index >>= 1
    return tuple(siblings)


def _select_element(state: State, chunk: bytes, trace: TraceView) -> Move | Concession:
    byte = _first_difference(chunk, trace.chunk(state.kernel, state.position))
    if byte is None:
        return Concession("every element of the chunk is the true one")
    return _move(state, chunk, byte // element_width(state.dtype))


def _select_segment(state: State, partials: bytes, trace: TraceView) -> Move | Concession:
    claimed = [*decode_elements(state.dtype, partials), state.after]
    cuts = segment_cuts(state.low, state.high)[1:]
    index = _first_difference(claimed, trace.accumulators(state.kernel, state.element, cuts))
    if index is None:
        return Concession("every accumulator is the true one")
    return _move(state, partials, index)


def _first_difference(claimed: Sequence[Any], own: Sequence[Any]) -> int | None:
    return next((j for j, (a, b) in enumerate(zip(claimed, own, strict=True)) if a != b), None)
