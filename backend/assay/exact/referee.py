"""What each move that DisputeGame.vy takes makes of a dispute's state (SPEC.md §11).

No proof is checked here: the contract does that, and whether a step computes to the claim is `exact.step`'s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from assay.commitments.identifiers import keccak
from assay.commitments.merkle import depth_of
from assay.commitments.tensors import CHUNK_BYTES
from assay.exact.decode import decode_header, decode_kernel
from assay.exact.dispute import (
    FUNCTIONS,
    Move,
    Phase,
    State,
    decode_elements,
    element_width,
    segment_cuts,
)


def next_state(state: State, move: Move, deadline: int) -> State | None:
    """The state after a move that was owed and taken; None: the step is proven and the node has won.

    Raises ValueError if another move is owed.
    """
    if FUNCTIONS.get(state.phase) != move.function:
        raise ValueError(f"{move.function} is not the move of phase {state.phase.name}")
    if state.phase is Phase.PROVE_STEP:
        return None
    return replace(_RULES[state.phase](state, *move.arguments), deadline=deadline)


def revealed_data(move: Move) -> bytes:
    """`data` of the move's `Moved` event: children concatenated, a chunk, partials; empty for a selection."""
    last: Any = move.arguments[-1]
    match move.function:
        case "assert_trace" | "reveal":
            return b"".join(last)
        case "reveal_tensor":
            return b"".join(move.arguments[-2]) or bytes(last)
        case "reveal_chunk" | "reveal_partials":
            return bytes(last)
    return b""


def _chunks(length: int) -> int:
    return max(-(-length // CHUNK_BYTES), 1)


def _assert_trace(state: State, *arguments: Any) -> State:
    _, header, _, rows, input_roots, _, _, trace_root, _ = arguments
    kernels = decode_header(header)[1]
    level = depth_of(kernels)
    return replace(
        state,
        trace_root=trace_root,
        inputs=keccak(b"".join(input_roots)),
        claim=trace_root,
        rows=rows,
        kernels=kernels,
        level=level,
        phase=Phase.SELECT if level else Phase.REVEAL_TENSOR,
    )


def _reveal(state: State, *_: Any) -> State:
    return replace(state, phase=Phase.SELECT)


def _select(state: State, index: int, child: Any, _: Any) -> State:
    down = state.reveal_levels
    position, level = (state.position << down) | index, state.level - down
    after = replace(state, claim=child, position=position, level=level, phase=Phase.REVEAL)
    if level:
        return after
    if position >= (_chunks(state.length) if state.in_tensor else state.kernels):
        return replace(after, phase=Phase.FORFEIT)
    if state.in_tensor:
        return replace(after, phase=Phase.REVEAL_CHUNK)
    return replace(after, kernel=position, phase=Phase.REVEAL_TENSOR)


def _reveal_tensor(state: State, record: bytes, _: Any, tensor_root: Any, *__: Any) -> State:
    kernel = decode_kernel(record)
    length = kernel.elements * state.rows * element_width(kernel.dtype)
    level = depth_of(_chunks(length))
    return replace(
        state,
        record=keccak(record),
        claim=tensor_root,
        length=length,
        level=level,
        position=0,
        dtype=kernel.dtype,
        high=kernel.steps,
        before=kernel.init,
        phase=Phase.SELECT if level else Phase.SELECT_ELEMENT,
    )


def _reveal_chunk(state: State, *_: Any) -> State:
    return replace(state, phase=Phase.SELECT_ELEMENT)


def _select_element(state: State, chunk: bytes, index: int) -> State:
    return replace(
        state,
        element=state.position * (CHUNK_BYTES // element_width(state.dtype)) + index,
        after=decode_elements(state.dtype, chunk)[index],
        phase=Phase.PROVE_STEP if state.high == 1 else Phase.REVEAL_PARTIALS,
    )


def _reveal_partials(state: State, partials: bytes) -> State:
    return replace(state, claim=keccak(partials), phase=Phase.SELECT_SEGMENT)


def _select_segment(state: State, partials: bytes, index: int) -> State:
    cuts = segment_cuts(state.low, state.high)
    ends = [state.before, *decode_elements(state.dtype, partials), state.after]
    low, high = cuts[index], cuts[index + 1]
    phase = Phase.PROVE_STEP if high - low == 1 else Phase.REVEAL_PARTIALS
    return replace(state, low=low, high=high, before=ends[index], after=ends[index + 1], phase=phase)


_RULES: dict[Phase, Callable[..., State]] = {
    Phase.ASSERT: _assert_trace,
    Phase.REVEAL: _reveal,
    Phase.SELECT: _select,
    Phase.REVEAL_TENSOR: _reveal_tensor,
    Phase.REVEAL_CHUNK: _reveal_chunk,
    Phase.SELECT_ELEMENT: _select_element,
    Phase.REVEAL_PARTIALS: _reveal_partials,
    Phase.SELECT_SEGMENT: _select_segment,
}
