"""All kernels of a program on a request's inputs, in numpy, bit-equal to `step.py` (SPEC.md §10).

Nothing here knows an ONNX operator: a kernel's maps and expression say all. Tensors are freed after
their last use.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.commitments.tensors import ONNX_TO_NUMPY, ONNX_TO_OIP, onnx_dtype
from assay.errors import RequestError
from assay.exact.program import Program, Signature, Source
from assay.exact.vectorised.kernels import KernelPlan
from assay.exact.vectorised.reading import Tensor
from assay.exact.vectorised.values import STORAGE, dtype_bounds, measure

Array = NDArray[Any]
OnTensor = Callable[[int, Array], None]
"""(kernel, its elements over all rows: flat, as the integers that they are committed as)."""


def evaluate(
    program: Program, inputs: Sequence[Array], *, on_tensor: OnTensor | None = None, until: int | None = None
) -> tuple[Array, ...]:
    """The outputs, in the dtypes and shapes of the signature; with `until`, that kernel's flat tensor alone.

    `inputs` are arrays of the signature's dtypes and shapes, in a batched program with their rows first.
    `on_tensor` is called once for each kernel that is computed, in order. Raises RequestError `input_…`.
    """
    outputs = [one.kernel for one in program.outputs] if until is None else [until]
    kept: dict[int, Array] = {}
    wanted = range(len(program.kernels)) if until is None and on_tensor else ancestors(program, outputs)
    for number, tensor in compute(program, inputs, wanted):
        if on_tensor:
            on_tensor(number, tensor.array)
        if number in outputs:
            kept[number] = tensor.array
    if until is not None:
        return (kept[until],)
    rows = count_rows(program, inputs)
    return tuple(shape_output(program, one, kept[one.kernel], rows) for one in program.outputs)


def shape_output(program: Program, output: Signature, array: Array, rows: int) -> Array:
    """A flat tensor in an output's dtype and shape."""
    dims = (rows, *output.dims) if program.batched else output.dims
    return array.view(ONNX_TO_NUMPY[output.dtype]).reshape(dims)


def ancestors(program: Program, kernels: Collection[int], known: Collection[int] = ()) -> list[int]:
    """The kernels that these need, themselves included, in order; without the `known` and what they need."""
    needed = set(kernels).difference(known)
    for number in range(max(needed, default=-1), -1, -1):
        if number in needed:
            needed.update(_sources(program, number).difference(known))
    return sorted(needed)


def _sources(program: Program, number: int) -> set[int]:
    operands = program.kernels[number].operands
    return {operand.index for operand in operands if operand.source is Source.KERNEL}


