"""Vectors of the exact profile for `vectors.py`: instructions, a program's trace, openings of its steps."""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import Any

import numpy as np
from assay.commitments import tensors
from assay.exact.assembler import Expression
from assay.exact.instructions import parse, pops
from assay.exact.opcodes import Op
from assay.exact.program import Affine, Bound, Kernel, Operand, Program, Signature, Source
from assay.exact.step import run_expression
from assay.exact.trace import Trace, run_trace
from numpy.typing import NDArray

BIG = 1 << 255
INTEGERS = (0, 1, -1, 2, -7, 300, 1 << 63, BIG - 1, -BIG)
FLOATS = (
    *(0x00000000, 0x80000000, 0x00000001, 0x807FFFFF, 0x00800000, 0x3F800000, 0x3F800001, 0xBFC00000),
    *(0x40200000, 0x4B000001, 0x7F7FFFFF, 0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001),
)
STEPS = ((0, 0, 0), (0, 9, 8), (0, 17, 4), (1, 0, 0), (2, 3, 0), (3, 7, 0), (3, 3, 1))
"""(kernel, element over all rows, step)."""


def hexed(value: bytes) -> str:
    return "0x" + value.hex()


def instruction_vectors() -> dict[str, Any]:
    """Each instruction on operands that tell right from nearly right."""
    cases = []
    for op in Op:
        if op > Op.DUP:
            cases += [instruction_case(op, dtype) for dtype in ((2, 3, 7, 13) if op is Op.WRAP else (None,))]
    return {"instructions": cases}


def instruction_case(op: Op, dtype: int | None) -> dict[str, Any]:
    count = pops(op)
    push = b"".join(bytes((Op.OPERAND, number)) for number in range(count))
    code = push + bytes((op,)) + (b"" if dtype is None else bytes((dtype,)))
    values = FLOATS if op >= Op.FADD and op is not Op.I2F else INTEGERS
    choices = [(0, 5, 6), (-9, 5, 6)] if op is Op.SELECT else product(values, repeat=count)
    cases = [" ".join(map(str, (*one, run_expression(parse(code), 0, one, ())))) for one in choices]
    return {"instruction": op.name, "expression": hexed(code), "cases": cases}


@cache
def example() -> Trace:
    """Two rows through a padded convolution, its requantisation, a table look-up and a running float sum."""
    rng = np.random.default_rng(10)
    weights = rng.integers(-64, 63, (2, 3, 3), dtype=np.int8)
    scales, table = np.array([0.01, 0.03], np.float32), rng.integers(-128, 127, 256, dtype=np.int8)
    constants: dict[bytes, NDArray[Any]] = {
        bytes(tensors.tensor_root(one.tobytes())): one for one in (weights, scales, table)
    }
    at_weights, at_scales, at_table = constants
    rows, columns = (Affine(-1, ((axis, 1), (axis + 2, 1))) for axis in (1, 2))
    window = Affine(-4, ((1, 3), (2, 1), (3, 3), (4, 1)))
    image = Operand(Source.INPUT, 2, 9, window, pad=5, bounds=(Bound(rows, 3), Bound(columns, 3)))
    taps = Operand(Source.CONSTANT, 3, 18, Affine(0, ((0, 9), (3, 3), (4, 1))), root=at_weights)
    whole = Affine(0, ((0, 9), (1, 1)))
    acc = Expression().acc().operand(0).integer(5).sub().operand(1).mul().add()
    scaled = Expression().operand(0).i2f().operand(1).fmul().f2i().integer(-128).max().integer(127).min()
    kernels = (
        Kernel(6, (2, 3, 3), (3, 3), (image, taps), acc.code, init=-40),
        Kernel(
            3,
            (2, 9),
            (),
            (
                Operand(Source.KERNEL, 6, 18, whole, index=0),
                Operand(Source.CONSTANT, 1, 2, Affine(0, ((0, 1),)), root=at_scales),
            ),
            scaled.code,
        ),
        Kernel(
            3,
            (18,),
            (),
            (
                Operand(Source.KERNEL, 3, 18, Affine(17, ((0, -1),)), index=1),
                Operand(Source.CONSTANT, 3, 256, Affine(100), root=at_table, pad=-9, indirect=(0, 2)),
            ),
            Expression().operand(1).var(0).add().code,
        ),
        Kernel(
            1,
            (9,),
            (2,),
            (Operand(Source.KERNEL, 3, 18, Affine(0, ((0, 1), (1, 9))), index=2),),
            Expression().acc().operand(0).i2f().fadd().code,
            init=0x3F000000,
        ),
    )
    outputs = (Signature(1, (9,), 3), Signature(3, (2, 9), 2))
    program = Program(True, (Signature(2, (3, 3)),), outputs, kernels, constants)
    return run_trace(program, [rng.integers(0, 256, (2, 3, 3), dtype=np.uint8)])


def array_json(array: Any) -> dict[str, Any]:
    return {
        "dtype": tensors.onnx_dtype(array.dtype),
        "dims": list(array.shape),
        "data": hexed(bytes(tensors.array_bytes(array))),
    }


def trace_vectors() -> dict[str, Any]:
    trace = example()
    program = trace.program
    return {
        "traces": [
            {
                "program_root": hexed(program.root),
                "records": [hexed(record) for record in program.records],
                "constants": {hexed(root): array_json(one) for root, one in program.constants.items()},
                "rows": trace.rows,
                "inputs": [array_json(one) for one in trace.inputs],
                "input_roots": [hexed(root) for root in trace.input_roots],
                "input_hash": hexed(tensors.commit_tensors(trace.inputs)),
                "tensors": [hexed(trace.tensor(kernel)) for kernel in range(len(program.kernels))],
                "tensor_roots": [hexed(root) for root in trace.roots],
                "trace_root": hexed(trace.root),
                "outputs": [array_json(one) for one in trace.outputs],
                "output_hash": hexed(tensors.commit_tensors(trace.outputs)),
            }
        ]
    }


def opening_vectors() -> dict[str, Any]:
    return {"steps": [opening_case(*step) for step in STEPS]}


def opening_case(kernel: int, element: int, step: int) -> dict[str, Any]:
    trace = example()
    before, after = trace.accumulators(kernel, element, [step, step + 1])
    return {
        "kernel": kernel,
        "element": element,
        "step": step,
        "before": str(before),
        "after": str(after),
        "openings": [
            {
                "root": hexed(one.root),
                "trace_siblings": [hexed(sibling) for sibling in one.trace_siblings],
                "chunk": hexed(one.chunk),
                "siblings": [hexed(sibling) for sibling in one.siblings],
            }
            for one in trace.openings(kernel, element, step)
        ],
    }
