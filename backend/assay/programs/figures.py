"""What a program costs: multiply-adds, longest reduction, longest dispute. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from assay.commitments.tensors import ONNX_TO_NUMPY
from assay.exact.dispute import LEVELS, segment_count
from assay.exact.opcodes import IMMEDIATE_BYTES, Op
from assay.exact.program import Kernel, Program

CHUNK_BYTES = 1_024


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one row of a request. `moves`: transactions of the longest dispute, `open` included."""

    kernels: int
    macs: int
    longest_reduction: int
    moves: int


def figures_of(program: Program) -> Figures:
    kernels = program.kernels
    return Figures(
        kernels=len(kernels),
        macs=sum(kernel.elements * kernel.steps for kernel in kernels if is_contraction(kernel)),
        longest_reduction=max((kernel.steps for kernel in kernels), default=0),
        moves=longest_dispute(program),
    )


def is_contraction(kernel: Kernel) -> bool:
    """Whether its steps multiply and accumulate."""
    return kernel.steps > 1 and {Op.MUL, Op.ACC} <= set(_instructions(kernel.expression))


def _instructions(code: bytes) -> Iterator[Op]:
    position = 0
    while position < len(code):
        op = Op(code[position])
        yield op
        position += 1 + IMMEDIATE_BYTES.get(op, 0)


def longest_dispute(program: Program, rows: int = 1) -> int:
    """Moves from `open` to `prove_step`, at the deepest kernel's last element (SPEC.md §11)."""
    trace = 1 + _reveals_and_selects(len(program.kernels))
    return 1 + trace + max(_kernel_moves(kernel, rows) for kernel in program.kernels)


def _kernel_moves(kernel: Kernel, rows: int) -> int:
    size = rows * prod(kernel.domain) * ONNX_TO_NUMPY[kernel.dtype].itemsize
    chunks = max(1, -(-size // CHUNK_BYTES))
    tensor = 1 + _reveals_and_selects(chunks) + (1 if chunks > 1 else 0)  # reveal_tensor … reveal_chunk
    rounds, steps = 0, kernel.steps
    while steps > 1:
        rounds, steps = rounds + 1, -(-steps // segment_count(steps))
    return tensor + 1 + 2 * rounds + 1  # select_element, partials and segments, prove_step


def _reveals_and_selects(leaves: int) -> int:
    """Of one tree, whose first children are shown by the move before."""
    groups = -(-(leaves - 1).bit_length() // LEVELS)
    return max(0, 2 * groups - 1)
