"""The float instructions on arrays: numpy's float32, which rounds to nearest even and keeps subnormals."""

from __future__ import annotations

import operator
from collections.abc import Callable
from math import inf, isnan
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from assay.exact import float32
from assay.exact.opcodes import Op
from assay.exact.vectorised.values import (
    INT64_RANGE,
    NAN,
    Floats,
    Ints,
    by_element,
    float_of,
    measured_floats,
    refine,
)

_ARITHMETIC: Final[dict[Op, Callable[..., Any]]] = {
    Op.FADD: np.add,
    Op.FSUB: np.subtract,
    Op.FMUL: np.multiply,
    Op.FDIV: np.divide,
}
_COMPARISONS: Final[dict[Op, Callable[..., Any]]] = {
    Op.FEQ: np.equal,
    Op.FLT: np.less,
    Op.FLE: np.less_equal,
}
_EXTREMES: Final[dict[Op, Callable[..., Any]]] = {Op.FMIN: np.minimum, Op.FMAX: np.maximum}
_LARGE: Final = float(1 << 63)


def _rounded(op: Op, a: float, b: float) -> float:
    """Of bounds: in double, then float32; twice rounded is once rounded for these (53 ≥ 2 · 24 + 2)."""
    return float(np.float32(_DOUBLE[op](a, b)))


_DOUBLE: Final[dict[Op, Callable[[float, float], float]]] = {
    Op.FADD: operator.add,
    Op.FSUB: operator.sub,
    Op.FMUL: operator.mul,
    Op.FDIV: operator.truediv,
}


def _bounds(op: Op, a: Floats, b: Floats) -> tuple[float, float, bool]:
    if not (a.is_finite and b.is_finite) or (op is Op.FDIV and b.low <= 0 <= b.high):
        return -inf, inf, True
    if op is Op.FADD:
        return _rounded(op, a.low, b.low), _rounded(op, a.high, b.high), False
    if op is Op.FSUB:
        return _rounded(op, a.low, b.high), _rounded(op, a.high, b.low), False
    found = [_rounded(op, left, right) for left in (a.low, a.high) for right in (b.low, b.high)]
    return min(found), max(found), False


def _canonical(array: NDArray[Any]) -> NDArray[Any]:
    bad = np.isnan(array)
    if bad.any():
        array = np.where(bad, NAN, array)
    return array


def arithmetic(op: Op, a: Floats, b: Floats) -> Floats:
    low, high, nan = _bounds(op, a, b)
    array = np.asarray(_ARITHMETIC[op](a.array, b.array), dtype=np.float32)
    return Floats(_canonical(array) if nan else array, low, high, nan)


def extremum(op: Op, a: Floats, b: Floats) -> Floats:
    """FMIN: a if a < b else b; FMAX: a if a > b else b; NaN if either is."""
    nan = a.nan or b.nan
    if nan:
        bad = np.isnan(a.array) | np.isnan(b.array)
        array = np.where(bad, NAN, _chosen(op, a.array, b.array))
        return Floats(array, min(a.low, b.low), max(a.high, b.high), nan=True)
    pick = min if op is Op.FMIN else max
    low, high = pick(a.low, b.low), pick(a.high, b.high)
    # Only zeros of two signs are equal and yet different; numpy's own choice between them is not defined.
    if _has_zero(a) and _has_zero(b):
        return Floats(_chosen(op, a.array, b.array), low, high, nan=False)
    return Floats(_EXTREMES[op](a.array, b.array), low, high, nan=False)


def _has_zero(value: Floats) -> bool:
    return value.low <= 0 <= value.high


def _chosen(op: Op, a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    if b.size == 1 and not int(b.view(np.uint32).reshape(())):
        # + 0 turns −0 into +0, which b is, and nothing else.
        return np.asarray(np.add(_EXTREMES[op](a, b), b))
    return np.where(np.less(a, b) if op is Op.FMIN else np.greater(a, b), a, b)


def compare(op: Op, a: Floats, b: Floats) -> Ints:
    return Ints(np.asarray(_COMPARISONS[op](a.array, b.array), dtype=bool).view(np.uint8), 0, 1)


def from_ints(value: Ints) -> Floats:
    """I2F."""
    value = refine(value)
    low, high = float_of(float32.i2f(value.low)), float_of(float32.i2f(value.high))
    if value.within(INT64_RANGE):
        array = value.array
        if array.dtype == np.uint64:
            array = array.astype(np.int64)
        return Floats(np.asarray(array.astype(np.float32)), low, high, nan=False)
    patterns = by_element(float32.i2f, value.array).array.astype(np.uint32)
    return Floats(patterns.view(np.float32), low, high, nan=False)


def to_integers(op: Op, value: Floats) -> Ints:
    """F2I and TRUNC: NaN gives 0, what is beyond int64 its nearest bound."""
    if not (value.low > -_LARGE and value.high < _LARGE) or value.nan:
        value = measured_floats(value.array)
    nearest = np.rint if op is Op.F2I else np.trunc
    low, high = (_integer(op, bound) for bound in (value.low, value.high))
    if value.nan:
        low, high = min(low, 0), max(high, 0)
    rounded = nearest(value.array)
    if value.nan or not (value.low > -_LARGE and value.high < _LARGE):
        return Ints(_saturated(rounded), low, high)
    dtype = np.int32 if max(abs(low), abs(high)) < 1 << 31 else np.int64
    return Ints(np.asarray(rounded.astype(dtype)), low, high)


def _integer(op: Op, bound: float) -> int:
    """The instruction on one float; infinity gives the nearest bound of int64."""
    if isnan(bound):
        return 0
    if abs(bound) >= _LARGE:
        return INT64_RANGE[0] if bound < 0 else INT64_RANGE[1]
    return round(bound) if op is Op.F2I else int(bound)


def _saturated(rounded: NDArray[Any]) -> NDArray[Any]:
    inside = np.abs(rounded) < _LARGE
    array = np.where(inside, rounded, 0).astype(np.int64)
    array = np.where(rounded >= _LARGE, INT64_RANGE[1], array)
    return np.where(rounded <= -_LARGE, INT64_RANGE[0], array)
