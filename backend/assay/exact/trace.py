"""Traces (SPEC.md §10): the roots of all of a program's tensors for one request, and openings of any of them.

Only roots, inputs and outputs are kept. A tensor that is asked for is computed again, from what it needs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from assay.commitments.merkle import MerkleTree
from assay.commitments.tensors import CHUNK_BYTES, tensor_root
from assay.exact.evaluator import (
    ancestors,
    compute,
    count_rows,
    input_tensor,
    operands,
    plan_of,
    shape_output,
)
from assay.exact.program import Program, Source
from assay.exact.step import operand_elements
from assay.exact.vectorised.reading import Tensor
from assay.exact.vectorised.values import STORAGE
from assay.types import Hash32

OnProgress = Callable[[int, int], None]
"""(kernels done, kernels)."""
CACHE_BYTES: Final = 256 << 20
"""Of tensors computed again, per trace."""


@dataclass(frozen=True)
class Opening:
    """`IStepVerifier.Opening`: the chunk that an operand's element is in; all empty for a pad value."""

    root: bytes = bytes(32)
    """The tensor root of an operand that is a kernel, else zero."""
    trace_siblings: tuple[bytes, ...] = ()
    chunk: bytes = b""
    siblings: tuple[bytes, ...] = ()


class Trace:
    """One request's trace. Made by `run_trace`; not to be shared by threads."""

    def __init__(
        self,
        program: Program,
        inputs: Sequence[NDArray[Any]],
        roots: Sequence[Hash32],
        outputs: Sequence[NDArray[Any]],
    ) -> None:
        self.program = program
        self.inputs = tuple(inputs)
        self.rows = count_rows(program, inputs)
        self.roots = tuple(roots)
        self.outputs = tuple(outputs)
        self._sources = [input_tensor(array, one) for array, one in zip(inputs, program.inputs, strict=True)]
        self._cache: OrderedDict[int, Tensor] = OrderedDict()
        self._trees: OrderedDict[tuple[Source, int | bytes], MerkleTree] = OrderedDict()

    @cached_property
    def input_roots(self) -> tuple[Hash32, ...]:
        return tuple(tensor_root(source.array.view(np.uint8).data) for source in self._sources)

    @cached_property
    def tree(self) -> MerkleTree:
        """Over the kernels' tensor roots."""
        return MerkleTree(self.roots)

    @property
    def root(self) -> Hash32:
        return self.tree.root

    def tensor(self, kernel: int) -> bytes:
        """All rows' bytes as committed. Raises IndexError without such a kernel."""
        return self._tensor(kernel).array.tobytes()

    def tensor_tree(self, kernel: int) -> MerkleTree:
        """Over the tensor's chunks."""
        return self._tree(Source.KERNEL, kernel)

    def chunk(self, kernel: int, position: int) -> bytes:
        """The chunk at a leaf of the tensor's tree; empty beyond the last."""
        return _chunk(self._tensor(kernel).array, position)

    def accumulators(self, kernel: int, element: int, steps: Sequence[int]) -> list[int]:
        """The accumulator of an element, counted over all rows, after each of the ascending numbers of steps.

        Raises IndexError outside the kernel.
        """
        one = self.program.kernels[kernel]
        if not 0 <= element < self.rows * one.elements or not all(0 <= step <= one.steps for step in steps):
            raise IndexError(f"element {element}, steps {list(steps)}: kernel {kernel} does not have them")
        return (
            plan_of(self.program)
            .kernel(kernel)
            .accumulators(self._operands(kernel), self.rows, element, steps)
        )

    def openings(self, kernel: int, element: int, step: int) -> list[Opening]:
        """What `prove_step` opens: one for each operand. `element` counts over all rows."""
        one = self.program.kernels[kernel]
        row, inside = divmod(element, one.elements)
        arrays = [
            self._constant(operand.root).view(STORAGE[operand.dtype]) if tensor is None else tensor.array
            for tensor, operand in zip(self._operands(kernel), one.operands, strict=True)
        ]
        elements = operand_elements(one, row, inside, step, lambda k, at: int(arrays[k][at]))
        return [
            Opening()
            if at is None
            else self._opening(operand.source, operand.root or operand.index, array, at)
            for operand, array, at in zip(one.operands, arrays, elements, strict=True)
        ]

    def forget_tensors(self) -> None:
        """Frees what was computed again; it will be once more when it is asked for."""
        self._cache.clear()
        self._trees.clear()

    def _opening(self, source: Source, key: int | bytes, array: NDArray[Any], element: int) -> Opening:
        position = element * array.itemsize // CHUNK_BYTES
        siblings = tuple(self._tree(source, key).proof(position))
        chunk = _chunk(array, position)
        if source is not Source.KERNEL or isinstance(key, bytes):
            return Opening(chunk=chunk, siblings=siblings)
        return Opening(self.roots[key], tuple(self.tree.proof(key)), chunk, siblings)

    def _constant(self, root: bytes) -> NDArray[Any]:
        return np.ascontiguousarray(self.program.constants[root]).reshape(-1)

    def _operands(self, kernel: int) -> list[Tensor | None]:
        needed = {one.index for one in self.program.kernels[kernel].operands if one.source is Source.KERNEL}
        return operands(
            self.program, kernel, self._sources, {number: self._tensor(number) for number in needed}
        )

    def _tensor(self, kernel: int) -> Tensor:
        if not 0 <= kernel < len(self.program.kernels):
            raise IndexError(f"kernel {kernel}: the program has {len(self.program.kernels)}")
        if kernel not in self._cache:
            self._compute(kernel)
        self._cache.move_to_end(kernel)
        return self._cache[kernel]

    def _compute(self, kernel: int) -> None:
        """Puts the tensor, and those that were computed last on the way to it, into the cache."""
        wanted = ancestors(self.program, [kernel], known=self._cache)
        for number, tensor in compute(self.program, self.inputs, wanted, self._cache):
            self._cache[number] = tensor
            self._shrink()

    def _shrink(self) -> None:
        total = sum(tensor.array.nbytes for tensor in self._cache.values())
        while total > CACHE_BYTES and len(self._cache) > 1:
            total -= self._cache.popitem(last=False)[1].array.nbytes

    def _tree(self, source: Source, key: int | bytes) -> MerkleTree:
        if (source, key) not in self._trees:
            if isinstance(key, bytes):
                array = self._constant(key)
            else:
                array = (self._sources[key] if source is Source.INPUT else self._tensor(key)).array
            count = max(-(-array.nbytes // CHUNK_BYTES), 1)
            self._trees[source, key] = MerkleTree(_chunk(array, position) for position in range(count))
            if len(self._trees) > 8:
                self._trees.popitem(last=False)
        return self._trees[source, key]


def _chunk(array: NDArray[Any], position: int) -> bytes:
    per_chunk = CHUNK_BYTES // array.itemsize
    return array[position * per_chunk : (position + 1) * per_chunk].tobytes()


def run_trace(
    program: Program, inputs: Sequence[NDArray[Any]], *, on_progress: OnProgress | None = None
) -> Trace:
    """Computes every tensor once and keeps its root. Raises RequestError `input_…`.

    Needs memory for what the graph keeps alive at once. Interrupted, in `on_progress` too, it leaves nothing.
    """
    rows = count_rows(program, inputs)
    roots: list[Hash32] = []
    kept: dict[int, NDArray[Any]] = {}
    shown = {one.kernel for one in program.outputs}
    for number, tensor in compute(program, inputs, range(len(program.kernels))):
        roots.append(tensor_root(tensor.array.view(np.uint8).data))
        if number in shown:
            kept[number] = tensor.array
        if on_progress:
            on_progress(number + 1, len(program.kernels))
    outputs = [shape_output(program, one, kept[one.kernel], rows) for one in program.outputs]
    return Trace(program, inputs, roots, outputs)
