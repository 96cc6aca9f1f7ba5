"""A kernel's expression as instructions, and the dtypes that it works on (SPEC.md §10)."""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

from assay.exact.errors import RecordError
from assay.exact.opcodes import IMMEDIATE_BYTES, MAX_EXPRESSION_BYTES, MAX_INSTRUCTIONS, MAX_STACK, Op

FLOAT32: Final = 1
WIDTHS: Final[dict[int, tuple[int, bool]]] = {
    FLOAT32: (4, False),
    2: (1, False),
    3: (1, True),
    4: (2, False),
    5: (2, True),
    6: (4, True),
    7: (8, True),
    9: (1, False),
    12: (4, False),
    13: (8, False),
}
"""ONNX dtype → (bytes, whether signed); a float32 is its bit pattern, a bool one unsigned byte."""

_UNARY: Final = frozenset((Op.WRAP, Op.I2F, Op.F2I, Op.TRUNC))


class Instruction(NamedTuple):
    op: Op
    value: int = 0
    """The immediate, where the instruction has one."""


def pops(op: Op) -> int:
    """How many values the instruction takes off the stack; each puts one there."""
    if op <= Op.DUP:
        return 0
    return 1 if op in _UNARY else 3 if op is Op.SELECT else 2


@lru_cache(maxsize=4096)
def parse(code: bytes) -> tuple[Instruction, ...]:
    """The instructions of an expression that runs through on any operands.

    Raises RecordError: unknown instruction or dtype, cut immediate, empty or full stack, too long, no value.
    """
    if len(code) > MAX_EXPRESSION_BYTES:
        raise RecordError(f"an expression has at most {MAX_EXPRESSION_BYTES} bytes, not {len(code)}")
    found, at = [], 0
    while at < len(code):
        instruction, at = _read(code, at)
        found.append(instruction)
    if len(found) > MAX_INSTRUCTIONS:
        raise RecordError(f"an expression has at most {MAX_INSTRUCTIONS} instructions, not {len(found)}")
    _check_stack(found)
    return tuple(found)


def _read(code: bytes, at: int) -> tuple[Instruction, int]:
    try:
        op = Op(code[at])
    except ValueError:
        raise RecordError(f"expression byte {at}: {code[at]:#04x} is no instruction") from None
    end = at + 1 + IMMEDIATE_BYTES.get(op, 0)
    if end > len(code):
        raise RecordError(f"expression byte {at}: {op.name} lacks its immediate")
    value = int.from_bytes(code[at + 1 : end], "big", signed=op is Op.LONG)
    if op is Op.WRAP and value not in WIDTHS:
        raise RecordError(f"expression byte {at}: WRAP to dtype {value}, which programs do not have")
    return Instruction(op, value), end


def _check_stack(instructions: list[Instruction]) -> None:
    depth = 0
    for number, (op, value) in enumerate(instructions):
        needed = value + 1 if op is Op.DUP else pops(op)
        if depth < needed:
            raise RecordError(f"instruction {number}: {op.name} needs {needed} values, the stack has {depth}")
        depth += 1 - pops(op)
        if depth > MAX_STACK:
            raise RecordError(f"instruction {number}: the stack holds at most {MAX_STACK} values")
    if not depth:
        raise RecordError("an expression leaves at least one value")


def wrap(value: int, dtype: int) -> int:
    """Reduced to the dtype's width in two's complement and read back with its sign."""
    width, signed = WIDTHS[dtype]
    value &= (1 << 8 * width) - 1
    return value - (1 << 8 * width) if signed and value >> (8 * width - 1) else value


def range_of(dtype: int) -> tuple[int, int]:
    """The least and greatest value that an element of the dtype is read as."""
    width, signed = WIDTHS[dtype]
    bits = 8 * width
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
