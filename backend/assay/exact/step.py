"""One step of one element of one kernel in Python integers, as StepVerifier.vy computes it (SPEC.md §10)."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Final

from assay.exact import float32
from assay.exact.errors import RecordError
from assay.exact.instructions import Instruction, parse, wrap
from assay.exact.opcodes import Op
from assay.exact.program import Affine, Kernel, Operand, Source

Read = Callable[[int, int], int]
"""(operand number, element) → value. The element counts over all rows of an input or kernel."""

_HALF: Final = 1 << 255
_WORD: Final = 1 << 256


def _signed(value: int) -> int:
    """Modulo 2^256, as two's complement."""
    return (value + _HALF) % _WORD - _HALF


def _div(a: int, b: int) -> int:
    if not b:
        return 0
    return _signed(-(abs(a) // abs(b)) if (a < 0) != (b < 0) else abs(a) // abs(b))


def _mod(a: int, b: int) -> int:
    if not b:
        return 0
    return -(abs(a) % abs(b)) if a < 0 else abs(a) % abs(b)


def _shl(a: int, b: int) -> int:
    return _signed(a << b) if 0 <= b <= 255 else 0


def _shr(a: int, b: int) -> int:
    return a >> b if 0 <= b <= 255 else -(a < 0)


def _float(function: Callable[[int, int], int]) -> Callable[[int, int], int]:
    """Of an integer that is no pattern, a float instruction takes the low 32 bits."""
    return lambda a, b: function(a & float32.MASK, b & float32.MASK)


BINARY: Final[dict[Op, Callable[[int, int], int]]] = {
    Op.ADD: lambda a, b: _signed(a + b),
    Op.SUB: lambda a, b: _signed(a - b),
    Op.MUL: lambda a, b: _signed(a * b),
    Op.DIV: _div,
    Op.MOD: _mod,
    Op.MIN: min,
    Op.MAX: max,
    Op.AND: operator.and_,
    Op.OR: operator.or_,
    Op.XOR: operator.xor,
    Op.SHL: _shl,
    Op.SHR: _shr,
    Op.EQ: lambda a, b: int(a == b),
    Op.LT: lambda a, b: int(a < b),
    Op.LE: lambda a, b: int(a <= b),
    Op.FADD: _float(float32.fadd),
    Op.FSUB: _float(float32.fsub),
    Op.FMUL: _float(float32.fmul),
    Op.FDIV: _float(float32.fdiv),
    Op.FMIN: _float(float32.fmin),
    Op.FMAX: _float(float32.fmax),
    Op.FEQ: _float(float32.feq),
    Op.FLT: _float(float32.flt),
    Op.FLE: _float(float32.fle),
}


def loop_variables(kernel: Kernel, element: int, step: int) -> tuple[int, ...]:
    """The output axes' and the reduction axes' indices of an element of the row and a step, both row-major.

    Raises IndexError outside the kernel.
    """
    if not (0 <= element < kernel.elements and 0 <= step < kernel.steps):
        raise IndexError(
            f"element {element}, step {step}: kernel {kernel.name!r} has {kernel.elements} elements a row"
            f" and {kernel.steps} steps"
        )
    return (*_unravel(element, kernel.domain), *_unravel(step, kernel.reduction))


def _unravel(flat: int, extents: Sequence[int]) -> tuple[int, ...]:
    indices = []
    for extent in reversed(extents):
        flat, index = divmod(flat, extent)
        indices.append(index)
    return tuple(reversed(indices))


def _at(form: Affine, variables: Sequence[int]) -> int:
    return form.base + sum(coefficient * variables[variable] for variable, coefficient in form.terms)


def _row_element(operand: Operand, variables: Sequence[int], values: Sequence[int]) -> int | None:
    """Which element of the row the operand reads; None: its pad value."""
    if any(not 0 <= _at(bound.form, variables) < bound.extent for bound in operand.bounds):
        return None
    element = _at(operand.flat, variables)
    if operand.indirect:
        earlier, coefficient = operand.indirect
        element += coefficient * values[earlier]
    return element if 0 <= element < operand.elements else None


def _resolve(
    kernel: Kernel, row: int, variables: Sequence[int], read: Read
) -> tuple[list[int | None], list[int]]:
    """Of each operand the element that it reads, over all rows, and its value."""
    elements: list[int | None] = []
    values: list[int] = []
    for number, operand in enumerate(kernel.operands):
        element = _row_element(operand, variables, values)
        if element is not None and operand.source is not Source.CONSTANT:
            element += row * operand.elements
        elements.append(element)
        values.append(operand.pad if element is None else read(number, element))
    return elements, values


def operand_elements(kernel: Kernel, row: int, element: int, step: int, read: Read) -> list[int | None]:
    """Which element each operand reads at a step of an element of the row; None: its pad value.

    Elements of inputs and kernels count over all rows. `read` is asked because an operand's place may
    depend on another's value.
    """
    return _resolve(kernel, row, loop_variables(kernel, element, step), read)[0]


def run_step(  # noqa: PLR0917 - SPEC.md's order
    kernel: Kernel, row: int, element: int, step: int, before: int, read: Read
) -> int:
    """The accumulator after the step from the one before it; `element` counts within the row.

    Raises IndexError outside the kernel, RecordError if its expression cannot run.
    """
    variables = loop_variables(kernel, element, step)
    _, values = _resolve(kernel, row, variables, read)
    return wrap(run_expression(parse(kernel.expression), before, values, variables), kernel.dtype)


def run_expression(
    instructions: Sequence[Instruction], acc: int, operands: Sequence[int], variables: Sequence[int]
) -> int:
    """The last value of the stack. Raises RecordError on an operand or variable that is not there."""
    stack: list[int] = []
    for op, value in instructions:
        if op in BINARY:
            b = stack.pop()
            stack.append(BINARY[op](stack.pop(), b))
        elif op is Op.SELECT:
            b, a, condition = stack.pop(), stack.pop(), stack.pop()
            stack.append(a if condition else b)
        elif op <= Op.DUP:
            stack.append(_push(Instruction(op, value), acc, operands, variables, stack))
        else:
            stack.append(_unary(op, value, stack.pop()))
    return stack[-1]


def _push(
    instruction: Instruction,
    acc: int,
    operands: Sequence[int],
    variables: Sequence[int],
    stack: Sequence[int],
) -> int:
    op, value = instruction
    if op is Op.ACC:
        return acc
    if op is Op.DUP:
        return stack[-1 - value]
    if op in (Op.OPERAND, Op.VAR):
        values = operands if op is Op.OPERAND else variables
        if value >= len(values):
            raise RecordError(f"{op.name} {value}: the kernel has {len(values)}")
        return values[value]
    return value


def _unary(op: Op, dtype: int, a: int) -> int:
    if op is Op.WRAP:
        return wrap(a, dtype)
    if op is Op.I2F:
        return float32.i2f(a)
    return (float32.f2i if op is Op.F2I else float32.trunc)(a & float32.MASK)
