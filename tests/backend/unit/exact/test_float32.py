"""float32.py against numpy's own binary32, every special value paired with every other."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
from assay.exact import float32
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

CASES = 20_000
SPECIAL = [
    sign | pattern
    for sign in (0, float32.SIGN)
    for pattern in (
        0,
        1,
        2,
        0x7FFFFF,
        0x800000,
        0x800001,
        0x3EFFFFFF,
        0x3F000000,
        0x3F7FFFFF,
        0x3F800000,
        0x3F800001,
        0x3FC00000,
        0x40200000,
        0x4AFFFFFF,
        0x4B000000,
        0x4B000001,
        0x4EFFFFFF,
        0x4F000000,
        0x5EFFFFFF,
        0x5F000000,
        0x5F000001,
        0x7F7FFFFF,
        0x7F800000,
        0x7F800001,
        0x7FC00000,
        0x7FFFFFFF,
    )
]
FLOATS = {
    "fadd": np.add,
    "fsub": np.subtract,
    "fmul": np.multiply,
    "fdiv": np.divide,
    "fmin": lambda a, b: np.where(np.isnan(a) | np.isnan(b), np.float32("nan"), np.where(a < b, a, b)),
    "fmax": lambda a, b: np.where(np.isnan(a) | np.isnan(b), np.float32("nan"), np.where(a > b, a, b)),
}
COMPARISONS = {"feq": np.equal, "flt": np.less, "fle": np.less_equal}


def patterns(values: NDArray[Any]) -> list[int]:
    """As bit patterns, every NaN canonical."""
    found = np.asarray(values, dtype=np.float32).view(np.uint32).copy()
    found[np.isnan(values)] = 0x7FC00000
    return list(map(int, found))


def pairs() -> list[tuple[int, int]]:
    rng = np.random.default_rng(7)
    anything = rng.integers(0, 1 << 32, (CASES, 2), dtype=np.uint32)
    # Near exponents, so that sums cancel and round.
    near = anything & np.uint32(0x80FFFFFF) | np.uint32(0x3F000000)
    tiny = anything & np.uint32(0x81FFFFFF)
    return list(product(SPECIAL, SPECIAL)) + [
        (int(a), int(b)) for block in (anything, near, tiny) for a, b in block
    ]


@pytest.mark.parametrize("name", [*FLOATS, *COMPARISONS])
def test_binary__special_and_random_pairs__equal_numpy(name: str) -> None:
    cases = pairs()
    a, b = (np.array(column, dtype=np.uint32).view(np.float32) for column in zip(*cases, strict=True))
    function: Callable[[int, int], int] = getattr(float32, name)
    with np.errstate(all="ignore"):
        expected = patterns(FLOATS[name](a, b)) if name in FLOATS else list(map(int, COMPARISONS[name](a, b)))
    for (left, right), wanted in zip(cases, expected, strict=True):
        assert function(left, right) == wanted, (hex(left), hex(right))


@given(st.integers(-(1 << 63), (1 << 63) - 1) | st.integers(-(1 << 26), 1 << 26))
def test_i2f__int64__equals_numpy(value: int) -> None:
    assert float32.i2f(value) == patterns(np.array([value], dtype=np.int64).astype(np.float32))[0]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1 << 127, 0x7F000000),
        ((1 << 128) - (1 << 103) - 1, 0x7F7FFFFF),
        ((1 << 128) - (1 << 103), 0x7F800000),
        (1 << 255, 0x7F800000),
        (-(1 << 255), 0xFF800000),
    ],
)
def test_i2f__beyond_int64__rounds_then_overflows(value: int, expected: int) -> None:
    assert float32.i2f(value) == expected


@given(st.integers(0, (1 << 32) - 1) | st.sampled_from(SPECIAL))
def test_f2i_and_trunc__any_pattern__equal_the_rounded_double(pattern: int) -> None:
    value = float(np.uint32(pattern).view(np.float32))
    if np.isnan(value):
        nearest = toward_zero = 0
    elif np.isinf(value):
        nearest = toward_zero = float32.INT64_MIN if value < 0 else float32.INT64_MAX
    else:
        nearest, toward_zero = (
            min(max(found, float32.INT64_MIN), float32.INT64_MAX) for found in (round(value), int(value))
        )
    assert (float32.f2i(pattern), float32.trunc(pattern)) == (nearest, toward_zero)
