"""Interval arithmetic: no float32 result leaves its interval, NaN and −0 arise only where it says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from assay.exact.lowering import ranges
from assay.exact.lowering.report import Refusal
from assay.exact.lowering.values import FLOAT_MAX, INT8, UINT8, Interval
from hypothesis import assume, given
from hypothesis import strategies as st

NUMBERS = st.floats(width=32, allow_nan=False) | st.sampled_from(
    [0.0, -0.0, 1e-45, -1e-45, FLOAT_MAX, -FLOAT_MAX]
)
OPERATIONS: list[tuple[Callable[[Interval, Interval], Interval], Any]] = [
    (ranges.add, np.add),
    (ranges.subtract, np.subtract),
    (ranges.multiply, np.multiply),
    (ranges.divide, np.divide),
]


def of(numbers: list[float]) -> Interval:
    """The interval of these numbers."""
    negative_zero = any(number == 0 and np.signbit(number) for number in numbers)
    return Interval(min(numbers), max(numbers), negative_zero)


@pytest.mark.parametrize(("rule", "operation"), OPERATIONS)
@given(st.lists(NUMBERS, min_size=1, max_size=3), st.lists(NUMBERS, min_size=1, max_size=3))
def test_rule__members_of_both__result_inside(
    rule: Any, operation: Any, a: list[float], b: list[float]
) -> None:
    try:
        interval = rule(of(a), of(b))
    except Refusal:
        assume(False)
    with np.errstate(all="ignore"):
        results = operation.outer(np.array(a, np.float32), np.array(b, np.float32))
    assert not np.isnan(results).any()
    assert (results >= interval.low).all()
    assert (results <= interval.high).all()
    assert interval.negative_zero or not (np.signbit(results) & (results == 0)).any()


@pytest.mark.parametrize(("rule", "operation"), OPERATIONS)
@given(NUMBERS, NUMBERS)
def test_rule__single_numbers__refused_exactly_where_nan(
    rule: Any, operation: Any, a: float, b: float
) -> None:
    with np.errstate(all="ignore"):
        is_nan = bool(np.isnan(operation(np.float32(a), np.float32(b))))
    if is_nan:
        with pytest.raises(Refusal, match="NaN"):
            rule(of([a]), of([b]))
    else:
        assert rule(of([a]), of([b])).low <= rule(of([a]), of([b])).high


@given(st.lists(NUMBERS, min_size=1, max_size=3), st.lists(NUMBERS, min_size=1, max_size=3))
def test_maximum__members_of_both__result_inside(a: list[float], b: list[float]) -> None:
    for rule, operation in ((ranges.maximum, np.maximum), (ranges.minimum, np.minimum)):
        interval = rule([of(a), of(b)])
        results = operation.outer(np.array(a, np.float32), np.array(b, np.float32))
        assert (results >= interval.low).all()
        assert (results <= interval.high).all()
        assert interval.negative_zero or not (np.signbit(results) & (results == 0)).any()


@pytest.mark.parametrize(
    ("low", "high", "dtype", "expected"),
    [
        (0, 255, UINT8, (0, 255)),
        (3, 7, INT8, (3, 7)),
        (-1, 3, UINT8, (0, 255)),
        (0, 256, UINT8, (0, 255)),
        (-129, 0, INT8, (-128, 127)),
    ],
)
def test_wrapped__integers__kept_inside_the_dtype(
    low: int, high: int, dtype: int, expected: tuple[int, int]
) -> None:
    interval = ranges.wrapped(low, high, dtype)
    assert (interval.low, interval.high) == expected
