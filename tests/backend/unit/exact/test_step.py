"""The scalar interpreter: each instruction, where operands read, and folds."""

from __future__ import annotations

import pytest
from assay.exact.assembler import Expression
from assay.exact.errors import RecordError
from assay.exact.instructions import parse
from assay.exact.opcodes import Op
from assay.exact.program import Affine, Bound, Kernel, Operand, Source
from assay.exact.step import operand_elements, run_expression, run_step
from hypothesis import given
from hypothesis import strategies as st

INT256 = st.integers(-(1 << 255), (1 << 255) - 1) | st.integers(-300, 300)
BIG = 1 << 255


def run(op: Op, *values: int) -> int:
    code = b"".join(bytes((Op.OPERAND, number)) for number in range(len(values))) + bytes((op,))
    return run_expression(parse(code), 0, values, ())


@pytest.mark.parametrize(
    ("op", "values", "expected"),
    [
        (Op.ADD, (BIG - 1, 1), -BIG),
        (Op.SUB, (-BIG, 1), BIG - 1),
        (Op.MUL, (-BIG, -1), -BIG),
        (Op.DIV, (-7, 2), -3),
        (Op.DIV, (7, 0), 0),
        (Op.DIV, (-BIG, -1), -BIG),
        (Op.MOD, (-7, 2), -1),
        (Op.MOD, (7, -2), 1),
        (Op.MOD, (7, 0), 0),
        (Op.MIN, (3, -4), -4),
        (Op.MAX, (3, -4), 3),
        (Op.AND, (-1, 6), 6),
        (Op.OR, (-8, 3), -5),
        (Op.XOR, (-1, 1), -2),
        (Op.SHL, (1, 255), -BIG),
        (Op.SHL, (1, 256), 0),
        (Op.SHL, (1, -1), 0),
        (Op.SHR, (-5, 1), -3),
        (Op.SHR, (-5, 256), -1),
        (Op.SHR, (5, -1), 0),
        (Op.EQ, (2, 2), 1),
        (Op.LT, (-1, 0), 1),
        (Op.LE, (1, 0), 0),
        (Op.SELECT, (-9, 5, 6), 5),
        (Op.SELECT, (0, 5, 6), 6),
        (Op.FADD, (0x3F800000, 0x40000000), 0x40400000),
        (Op.FADD, (-1, 0), 0x7FC00000),
        (Op.FMUL, (0x3F800000 + (1 << 32), 0x40000000), 0x40000000),
        (Op.I2F, (-3,), 0xC0400000),
        (Op.F2I, (0x3FC00000,), 2),
        (Op.F2I, (0x40200000,), 2),
        (Op.TRUNC, (0xBFC00000,), -1),
    ],
)
def test_run_expression__instruction__is_as_specified(op: Op, values: tuple[int, ...], expected: int) -> None:
    assert run(op, *values) == expected


@given(INT256, INT256)
def test_div_and_mod__any__recompose(a: int, b: int) -> None:
    quotient, rest = run(Op.DIV, a, b), run(Op.MOD, a, b)
    if b and (a, b) != (-BIG, -1):
        assert quotient * b + rest == a
        assert abs(rest) < abs(b)


def test_run_expression__dup_and_acc__reach_below_the_top() -> None:
    code = Expression().acc().integer(5).dup(1).mul().add().code
    assert run_expression(parse(code), 3, (), ()) == 18


@pytest.mark.parametrize("code", [Expression().operand(1).code, Expression().var(2).code])
def test_run_expression__what_the_kernel_lacks__is_refused(code: bytes) -> None:
    with pytest.raises(RecordError, match="the kernel has"):
        run_expression(parse(code), 0, (1,), (1, 2))


def gather(indirect: tuple[int, int] | None = None) -> Kernel:
    """2 × 3 elements of 4 steps; operand 0 is an input, bounded below 4, operand 1 a constant."""
    place = Affine(0, ((1, 1), (2, 1)))
    return Kernel(
        dtype=3,
        domain=(2, 3),
        reduction=(4,),
        operands=(
            Operand(Source.INPUT, 2, 10, place, index=0, pad=-5, bounds=(Bound(place, 4),)),
            Operand(Source.CONSTANT, 7, 6, Affine(1, ((0, 3),)), pad=100, indirect=indirect),
        ),
        expression=Expression().operand(0).operand(1).mul().acc().add().code,
    )


def read(operand: int, element: int) -> int:
    return 1000 * operand + element


def test_operand_elements__rows__shift_inputs_and_not_constants() -> None:
    assert operand_elements(gather(), 2, 5, 1, read) == [23, 4]


def test_operand_elements__outside_a_bound__is_none_though_the_element_exists() -> None:
    assert operand_elements(gather(), 0, 5, 2, read) == [None, 4]


@pytest.mark.parametrize(("coefficient", "expected"), [(1, 3), (-1, None), (2, 5)])
def test_operand_elements__indirect__adds_the_earlier_value(coefficient: int, expected: int | None) -> None:
    assert operand_elements(gather((0, coefficient)), 0, 1, 1, read)[1] == expected


def test_run_step__pad_value__enters_the_expression_and_wraps() -> None:
    # -5 · 1004 + 7 modulo 256, signed
    assert run_step(gather(), 0, 5, 3, 7, read) == (-5013 + 128) % 256 - 128


@pytest.mark.parametrize(("element", "step"), [(6, 0), (0, 4), (-1, 0)])
def test_run_step__outside_the_kernel__is_refused(element: int, step: int) -> None:
    with pytest.raises(IndexError, match="6 elements a row and 4 steps"):
        run_step(gather(), 0, element, step, 0, read)
