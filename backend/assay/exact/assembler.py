"""Expressions spelled as calls: `Expression().operand(0).operand(1).mul().acc().add().code`."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from assay.exact.instructions import parse
from assay.exact.opcodes import IMMEDIATE_BYTES, Op


@dataclass(frozen=True)
class Expression:
    """A growing expression; every call answers a longer one and leaves this one as it is."""

    body: bytes = b""

    @property
    def code(self) -> bytes:
        """The bytes of a kernel's `expression`. Raises RecordError if no step could run them."""
        parse(self.body)
        return self.body

    def then(self, other: Expression) -> Expression:
        return Expression(self.body + other.body)

    def op(self, op: Op, value: int = 0) -> Expression:
        """Any instruction. Raises OverflowError if the immediate does not fit."""
        width = IMMEDIATE_BYTES.get(op, 0)
        return Expression(self.body + bytes((op,)) + value.to_bytes(width, "big", signed=op is Op.LONG))

    def acc(self) -> Expression:
        return self.op(Op.ACC)

    def operand(self, number: int) -> Expression:
        return self.op(Op.OPERAND, number)

    def var(self, number: int) -> Expression:
        return self.op(Op.VAR, number)

    def integer(self, value: int) -> Expression:
        """The shortest push of an integer of int64's range."""
        return self.op(Op.WORD if 0 <= value < 1 << 32 else Op.LONG, value)

    def float(self, value: float) -> Expression:
        """The bit pattern of the float32 nearest to `value`. Raises OverflowError beyond its range."""
        return self.op(Op.WORD, int.from_bytes(struct.pack(">f", value), "big"))

    def dup(self, depth: int = 0) -> Expression:
        return self.op(Op.DUP, depth)

    def wrap(self, dtype: int) -> Expression:
        return self.op(Op.WRAP, dtype)

    def clamp(self, low: int, high: int) -> Expression:
        """min(max(top, low), high)."""
        return self.integer(low).max().integer(high).min()

    def add(self) -> Expression:
        return self.op(Op.ADD)

    def sub(self) -> Expression:
        return self.op(Op.SUB)

    def mul(self) -> Expression:
        return self.op(Op.MUL)

    def div(self) -> Expression:
        return self.op(Op.DIV)

    def mod(self) -> Expression:
        return self.op(Op.MOD)

    def min(self) -> Expression:
        return self.op(Op.MIN)

    def max(self) -> Expression:
        return self.op(Op.MAX)

    def and_(self) -> Expression:
        return self.op(Op.AND)

    def or_(self) -> Expression:
        return self.op(Op.OR)

    def xor(self) -> Expression:
        return self.op(Op.XOR)

    def shl(self) -> Expression:
        return self.op(Op.SHL)

    def shr(self) -> Expression:
        return self.op(Op.SHR)

    def eq(self) -> Expression:
        return self.op(Op.EQ)

    def lt(self) -> Expression:
        return self.op(Op.LT)

    def le(self) -> Expression:
        return self.op(Op.LE)

    def select(self) -> Expression:
        """Takes b, a, c off the stack: a if c ≠ 0, else b; so push c, then a, then b."""
        return self.op(Op.SELECT)

    def fadd(self) -> Expression:
        return self.op(Op.FADD)

    def fsub(self) -> Expression:
        return self.op(Op.FSUB)

    def fmul(self) -> Expression:
        return self.op(Op.FMUL)

    def fdiv(self) -> Expression:
        return self.op(Op.FDIV)

    def fmin(self) -> Expression:
        return self.op(Op.FMIN)

    def fmax(self) -> Expression:
        return self.op(Op.FMAX)

    def feq(self) -> Expression:
        return self.op(Op.FEQ)

    def flt(self) -> Expression:
        return self.op(Op.FLT)

    def fle(self) -> Expression:
        return self.op(Op.FLE)

    def i2f(self) -> Expression:
        return self.op(Op.I2F)

    def f2i(self) -> Expression:
        return self.op(Op.F2I)

    def trunc(self) -> Expression:
        return self.op(Op.TRUNC)
