"""Expressions: what the assembler writes, the parser reads; what cannot run is refused with its place."""

from __future__ import annotations

import pytest
from assay.exact.assembler import Expression
from assay.exact.errors import RecordError
from assay.exact.instructions import Instruction, parse, range_of, wrap
from assay.exact.opcodes import IMMEDIATE_BYTES, Op


def test_code__multiply_add__is_the_bytes_of_the_specification() -> None:
    assert Expression().operand(0).operand(1).mul().acc().add().code.hex() == "01000101120010"


def test_parse__assembled__gives_the_instructions() -> None:
    code = Expression().integer(-1).integer(7).clamp(0, 255).var(2).select().wrap(3).code
    assert parse(code) == (
        Instruction(Op.LONG, -1),
        Instruction(Op.WORD, 7),
        Instruction(Op.WORD, 0),
        Instruction(Op.MAX),
        Instruction(Op.WORD, 255),
        Instruction(Op.MIN),
        Instruction(Op.VAR, 2),
        Instruction(Op.SELECT),
        Instruction(Op.WRAP, 3),
    )


def test_op__every_instruction__is_read_back() -> None:
    for op in Op:
        expression = Expression().acc().acc().acc().op(op, 2 if op in IMMEDIATE_BYTES else 0)
        assert parse(expression.code)[-1].op is op


@pytest.mark.parametrize("method", [op.name.lower() for op in Op if op >= Op.ADD and op is not Op.WRAP])
def test_methods__each_instruction__has_its_byte(method: str) -> None:
    spelled = method + "_" if method in {"and", "or"} else method
    assert getattr(Expression(), spelled)().body == bytes((Op[method.upper()],))


def test_float__nearest__is_pushed_as_pattern() -> None:
    assert parse(Expression().float(0.1).code) == (Instruction(Op.WORD, 0x3DCCCCCD),)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("", "at least one value"),
        ("ff", "no instruction"),
        ("0300", "lacks its immediate"),
        ("0010", "needs 2 values, the stack has 1"),
        ("000501", "needs 2 values"),
        ("002008", "WRAP to dtype 8"),
        ("00" * 17, "at most 16 values"),
        ("00" + "0010" * 32, "at most 64 instructions"),
        ("00" * 256, "at most 255 bytes"),
    ],
)
def test_parse__cannot_run__is_refused(code: str, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        parse(bytes.fromhex(code))


def test_integer__beyond_int64__is_refused() -> None:
    with pytest.raises(OverflowError):
        Expression().integer(1 << 63)


@pytest.mark.parametrize(
    ("value", "dtype", "expected"),
    [(255, 3, -1), (128, 3, -128), (-1, 2, 255), (256, 2, 0), (1 << 63, 7, -(1 << 63)), (-1, 1, 0xFFFFFFFF)],
)
def test_wrap__twos_complement__reads_back_with_sign(value: int, dtype: int, expected: int) -> None:
    assert wrap(value, dtype) == expected


def test_range_of__signed_and_unsigned__is_their_extremes() -> None:
    assert (range_of(3), range_of(9), range_of(1)) == ((-128, 127), (0, 255), (0, (1 << 32) - 1))
