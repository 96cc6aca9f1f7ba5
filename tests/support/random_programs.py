"""Random programs of small kernels, with everything that a record can say, and the bytes of their inputs."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import product
from math import prod
from typing import Any

import numpy as np
from assay.commitments.tensors import tensor_root
from assay.exact.assembler import Expression
from assay.exact.instructions import WIDTHS, pops
from assay.exact.opcodes import IMMEDIATE_BYTES, MAX_STACK, Op
from assay.exact.program import Affine, Bound, Kernel, Operand, Program, Signature, Source
from numpy.typing import NDArray

DTYPES = sorted(WIDTHS)
Constants = dict[bytes, NDArray[Any]]


MIXING = (Op.ADD, Op.SUB, Op.XOR, Op.FADD)


def random_expression(rng: random.Random, operands: int, variables: int, length: int = 8) -> bytes:
    """Runs through on any values: all operands, some instructions, then what is left mixed into one value."""
    expression = Expression().acc()
    for number in range(operands):
        expression = expression.operand(number)
    depth = 1 + operands
    for _ in range(rng.randrange(length)):
        possible = [
            op
            for op in Op
            if pops(op) <= depth < MAX_STACK - 2
            and (op is not Op.OPERAND or operands)
            and (op is not Op.VAR or variables)
        ]
        op = rng.choice(possible)
        if pops(op) == 2:
            expression, depth = expression.dup(1).dup(1), depth + 2
        expression = expression.op(op, _immediate(rng, op, operands, variables, depth))
        depth += 1 - pops(op)
    for _ in range(depth - 1):
        expression = expression.op(rng.choice(MIXING))
    return expression.code


def _immediate(rng: random.Random, op: Op, operands: int, variables: int, depth: int) -> int:
    if op not in IMMEDIATE_BYTES:
        return 0
    if op is Op.LONG:
        return rng.getrandbits(64) - (1 << 63) >> rng.randrange(64)
    if op is Op.WORD:
        return rng.choice((0x3F800000, 0x3C23D70A, 0x7FC00000, rng.getrandbits(32), rng.randrange(20)))
    if op is Op.WRAP:
        return rng.choice(DTYPES)
    return rng.randrange({Op.OPERAND: operands, Op.VAR: variables, Op.DUP: depth}[op])


def _spread(form: list[tuple[int, int]], extents: Sequence[int]) -> tuple[int, int]:
    """The least and greatest value of Σ coefficient · variable."""
    low = sum(min(0, coefficient * (extents[variable] - 1)) for variable, coefficient in form)
    high = sum(max(0, coefficient * (extents[variable] - 1)) for variable, coefficient in form)
    return low, high


def _form(rng: random.Random, extents: Sequence[int]) -> tuple[Affine, int]:
    """A form and an extent that it stays within, but for a step or two now and then."""
    variables = sorted(rng.sample(range(len(extents)), rng.randint(0, len(extents))))
    terms = [(variable, rng.choice((1, 1, 1, 2, 3, -1, -2, 5))) for variable in variables]
    low, high = _spread(terms, extents)
    slack = rng.choice((0, 0, 0, 1, 2))
    return Affine(-low - slack, tuple(terms)), max(1, high - low + 1 - rng.choice((0, 0, slack)))


def _place(rng: random.Random, extents: Sequence[int], elements: int) -> Affine:
    """A form that mostly stays within a tensor of `elements`."""
    for _ in range(8):
        form, span = _form(rng, extents)
        if span <= elements:
            break
    return form


def _operand(
    rng: random.Random,
    extents: Sequence[int],
    earlier: Sequence[Kernel],
    inputs: Sequence[Signature],
    place: int,
) -> tuple[Operand, Constants]:
    bounds = []
    for _ in range(rng.choice((0, 0, 0, 1, 2, 4))):
        form, extent = _form(rng, extents)
        bounds.append(Bound(form, extent))
    pad = rng.choice((0, 7, -1, rng.getrandbits(64) - (1 << 63)))
    indirect = (rng.randrange(place), rng.choice((1, -1, 3))) if place and rng.random() < 0.3 else None
    source = rng.choice(
        [Source.CONSTANT, *[Source.INPUT] * bool(inputs), *[Source.KERNEL] * 2 * bool(earlier)]
    )
    if source is Source.CONSTANT:
        dtype = rng.choice(DTYPES)
        flat, span = _form(rng, extents)
        count = rng.choice((span, span, span + 1_500 // WIDTHS[dtype][0]))
        values = np.frombuffer(rng.randbytes(count * WIDTHS[dtype][0]), "u1")
        root = tensor_root(values.tobytes())
        return Operand(source, dtype, count, flat, 0, root, pad, tuple(bounds), indirect), {root: values}
    tensors: Sequence[Kernel | Signature] = inputs if source is Source.INPUT else earlier
    index = rng.randrange(len(tensors))
    named = tensors[index]
    flat = _place(rng, extents, named.elements)
    return Operand(source, named.dtype, named.elements, flat, index, b"", pad, tuple(bounds), indirect), {}


def random_kernel(
    rng: random.Random, earlier: Sequence[Kernel], inputs: Sequence[Signature]
) -> tuple[Kernel, Constants]:
    domain = tuple(rng.randint(1, 4) for _ in range(rng.randint(0, 3)))
    reduction = tuple(rng.randint(1, 3) for _ in range(rng.choice((0, 0, 1, 2))))
    extents, constants, operands = domain + reduction, Constants(), []
    for place in range(rng.randint(0, 4)):
        operand, values = _operand(rng, extents, earlier, inputs, place)
        operands.append(operand)
        constants |= values
    dtype = rng.choice(DTYPES)
    expression = random_expression(rng, len(operands), len(extents))
    init = rng.choice((0, 1, -(1 << 63), 0xFF800000))
    return Kernel(dtype, domain, reduction, tuple(operands), expression, init), constants


def random_program(rng: random.Random, kernels: int = 4) -> Program:
    """Kernels that read inputs, constants and each other; the last one's tensor is the output."""
    inputs = tuple(
        Signature(rng.choice(DTYPES), tuple(rng.randint(1, 5) for _ in range(rng.randint(0, 3))))
        for _ in range(rng.randint(0, 3))
    )
    made: list[Kernel] = []
    constants = Constants()
    for _ in range(kernels):
        kernel, values = random_kernel(rng, made, inputs)
        made.append(kernel)
        constants |= values
    output = Signature(made[-1].dtype, made[-1].domain, kernels - 1)
    assert prod(output.dims) == made[-1].elements
    return Program(rng.random() < 0.5, inputs, (output,), tuple(made), constants)


def special_inputs(rng: random.Random, program: Program, rows: int) -> list[bytes]:
    """Random bytes with extreme elements among them."""
    found = []
    for one in program.inputs:
        width = WIDTHS[one.dtype][0]
        extremes = [
            bytes(width),
            b"\xff" * width,
            b"\xff" * (width - 1) + b"\x7f",
            bytes(width - 1) + b"\x80",
        ]
        elements = [rng.choice([*extremes, *[rng.randbytes(width)] * 4]) for _ in range(rows * one.elements)]
        found.append(b"".join(elements))
    return found


def places(program: Program, rows: int) -> list[tuple[int, int, int]]:
    """(kernel, element, step) of every step."""
    return [
        (number, element, step)
        for number, kernel in enumerate(program.kernels)
        for element, step in product(range(rows * kernel.elements), range(kernel.steps))
    ]
