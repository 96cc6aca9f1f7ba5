"""Random programs of one or two kernels, as wild as records can be, and what each step of them computes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from assay.commitments.tensors import ONNX_TO_NUMPY, array_bytes, tensor_root
from assay.exact.assembler import Expression
from assay.exact.instructions import WIDTHS, range_of
from assay.exact.opcodes import FLOAT_NAN, Op
from assay.exact.program import Affine, Bound, Kernel, Operand, Program, Signature, Source
from assay.exact.step import run_step
from hypothesis import strategies as st
from numpy.typing import NDArray

DTYPES = sorted(WIDTHS)
BINARY = [op for op in Op if Op.ADD <= op <= Op.LE or Op.FADD <= op <= Op.FLE]
UNARY = [Op.WRAP, Op.I2F, Op.F2I, Op.TRUNC]
NUMBERS = st.one_of(
    st.integers(-5, 5),
    st.integers(-300, 300),
    st.sampled_from(
        [0x3F000000, 0x3F800000, 0xBFC00000, 0x4B000000, 0x7F800000, FLOAT_NAN, 0x7FC00001, 1, 0x80000000]
    ),
    st.integers(-(1 << 63), (1 << 63) - 1),
)


@st.composite
def tensors(draw: st.DrawFn, dtype: int, elements: int) -> NDArray[Any]:
    """A flat array of the dtype: small values, or any bits, or floats as people use them."""
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    numpy_dtype = ONNX_TO_NUMPY[dtype]
    kind = draw(st.sampled_from(["small", "bits", "few"]))
    if dtype == 9:
        return rng.integers(0, 2, elements).astype(bool)
    if kind == "bits":
        return rng.integers(0, 256, elements * numpy_dtype.itemsize, dtype=np.uint8).view(numpy_dtype)
    if dtype == 1:
        values = rng.normal(0, 100, elements) if kind == "small" else rng.integers(-3, 4, elements) / 2
        return values.astype(np.float32)
    low, high = range_of(dtype)
    reach = 3 if kind == "few" else 100
    return rng.integers(max(low, -reach), min(high, reach), elements, endpoint=True).astype(numpy_dtype)


@st.composite
def expressions(draw: st.DrawFn, operands: int, variables: int) -> Expression:
    """Any expression that runs: pushes and instructions at random, never an empty stack."""
    expression, depth = Expression(), 0
    for _ in range(draw(st.integers(1, 12))):
        choice = draw(st.integers(0, 9))
        if depth >= 3 and choice == 9:
            expression, depth = expression.select(), depth - 2
        elif depth >= 2 and choice >= 4:
            expression, depth = expression.op(draw(st.sampled_from(BINARY))), depth - 1
        elif depth and choice == 3:
            op = draw(st.sampled_from(UNARY))
            expression = expression.op(op, draw(st.sampled_from(DTYPES)) if op is Op.WRAP else 0)
        elif depth < 8:
            expression, depth = draw(pushes(expression, operands, variables, depth)), depth + 1
    return expression if depth else expression.acc()


@st.composite
def pushes(draw: st.DrawFn, expression: Expression, operands: int, variables: int, depth: int) -> Expression:
    kinds = ["acc", "number"]
    kinds += ["operand"] * 3 * bool(operands) + ["var"] * bool(variables) + ["dup"] * bool(depth)
    kind = draw(st.sampled_from(kinds))
    if kind == "acc":
        return expression.acc()
    if kind == "number":
        return expression.integer(draw(NUMBERS))
    if kind == "operand":
        return expression.operand(draw(st.integers(0, operands - 1)))
    return (
        expression.var(draw(st.integers(0, variables - 1)))
        if kind == "var"
        else expression.dup(draw(st.integers(0, depth - 1)))
    )


@st.composite
def folds(draw: st.DrawFn, operands: int, variables: int) -> Expression:
    """Expressions of the shapes that have a faster way, and any others."""
    if not operands or draw(st.integers(0, 2)) == 0:
        return draw(expressions(operands, variables))
    factors = []
    for _ in range(2):
        factor = Expression().operand(draw(st.integers(0, operands - 1)))
        if draw(st.booleans()):
            factor = factor.integer(draw(NUMBERS)).op(draw(st.sampled_from([Op.ADD, Op.SUB, Op.AND])))
        factors.append(factor)
    product = factors[0].then(factors[1]).mul()
    term = draw(st.sampled_from([product, factors[0], product.then(factors[1]).sub()]))
    shape = draw(st.sampled_from(["acc first", "acc last", "minus", "min", "max", "wrap", "f"]))
    acc = Expression().acc()
    if shape == "acc first":
        return acc.then(term).add()
    if shape == "acc last":
        return term.acc().add()
    if shape == "minus":
        return acc.then(term).sub()
    if shape == "wrap":
        return acc.then(term).add().wrap(draw(st.sampled_from(DTYPES)))
    if shape == "f":
        return acc.then(factors[0]).op(draw(st.sampled_from([Op.FADD, Op.FMAX, Op.FMIN])))
    return acc.then(term).op(Op[shape.upper()])


@st.composite
def forms(draw: st.DrawFn, extents: Sequence[int], reach: int = 4) -> Affine:
    terms = []
    for variable in range(len(extents)):
        if draw(st.booleans()) and (coefficient := draw(st.integers(-reach, reach))):
            terms.append((variable, coefficient))
    return Affine(draw(st.integers(-3, 6)), tuple(terms))


@st.composite
def operands(
    draw: st.DrawFn, number: int, extents: Sequence[int], sources: Sequence[Operand]
) -> tuple[Operand, NDArray[Any] | None]:
    """One operand, and its array if it is a constant; `sources` are what else it may read."""
    bounds = tuple(
        Bound(draw(forms(extents, 2)), draw(st.integers(0, 6)))
        for _ in range(draw(st.sampled_from([0, 0, 1, 2])))
    )
    window = draw(st.booleans()) and bounds
    flat = draw(forms(extents))
    if window:
        flat = windowed(bounds, draw(st.integers(0, 3)))
    indirect = (draw(st.integers(0, number - 1)), draw(st.integers(-2, 2))) if number else None
    indirect = indirect if draw(st.integers(0, 3)) == 0 else None
    if sources and draw(st.booleans()):
        one = draw(st.sampled_from(list(sources)))
        dtype, elements, index, source, root, array = (
            one.dtype,
            one.elements,
            one.index,
            one.source,
            b"",
            None,
        )
    else:
        dtype, elements, index, source = (
            draw(st.sampled_from(DTYPES)),
            draw(st.integers(1, 40)),
            0,
            Source.CONSTANT,
        )
        array = draw(tensors(dtype, elements))
        root = tensor_root(array_bytes(array))
    low, high = range_of(dtype)
    pad = draw(st.integers(max(low, -(1 << 63)), min(high, (1 << 63) - 1)) | st.just(0) | st.integers(-9, 9))
    return Operand(source, dtype, elements, flat, index, root, pad, bounds, indirect), array


def windowed(bounds: Sequence[Bound], base: int) -> Affine:
    """The flat form of a row-major tensor whose axes are what the bounds are on, as convolutions have it."""
    total: dict[int, int] = {}
    step = 1
    for bound in reversed(bounds):
        base += step * bound.form.base
        for variable, coefficient in bound.form.terms:
            total[variable] = total.get(variable, 0) + step * coefficient
        step *= max(bound.extent, 1)
    return Affine(base, tuple(sorted((one, total[one]) for one in total if total[one])))


@st.composite
def kernels(draw: st.DrawFn, sources: Sequence[Operand], constants: dict[bytes, NDArray[Any]]) -> Kernel:
    extents = st.lists(st.integers(1, 4), max_size=3).map(tuple)
    domain, reduction = draw(extents), draw(extents)
    chosen = []
    for number in range(draw(st.integers(0, 3))):
        operand, array = draw(operands(number, (*domain, *reduction), sources))
        chosen.append(operand)
        if array is not None:
            constants[operand.root] = array
    expression = draw(folds(len(chosen), len(domain) + len(reduction)))
    init = draw(st.just(0) | NUMBERS)
    return Kernel(draw(st.sampled_from(DTYPES)), domain, reduction, tuple(chosen), expression.code, init)


@st.composite
def programs(draw: st.DrawFn) -> tuple[Program, list[NDArray[Any]]]:
    """A program and inputs for it: two inputs, two kernels of which the second may read the first."""
    batched = draw(st.booleans())
    rows = draw(st.integers(1, 3)) if batched else 1
    signatures = tuple(
        Signature(draw(st.sampled_from(DTYPES)), (draw(st.integers(1, 6)), draw(st.integers(1, 6))))
        for _ in range(2)
    )
    sources = [
        Operand(Source.INPUT, one.dtype, one.elements, Affine(), index=index)
        for index, one in enumerate(signatures)
    ]
    constants: dict[bytes, NDArray[Any]] = {}
    first = draw(kernels(sources, constants))
    sources.append(Operand(Source.KERNEL, first.dtype, first.elements, Affine(), index=0))
    second = draw(kernels(sources, constants))
    inputs = [
        draw(tensors(one.dtype, rows * one.elements)).reshape((rows, *one.dims) if batched else one.dims)
        for one in signatures
    ]
    outputs = (Signature(second.dtype, second.domain, 1), Signature(first.dtype, (first.elements,), 0))
    return Program(batched, signatures, outputs, (first, second), constants), inputs


def as_integers(array: NDArray[Any]) -> list[int]:
    """The elements as programs read them: floats as patterns, bools as bytes."""
    flat = np.ascontiguousarray(array).reshape(-1)
    if flat.dtype.kind == "f":
        flat = flat.view(np.uint32)
    return [int(one) for one in flat]


def _read(values: Sequence[Sequence[int]], operand: int, element: int) -> int:
    return values[operand][element]


def scalar_trace(program: Program, inputs: Sequence[NDArray[Any]], rows: int) -> list[list[list[int]]]:
    """By `step.py` alone: of each kernel and element over all rows the accumulators after 0, 1, … steps."""
    found: list[list[list[int]]] = []
    read_inputs = [as_integers(array) for array in inputs]
    for kernel in program.kernels:
        values = [
            as_integers(program.constants[operand.root])
            if operand.source is Source.CONSTANT
            else read_inputs[operand.index]
            if operand.source is Source.INPUT
            else [series[-1] for series in found[operand.index]]
            for operand in kernel.operands
        ]
        found.append([])
        for element in range(rows * kernel.elements):
            series = [kernel.init]
            row, inside = divmod(element, kernel.elements)
            for step in range(kernel.steps):
                read = partial(_read, values)
                series.append(run_step(kernel, row, inside, step, series[-1], read))
            found[-1].append(series)
    return found
