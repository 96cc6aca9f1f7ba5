"""What a stack holds while many elements are computed at once: arrays of integers or of float32.

Integers carry bounds that every element keeps, so that int64 stands for int256 only where no result can
leave it; otherwise the arrays hold Python integers. Floats are float32 arrays whose bits are the patterns;
every NaN that an instruction makes is canonical at once.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import inf, isinf, isnan
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from assay.commitments.tensors import ONNX_TO_NUMPY
from assay.exact.instructions import FLOAT32, WIDTHS, range_of, wrap
from assay.exact.opcodes import FLOAT_NAN

INT32_RANGE: Final = range_of(6)
INT64_RANGE: Final = range_of(7)
_INT32: Final = np.dtype(np.int32)
_INT64: Final = np.dtype(np.int64)
NAN: Final = np.uint32(FLOAT_NAN).view(np.float32)

STORAGE: Final[dict[int, np.dtype[Any]]] = {
    dtype: np.dtype("<u4" if dtype == FLOAT32 else "u1" if dtype == 9 else ONNX_TO_NUMPY[dtype])
    for dtype in WIDTHS
}
"""The numpy dtype that holds a tensor's elements as the integers that they are read as."""


@dataclass(slots=True)
class Ints:
    """Integers of any numpy integer dtype, or Python's in an object array; low ≤ every element ≤ high."""

    array: NDArray[Any]
    low: int
    high: int
    floats: Floats | None = None
    """What the same single number is as a pattern, once it was asked for."""

    def within(self, bounds: tuple[int, int]) -> bool:
        return bounds[0] <= self.low and self.high <= bounds[1]


@dataclass(slots=True)
class Floats:
    """float32; low ≤ every element ≤ high but for NaNs, which there are none of unless `nan`."""

    array: NDArray[Any]
    low: float
    high: float
    nan: bool

    @property
    def is_finite(self) -> bool:
        return not (self.nan or isinf(self.low) or isinf(self.high))


Value = Ints | Floats


@lru_cache(maxsize=4096)
def float_of(pattern: int) -> float:
    """The number that a pattern stands for, exactly."""
    value: float = struct.unpack(">f", pattern.to_bytes(4, "big"))[0]
    return value


@lru_cache(maxsize=4096)
def scalar(value: int) -> Ints:
    """A number that an expression pushes; shared, so nobody writes to it."""
    fits = INT64_RANGE[0] <= value <= INT64_RANGE[1]
    return Ints(np.array(value, dtype=np.int64 if fits else object), value, value)


def measured_ints(array: NDArray[Any]) -> Ints:
    """With the bounds that the elements have; Python integers that fit become int64."""
    low, high = int(array.min()), int(array.max())
    if array.dtype == object and INT64_RANGE[0] <= low and high <= INT64_RANGE[1]:
        array = array.astype(np.int64)
    return Ints(array, low, high)


def measured_floats(array: NDArray[Any]) -> Floats:
    low, high = float(array.min()), float(array.max())
    if not (isnan(low) or isnan(high)):
        return Floats(array, low, high, nan=False)
    known = array[~np.isnan(array)]
    return Floats(array, float(known.min(initial=inf)), float(known.max(initial=-inf)), nan=True)


def refine(value: Ints) -> Ints:
    """With bounds measured, where the known ones do not fit int64."""
    return value if value.within(INT64_RANGE) else measured_ints(value.array)


def common(*values: Ints) -> np.dtype[Any] | None:
    """The narrowest of int32 and int64 that holds all bounds; None if only Python integers do."""
    low, high = min([value.low for value in values]), max([value.high for value in values])
    if INT32_RANGE[0] <= low and high <= INT32_RANGE[1]:
        return _INT32
    return _INT64 if INT64_RANGE[0] <= low and high <= INT64_RANGE[1] else None


def by_element(function: Callable[..., int], *arrays: NDArray[Any]) -> Ints:
    """A scalar function of Python integers on each element: slow, and right for any size of integer."""
    results = np.frompyfunc(function, len(arrays), 1)(*(array.astype(object) for array in arrays))
    return measured_ints(np.asarray(results, dtype=object))


def to_ints(value: Value) -> Ints:
    """A float as its pattern."""
    return value if isinstance(value, Ints) else Ints(value.array.view(np.uint32), *range_of(FLOAT32))


def to_floats(value: Value) -> Floats:
    """The low 32 bits of an integer as a pattern."""
    if isinstance(value, Floats):
        return value
    if value.floats:
        return value.floats
    array = np.asarray(wrapped(value, 12).array).astype(np.uint32).view(np.float32)
    if array.size != 1:
        return Floats(array, -inf, inf, nan=True)
    value.floats = measured_floats(array)
    return value.floats


def wrapped(value: Ints, dtype: int) -> Ints:
    """Reduced to the dtype in two's complement and read back with its sign."""
    bounds = range_of(dtype)
    if value.within(bounds):
        return value
    if value.array.dtype == object:
        return by_element(lambda one: wrap(one, dtype), value.array)
    return Ints(value.array.astype(STORAGE[dtype]), *bounds)


def bits_of(value: Value, dtype: int) -> NDArray[Any]:
    """The integers that a tensor of the dtype holds for the value, in any numpy dtype."""
    return np.asarray(wrapped(to_ints(value), dtype).array)


def stored(value: Value, dtype: int) -> NDArray[Any]:
    """The elements of a tensor of the dtype, as STORAGE has them."""
    return bits_of(value, dtype).astype(STORAGE[dtype], copy=False)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What is known of all elements of a tensor."""

    low: float
    high: float
    nan: bool = False

    def union(self, other: Bounds) -> Bounds:
        return Bounds(min(self.low, other.low), max(self.high, other.high), self.nan or other.nan)


def dtype_bounds(dtype: int) -> Bounds:
    return Bounds(-inf, inf, nan=True) if dtype == FLOAT32 else Bounds(*range_of(dtype))


def pattern_bounds(pattern: int, dtype: int) -> Bounds:
    """Of a single element."""
    if dtype != FLOAT32:
        return Bounds(pattern, pattern)
    number = float_of(pattern)
    return Bounds(inf, -inf, nan=True) if isnan(number) else Bounds(number, number)


def bounds_of(value: Value, dtype: int) -> Bounds:
    """Of what `stored` makes of the value."""
    if dtype == FLOAT32:
        return Bounds(value.low, value.high, value.nan) if isinstance(value, Floats) else dtype_bounds(dtype)
    if isinstance(value, Ints) and value.within(range_of(dtype)):
        return Bounds(value.low, value.high)
    return dtype_bounds(dtype)


def value_of(array: NDArray[Any], dtype: int, bounds: Bounds) -> Value:
    """Elements of a tensor as a stack holds them; `array` as STORAGE has it."""
    if dtype == FLOAT32:
        return Floats(array.view(np.float32), bounds.low, bounds.high, bounds.nan)
    return Ints(array, int(bounds.low), int(bounds.high))


def measure(array: NDArray[Any], dtype: int) -> Bounds:
    """The bounds that a tensor's elements have; `array` as STORAGE has it, not empty."""
    value = measured_floats(array.view(np.float32)) if dtype == FLOAT32 else measured_ints(array)
    return bounds_of(value, dtype)
