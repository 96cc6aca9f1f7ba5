"""The integer instructions on arrays: int32 or int64 where the bounds prove it, else Python integers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from assay.exact.opcodes import Op
from assay.exact.step import BINARY
from assay.exact.vectorised.values import INT64_RANGE, Ints, by_element, common, measured_ints, refine

Pair = tuple[int, int]


def _corners(function: Callable[[int, int], int], a: Ints, b: Ints) -> Pair:
    found = [function(left, right) for left in (a.low, a.high) for right in (b.low, b.high)]
    return min(found), max(found)


def _bitwise(a: Ints, b: Ints) -> Pair:
    reach = max(value.bit_length() for value in (a.low, a.high, b.low, b.high))
    return (0 if min(a.low, b.low) >= 0 else -(1 << reach)), (1 << reach) - 1


def _and(a: Ints, b: Ints) -> Pair:
    unsigned = [value.high for value in (a, b) if value.low >= 0]
    return (0, min(unsigned)) if unsigned else _bitwise(a, b)


_BOUNDS: Final[dict[Op, Callable[[Ints, Ints], Pair]]] = {
    Op.ADD: lambda a, b: (a.low + b.low, a.high + b.high),
    Op.SUB: lambda a, b: (a.low - b.high, a.high - b.low),
    Op.MUL: lambda a, b: _corners(lambda left, right: left * right, a, b),
    Op.MIN: lambda a, b: (min(a.low, b.low), min(a.high, b.high)),
    Op.MAX: lambda a, b: (max(a.low, b.low), max(a.high, b.high)),
    Op.AND: _and,
    Op.OR: _bitwise,
    Op.XOR: _bitwise,
}
_UFUNCS: Final[dict[Op, Callable[..., Any]]] = {
    Op.ADD: np.add,
    Op.SUB: np.subtract,
    Op.MUL: np.multiply,
    Op.MIN: np.minimum,
    Op.MAX: np.maximum,
    Op.AND: np.bitwise_and,
    Op.OR: np.bitwise_or,
    Op.XOR: np.bitwise_xor,
}
_NEUTRAL: Final = frozenset((Op.ADD, Op.SUB, Op.OR, Op.XOR))
"""a ∘ 0 is a."""
_COMPARISONS: Final[dict[Op, Callable[..., Any]]] = {Op.EQ: np.equal, Op.LT: np.less, Op.LE: np.less_equal}


def _arithmetic(op: Op, a: Ints, b: Ints) -> Ints:
    if op in _NEUTRAL and not (b.low or b.high):
        return a
    bounds = _BOUNDS[op]
    for _ in range(2):
        result = Ints(a.array, *bounds(a, b))
        if dtype := common(a, b, result):
            return Ints(_UFUNCS[op](a.array, b.array, dtype=dtype, casting="unsafe"), result.low, result.high)
        a, b = refine(a), refine(b)
        if result.low < INT64_RANGE[0] or result.high > INT64_RANGE[1]:
            a, b = measured_ints(a.array), measured_ints(b.array)
    return by_element(BINARY[op], a.array, b.array)


def _compare(op: Op, a: Ints, b: Ints) -> Ints:
    a, b = refine(a), refine(b)
    dtype = common(a, b) or np.dtype(object)
    found = _COMPARISONS[op](a.array.astype(dtype, copy=False), b.array.astype(dtype, copy=False))
    return Ints(np.asarray(found, dtype=bool).view(np.uint8), 0, 1)


def _shift_left(a: Ints, b: Ints) -> Ints:
    b = refine(b)
    if not b.within((0, 62)):
        return by_element(BINARY[Op.SHL], a.array, b.array)
    powers = np.left_shift(np.int64(1), b.array.astype(np.int64))
    return _arithmetic(Op.MUL, a, Ints(np.asarray(powers), 1 << b.low, 1 << b.high))


def _shift_right(a: Ints, b: Ints) -> Ints:
    a, b = refine(a), refine(b)
    dtype = common(a, b)
    if not dtype:
        return by_element(BINARY[Op.SHR], a.array, b.array)
    most = 8 * dtype.itemsize - 1
    shift = b.array.astype(dtype)
    if not b.within((0, most)):
        # Shifting out all bits leaves what a shift outside 0…255 is defined to be.
        shift = np.where((shift < 0) | (shift > most), dtype.type(most), shift)
    array = np.right_shift(a.array, shift, dtype=dtype, casting="unsafe")
    return Ints(array, min(a.low, 0), max(a.high, -1))


def _divide(op: Op, a: Ints, b: Ints) -> Ints:
    a, b = refine(a), refine(b)
    reach = max(abs(a.low), abs(a.high))
    result = Ints(a.array, 0 if a.low >= 0 and b.low >= 0 else -reach, reach)
    dtype = common(a, b, result, Ints(b.array, -abs(b.low), abs(b.low)))
    if not dtype:
        return by_element(BINARY[op], a.array, b.array)
    left, right = a.array.astype(dtype, copy=False), b.array.astype(dtype, copy=False)
    function = np.floor_divide if op is Op.DIV else np.remainder
    if a.low >= 0 and b.low > 0:
        return Ints(function(left, right), result.low, result.high)
    return Ints(_divide_signed(op, function, left, right), result.low, result.high)


def _divide_signed(
    op: Op, function: Callable[..., Any], left: NDArray[Any], right: NDArray[Any]
) -> NDArray[Any]:
    magnitude = function(np.abs(left), np.where(right == 0, 1, np.abs(right)))
    negative = (left < 0) != (right < 0) if op is Op.DIV else left < 0
    return np.where(right == 0, 0, np.where(negative, -magnitude, magnitude)).astype(left.dtype, copy=False)


def binary(op: Op, a: Ints, b: Ints) -> Ints:
    """`a ∘ b` modulo 2^256 for any instruction on two integers."""
    if op in _UFUNCS:
        return _arithmetic(op, a, b)
    if op in _COMPARISONS:
        return _compare(op, a, b)
    if op is Op.SHL:
        return _shift_left(a, b)
    return _shift_right(a, b) if op is Op.SHR else _divide(op, a, b)
