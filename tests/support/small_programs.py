"""Small programs whose games go through every kind of move, and a trace of them by the scalar interpreter."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from assay.commitments.merkle import MerkleTree
from assay.commitments.tensors import (
    CHUNK_BYTES,
    ONNX_TO_NUMPY,
    hash_commitments,
    tensor_commitment,
    tensor_root,
)
from assay.exact.assembler import Expression
from assay.exact.dispute import decode_element, element_width, encode_elements
from assay.exact.program import Affine, Kernel, Operand, Program, Signature, Source
from assay.exact.step import operand_elements, run_step
from assay.types import Hash32

from tests.support.tampered_trace import Opened, chunks_of

FLOAT, UINT8, INT8, INT32, INT64 = 1, 2, 3, 6, 7
Values = list[int]


class PlainTrace:
    """A trace computed step by step. `tamper(kernel, values)` may change a tensor before it is used further.

    `computed`: a program of the same shape whose constants, and `inputs_used`: inputs, that are really used.
    """

    def __init__(
        self,
        program: Program,
        inputs: Sequence[bytes],
        rows: int = 1,
        *,
        tamper: Callable[[int, Values], None] | None = None,
        computed: Program | None = None,
        inputs_used: Sequence[bytes] | None = None,
    ) -> None:
        self.program, self.rows, self.inputs = program, rows, tuple(inputs)
        self.input_roots = tuple(tensor_root(data) for data in inputs)
        self._computed = computed or program
        self._inputs_used = tuple(inputs if inputs_used is None else inputs_used)
        self.values: list[Values] = []
        for number, kernel in enumerate(program.kernels):
            elements = range(rows * kernel.elements)
            values = [self._fold(number, e, kernel.steps)[-1] for e in elements]
            if tamper:
                tamper(number, values)
            self.values.append(values)
        self.tensors = [
            encode_elements(kernel.dtype, values)
            for kernel, values in zip(program.kernels, self.values, strict=True)
        ]
        self.trees = [MerkleTree(chunks_of(data)) for data in self.tensors]

    @cached_property
    def roots(self) -> tuple[Hash32, ...]:
        return tuple(tree.root for tree in self.trees)

    @cached_property
    def tree(self) -> MerkleTree:
        return MerkleTree(self.roots)

    @property
    def root(self) -> Hash32:
        return self.tree.root

    def tensor(self, kernel: int) -> bytes:
        return self.tensors[kernel]

    def tensor_tree(self, kernel: int) -> MerkleTree:
        return self.trees[kernel]

    def chunk(self, kernel: int, position: int) -> bytes:
        return chunks_of(self.tensors[kernel])[position]

    def accumulators(self, kernel: int, element: int, steps: Sequence[int]) -> Values:
        folded = self._fold(kernel, element, max(steps, default=0))
        return [folded[step] for step in steps]

    def openings(self, kernel: int, element: int, step: int) -> list[Opened]:
        row, inner = divmod(element, self.program.kernels[kernel].elements)
        read = self._reader(kernel)
        record = self.program.kernels[kernel]
        places = operand_elements(record, row, inner, step, read)
        return [
            Opened() if place is None else self._open(operand, place)
            for operand, place in zip(record.operands, places, strict=True)
        ]

    def _open(self, operand: Operand, element: int) -> Opened:
        data = self._bytes_of(self.program, self.inputs, operand)
        tree = MerkleTree(chunks_of(data))
        position = element * element_width(operand.dtype) // CHUNK_BYTES
        chunk, siblings = chunks_of(data)[position], tuple(tree.proof(position))
        if operand.source is Source.KERNEL:
            return Opened(tree.root, tuple(self.tree.proof(operand.index)), chunk, siblings)
        return Opened(chunk=chunk, siblings=siblings)

    def _fold(self, number: int, element: int, steps: int) -> Values:
        """The accumulators before the first step, after one, …"""
        kernel = self._computed.kernels[number]
        row, inner = divmod(element, kernel.elements)
        read, found = self._reader(number), [kernel.init]
        for step in range(steps):
            found.append(run_step(kernel, row, inner, step, found[-1], read))
        return found

    def _reader(self, number: int) -> Callable[[int, int], int]:
        operands = self._computed.kernels[number].operands

        def read(which: int, element: int) -> int:
            operand = operands[which]
            if operand.source is Source.KERNEL:
                return self.values[operand.index][element]
            data = self._bytes_of(self._computed, self._inputs_used, operand)
            width = element_width(operand.dtype)
            return decode_element(operand.dtype, data[element * width : (element + 1) * width])

        return read

    def _bytes_of(self, program: Program, inputs: Sequence[bytes], operand: Operand) -> bytes:
        if operand.source is Source.KERNEL:
            return self.tensors[operand.index]
        if operand.source is Source.INPUT:
            return inputs[operand.index]
        return program.constants[operand.root].tobytes()


def commitments_of(program: Program, trace: Any) -> tuple[Hash32, Hash32]:
    """`input_hash` and `output_hash` of a trace."""
    rows = (trace.rows,) if program.batched else ()
    inputs = [
        tensor_commitment(one.dtype, (*rows, *one.dims), bytes(data))
        for one, data in zip(program.inputs, trace.inputs, strict=True)
    ]
    outputs = [
        tensor_commitment(one.dtype, (*rows, *one.dims), trace.tensor(one.kernel)) for one in program.outputs
    ]
    return hash_commitments(inputs), hash_commitments(outputs)


def constant(values: Any) -> tuple[bytes, Any]:
    array = np.ascontiguousarray(values)
    return tensor_root(array.tobytes()), array


def _flat(*terms: tuple[int, int], base: int = 0) -> Affine:
    return Affine(base, tuple(terms))


def elementwise(
    source: Source, index: int, dtype: int, elements: int, expression: Expression, out: int
) -> Kernel:
    """out[i] = expression(operand[i])."""
    operand = Operand(source, dtype, elements, _flat((0, 1)), index=index)
    return Kernel(out, (elements,), (), (operand,), expression.code)


def ladder(
    rng: random.Random, *, wide: int = 2_600, steps: int = 300, rungs: int = 14, batched: bool = False
) -> Program:
    """Wide tensor (several reveals), long reduction (two rounds of partials), a ladder of small kernels.

    0 spread: int64, out[a, b] = x[b] · w[a] (wide); 1 dense: int32, Σ over `steps` of spread and pads;
    2 uint8, requantised through float32; 3 float32; 4 int32; then `rungs` int32 kernels, each from the one
    before. Outputs are the last and 2.
    """
    inputs, outer, dense = 20, wide // 20, 12
    weights = constant(np.array([rng.randint(-9, 9) or 1 for _ in range(outer)], dtype="<i4"))
    table = constant(np.array([rng.randint(-99, 99) or 1 for _ in range(dense * steps)], dtype="<i1"))
    spread = Kernel(
        INT64,
        (outer, inputs),
        (),
        (
            Operand(Source.INPUT, UINT8, inputs, _flat((1, 1))),
            Operand(Source.CONSTANT, INT32, outer, _flat((0, 1)), root=weights[0]),
        ),
        Expression().operand(0).operand(1).mul().code,
        name="spread",
    )
    sums = Kernel(
        INT32,
        (dense,),
        (steps,),
        (
            Operand(
                Source.KERNEL, INT64, outer * inputs, _flat((0, inputs), (1, 7), base=-3), index=0, pad=5
            ),
            Operand(Source.CONSTANT, INT8, dense * steps, _flat((0, steps), (1, 1)), root=table[0]),
        ),
        Expression().acc().operand(0).operand(1).mul().add().code,
        init=rng.randint(-1_000, 1_000),
        name="dense",
    )
    scale = Expression().operand(0).i2f().float(0.00005).fmul().f2i().integer(128).add().clamp(0, 255)
    kernels = [spread, sums, elementwise(Source.KERNEL, 1, INT32, dense, scale, UINT8)]
    kernels.append(
        elementwise(Source.KERNEL, 2, UINT8, dense, Expression().operand(0).i2f().float(0.7).fadd(), FLOAT)
    )
    kernels.append(
        elementwise(Source.KERNEL, 3, FLOAT, dense, Expression().operand(0).float(3.0).fmul().f2i(), INT32)
    )
    for rung in range(rungs):
        step = Expression().operand(0).integer(rng.randint(2, 9)).mul().integer(rung).add()
        kernels.append(elementwise(Source.KERNEL, len(kernels) - 1, INT32, dense, step, INT32))
    last = len(kernels) - 1
    return Program(
        batched,
        (Signature(UINT8, (inputs,), name="x"),),
        (Signature(INT32, (dense,), last, name="y"), Signature(UINT8, (dense,), 2, name="q")),
        tuple(kernels),
        dict((weights, table)),
    )


def single(rng: random.Random) -> Program:
    """One kernel of one chunk and one step: the shortest game."""
    expression = Expression().operand(0).integer(rng.randint(1, 9)).add()
    kernel = elementwise(Source.INPUT, 0, UINT8, 6, expression, INT32)
    return Program(False, (Signature(UINT8, (6,)),), (Signature(INT32, (2, 3), 0),), (kernel,))


def arrays(program: Program, inputs: Sequence[bytes], rows: int = 1) -> list[Any]:
    """Inputs as the evaluator takes them."""
    lead = (rows,) if program.batched else ()
    return [
        np.frombuffer(data, ONNX_TO_NUMPY[one.dtype]).reshape(*lead, *one.dims)
        for data, one in zip(inputs, program.inputs, strict=True)
    ]


def random_input(rng: random.Random, program: Program, rows: int = 1) -> list[bytes]:
    return [rng.randbytes(rows * one.elements * element_width(one.dtype)) for one in program.inputs]