def compute(
    program: Program,
    inputs: Sequence[Array],
    wanted: Collection[int],
    known: Mapping[int, Tensor] | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Kernels in order with their tensors; `wanted` ascends and holds what each needs, but for the `known`.

    Whoever iterates may keep a tensor; this forgets it after its last use. Raises RequestError `input_…`.
    """
    rows = count_rows(program, inputs)
    sources = [input_tensor(array, one) for array, one in zip(inputs, program.inputs, strict=True)]
    uses: dict[int, int] = {}
    for number in wanted:
        for one in _sources(program, number):
            uses[one] = uses.get(one, 0) + 1
    alive = dict(known or {})
    for number in wanted:
        tensor = plan_of(program).kernel(number).run(operands(program, number, sources, alive), rows)
        for one in _sources(program, number):
            uses[one] -= 1
            if not uses[one]:
                del alive[one]
        if uses.get(number):
            alive[number] = tensor
        yield number, tensor


def memory_per_row(program: Program) -> int:
    """Bytes that computing all kernels of one row takes at its peak, about: tensors that are alive, and for
    the kernel at hand 8 bytes for each element that it reads or makes. Constants are not counted."""
    last: dict[int, int] = {}
    for number in range(len(program.kernels)):
        last |= dict.fromkeys(_sources(program, number), number)
    sizes = [one.elements * STORAGE[one.dtype].itemsize for one in program.inputs]
    alive: dict[int, int] = {}
    held = sum(sizes)
    peak = held
    for number, kernel in enumerate(program.kernels):
        size = kernel.elements * STORAGE[kernel.dtype].itemsize
        read = sum(one.elements for one in kernel.operands if one.source is not Source.CONSTANT)
        peak = max(peak, held + size + 8 * (kernel.elements + read))
        alive[number] = size
        held += size
        for one in [*_sources(program, number), number]:
            if last.get(one, one) <= number:
                held -= alive.pop(one, 0)
    return peak


def operands(
    program: Program, number: int, sources: Sequence[Tensor], tensors: Mapping[int, Tensor]
) -> list[Tensor | None]:
    """A kernel's operands from the inputs and the kernels' tensors; None for constants."""
    found: list[Tensor | None] = []
    for operand in program.kernels[number].operands:
        if operand.source is Source.CONSTANT:
            found.append(None)
        else:
            found.append(sources[operand.index] if operand.source is Source.INPUT else tensors[operand.index])
    return found


def input_tensor(array: Array, signature: Signature) -> Tensor:
    """An input as kernels read it: its bytes as they are committed."""
    dtype = signature.dtype
    ordered = np.ascontiguousarray(array, dtype=ONNX_TO_NUMPY[dtype])
    return Tensor(ordered.reshape(-1).view(STORAGE[dtype]), dtype_bounds(dtype))


def count_rows(program: Program, inputs: Sequence[Array]) -> int:
    """How many rows the request has: 1 unless the program is batched. Raises RequestError `input_…`."""
    if len(inputs) != len(program.inputs):
        raise RequestError(
            f"the program has {len(program.inputs)} inputs, got {len(inputs)}", code="input_count"
        )
    rows = inputs[0].shape[0] if program.batched and inputs and inputs[0].ndim else 1
    for array, one in zip(inputs, program.inputs, strict=True):
        dims = (rows, *one.dims) if program.batched else one.dims
        if array.shape != dims or not rows:
            raise RequestError(
                f"input {one.name!r} has shape {list(array.shape)}, expected {list(dims)}, rows ≥ 1",
                code="input_shape",
            )
        if onnx_dtype(array.dtype) != one.dtype:
            raise RequestError(
                f"input {one.name!r} is {array.dtype}, expected {ONNX_TO_OIP[one.dtype]}", code="input_dtype"
            )
    return rows


class ProgramPlan:
    """The plans of a program's kernels, made when they are first run."""

    def __init__(self, program: Program) -> None:
        self._program = weakref.ref(program)
        self._kernels: dict[int, KernelPlan] = {}
        self._constants: dict[bytes, Tensor] = {}

    def kernel(self, number: int) -> KernelPlan:
        if number not in self._kernels:
            program = self._program()
            assert program is not None
            self._kernels[number] = KernelPlan(program.kernels[number], self._constant(program, number))
        return self._kernels[number]

    def _constant(self, program: Program, number: int) -> Callable[[bytes], Tensor]:
        dtypes = {operand.root: operand.dtype for operand in program.kernels[number].operands}

        def find(root: bytes) -> Tensor:
            if root not in self._constants:
                array, dtype = program.constants[root], dtypes[root]
                flat = np.ascontiguousarray(array).reshape(-1).view(STORAGE[dtype])
                self._constants[root] = Tensor(flat, measure(flat, dtype))
            return self._constants[root]

        return find


_plans: dict[int, tuple[weakref.ref[Program], ProgramPlan]] = {}


def plan_of(program: Program) -> ProgramPlan:
    """The program's plan, which lives as long as the program object."""
    key = id(program)
    if key not in _plans:
        _plans[key] = (weakref.ref(program, lambda _: _plans.pop(key, None)), ProgramPlan(program))
    return _plans[key][1]
