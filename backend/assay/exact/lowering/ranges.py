"""Interval arithmetic on tensors' values: where float32 results lie, where NaN or −0 could arise.

Rounding to nearest is monotone, so a result's ends are float32 results of its operands' ends. Why −0 matters:
maximum and minimum of −0 and +0 depend on the CPU (x86 gives one of its operands by their order; for aarch64
−0 is less than +0), and onnxruntime's Where turns −0 into +0 depending on how it broadcasts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import product
from math import inf, isnan
from typing import Final

import numpy as np

from assay.exact.lowering.report import Refusal
from assay.exact.lowering.values import FLOAT, Interval, Value, dtype_interval

FINITE_CURE: Final = "keep its operands within bounds that exclude this (Clip to constants)"
ZERO_CURE: Final = "do it on quantised values, or on the result of DequantizeLinear"
Ends = Callable[[np.float32, np.float32], np.float32]


def has_zero(interval: Interval) -> bool:
    return interval.low <= 0 <= interval.high


def has_negative_zero(value: Value) -> bool:
    """Whether a float32 tensor may hold −0."""
    return value.dtype == FLOAT and value.interval.negative_zero and has_zero(value.interval)


def check_zeros(values: Sequence[Value]) -> None:
    """Refuses a choice by order among float32 values where it may fall between −0 and +0."""
    zeros = [value for value in values if has_zero(value.interval)]
    if len(zeros) > 1 and any(map(has_negative_zero, zeros)):
        raise Refusal("it may choose between -0 and +0, which CPUs order differently", ZERO_CURE)


def add(a: Interval, b: Interval) -> Interval:
    """Of a + b in float32. Refuses ∞ − ∞."""
    _check_infinities(a, Interval(-b.high, -b.low))
    low, high = _ends(np.add, a, b, ((a.low, b.low), (a.high, b.high)))
    return Interval(low, high, _minus_zero(a) and _minus_zero(b))


def subtract(a: Interval, b: Interval) -> Interval:
    """Of a − b in float32. Refuses ∞ − ∞."""
    _check_infinities(a, b)
    low, high = _ends(np.subtract, a, b, ((a.low, b.high), (a.high, b.low)))
    return Interval(low, high, _minus_zero(a) and has_zero(b))


def multiply(a: Interval, b: Interval) -> Interval:
    """Of a · b in float32. Refuses 0 · ∞."""
    if (has_zero(a) and not b.is_finite) or (has_zero(b) and not a.is_finite):
        raise Refusal("it may multiply zero by infinity, which is NaN", FINITE_CURE)
    low, high = _ends(np.multiply, a, b, product((a.low, a.high), (b.low, b.high)))
    return _with_signs(low, high, a, b)


def divide(a: Interval, b: Interval) -> Interval:
    """Of a / b in float32. Refuses 0 / 0 and ∞ / ∞."""
    if (has_zero(a) and has_zero(b)) or not (a.is_finite or b.is_finite):
        raise Refusal("it may divide zero by zero or infinity by infinity, which is NaN", FINITE_CURE)
    if has_zero(b):
        return Interval(-inf, inf)
    low, high = _ends(np.divide, a, b, product((a.low, a.high), (b.low, b.high)))
    return _with_signs(low, high, a, b)


def minimum(intervals: Iterable[Interval]) -> Interval:
    held = list(intervals)
    return Interval(min(i.low for i in held), min(i.high for i in held), any(i.negative_zero for i in held))


def maximum(intervals: Iterable[Interval]) -> Interval:
    held = list(intervals)
    return Interval(max(i.low for i in held), max(i.high for i in held), any(i.negative_zero for i in held))


def wrapped(low: float, high: float, dtype: int) -> Interval:
    """Of integers in low … high reduced to the dtype's width."""
    whole = dtype_interval(dtype)
    return Interval(low, high) if whole.low <= low and high <= whole.high else whole


def union(values: Iterable[Value]) -> Interval:
    first, *others = [value.interval for value in values]
    for other in others:
        first = first.union(other)
    return first


def _minus_zero(interval: Interval) -> bool:
    return interval.negative_zero and has_zero(interval)


def _check_infinities(a: Interval, b: Interval) -> None:
    if a.high == b.high == inf or a.low == b.low == -inf:
        raise Refusal("it may subtract infinity from infinity, which is NaN", FINITE_CURE)


def _ends(
    operation: Ends, a: Interval, b: Interval, corners: Iterable[tuple[float, float]]
) -> tuple[float, float]:
    with np.errstate(all="ignore"):
        results = [float(operation(np.float32(x), np.float32(y))) for x, y in corners]
    if any(map(isnan, results)):
        raise Refusal(f"it may give NaN (operands in {a.low}…{a.high} and {b.low}…{b.high})", FINITE_CURE)
    return min(results), max(results)


def _with_signs(low: float, high: float, a: Interval, b: Interval) -> Interval:
    """Of a product or quotient: −0 needs operands of unlike sign."""

    def negative(one: Interval) -> bool:
        return one.low < 0 or _minus_zero(one)

    def positive(one: Interval) -> bool:
        return one.high > 0 or has_zero(one)

    return Interval(low, high, (negative(a) and positive(b)) or (positive(a) and negative(b)))
