"""The instruction set of a kernel's expression (SPEC.md §10): one byte each, some with an immediate."""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class Op(IntEnum):
    """Stack machine over int256; a float32 is its bit pattern. Binary: pops b, then a; pushes a ∘ b."""

    ACC = 0x00
    """Push the accumulator."""
    OPERAND = 0x01
    """u8 k: push the value of operand k."""
    VAR = 0x02
    """u8 j: push loop variable j (output axes first, then reduction axes)."""
    WORD = 0x03
    """u32: push it."""
    LONG = 0x04
    """i64: push it."""
    DUP = 0x05
    """u8 n: push a copy of the n-th value from the top, 0 = the top."""

    ADD = 0x10
    SUB = 0x11
    MUL = 0x12
    """ADD, SUB, MUL are modulo 2^256 in two's complement."""
    DIV = 0x13
    """Toward zero; by zero: 0."""
    MOD = 0x14
    """Remainder of DIV, sign of the dividend; by zero: 0."""
    MIN = 0x15
    MAX = 0x16
    AND = 0x17
    OR = 0x18
    XOR = 0x19
    SHL = 0x1A
    """a · 2^b modulo 2^256; b outside 0…255: 0."""
    SHR = 0x1B
    """Arithmetic: floor(a / 2^b); b outside 0…255: 0 for a ≥ 0, else −1."""
    EQ = 0x1C
    LT = 0x1D
    LE = 0x1E
    """Comparisons push 1 or 0."""
    SELECT = 0x1F
    """Pops b, a, c: pushes a if c ≠ 0, else b."""
    WRAP = 0x20
    """u8 dtype: reduce to the dtype's width in two's complement, read back with its sign."""

    FADD = 0x30
    FSUB = 0x31
    FMUL = 0x32
    FDIV = 0x33
    """IEEE 754 binary32, round to nearest, ties to even, subnormals kept; every NaN result is 0x7fc00000."""
    FMIN = 0x34
    """a if a < b else b; NaN if either is."""
    FMAX = 0x35
    """a if a > b else b; NaN if either is."""
    FEQ = 0x36
    FLT = 0x37
    FLE = 0x38
    """IEEE comparisons: −0 = +0, false with NaN; push 1 or 0."""
    I2F = 0x39
    """Integer to nearest float32, ties to even; beyond the finite range: infinity of its sign."""
    F2I = 0x3A
    """Nearest integer, ties to even; NaN: 0; beyond: clamped to −2^63 … 2^63 − 1."""
    TRUNC = 0x3B
    """Integer toward zero; NaN and beyond as F2I."""


IMMEDIATE_BYTES: Final[dict[Op, int]] = {
    Op.OPERAND: 1,
    Op.VAR: 1,
    Op.WORD: 4,
    Op.LONG: 8,
    Op.DUP: 1,
    Op.WRAP: 1,
}
"""Bytes that follow the opcode; all others have none."""

MAX_EXPRESSION_BYTES: Final = 255
MAX_INSTRUCTIONS: Final = 64
MAX_STACK: Final = 16
FLOAT_NAN: Final = 0x7FC00000
