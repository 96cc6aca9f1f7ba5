"""Tensors during lowering: strided views of an input, a constant or a kernel, with bounds on their values.

Reshaping, transposing, slicing and broadcasting make another view and cost no kernel. `dims` are one row's:
the
batch axis is left out (SPEC.md §10, "Rows") and `batched` says that the ONNX tensor has it as its first axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import inf, prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from assay.commitments.tensors import ONNX_TO_NUMPY, ONNX_TO_OIP
from assay.exact.lowering import forms
from assay.exact.lowering.report import Refusal
from assay.exact.program import Affine, Source

FLOAT: Final = 1
UINT8: Final = 2
INT8: Final = 3
UINT16: Final = 4
INT16: Final = 5
INT32: Final = 6
INT64: Final = 7
BOOL: Final = 9
UINT32: Final = 12
UINT64: Final = 13
DTYPES: Final = frozenset((FLOAT, UINT8, INT8, UINT16, INT16, INT32, INT64, BOOL, UINT32, UINT64))
"""Dtypes that a program can hold."""
FLOAT_MAX: Final = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class Interval:
    """Every element lies in low … high; a float endpoint may be infinite, and no element is ever NaN."""

    low: float
    high: float
    negative_zero: bool = True
    """Of a float32 tensor: an element may be −0. Means nothing for integers."""

    @property
    def is_finite(self) -> bool:
        return -inf < self.low and self.high < inf

    @property
    def magnitude(self) -> float:
        return max(abs(self.low), abs(self.high))

    def union(self, other: Interval) -> Interval:
        negative_zero = self.negative_zero or other.negative_zero
        return Interval(min(self.low, other.low), max(self.high, other.high), negative_zero)


def dtype_interval(dtype: int) -> Interval:
    """All values of a dtype; for float32 all finite ones."""
    if dtype == FLOAT:
        return Interval(-FLOAT_MAX, FLOAT_MAX)
    if dtype == BOOL:
        return Interval(0, 1)
    limits = np.iinfo(ONNX_TO_NUMPY[dtype])
    return Interval(int(limits.min), int(limits.max))


def dtype_name(dtype: int) -> str:
    return ONNX_TO_OIP.get(dtype, f"dtype {dtype}").lower()


def row_major(dims: Sequence[int]) -> tuple[int, ...]:
    """Strides of a contiguous tensor, in elements."""
    return tuple(prod(dims[axis + 1 :]) for axis in range(len(dims)))


@dataclass(frozen=True)
class Value:
    """One ONNX tensor: element [i…] of a row is element `base + Σ strides · i` of the row behind it."""

    dtype: int
    dims: tuple[int, ...]
    batched: bool
    source: Source
    index: int
    """Which input or kernel; 0 for a constant."""
    elements: int
    """Of one row of the tensor behind."""
    base: int
    strides: tuple[int, ...]
    interval: Interval
    dequantised: bool = False
    """Float, and computed from a DequantizeLinear: what onnxruntime may fuse with a QuantizeLinear after
    it."""
    data: NDArray[Any] | None = field(default=None, compare=False)
    """The contiguous tensor behind a constant; None for all else. As seen through the view: `array`."""

    @property
    def rank(self) -> int:
        """As ONNX counts it: with the batch axis."""
        return len(self.dims) + self.batched

    @property
    def size(self) -> int:
        return prod(self.dims)

    @property
    def is_contiguous(self) -> bool:
        """Element for element the whole row of the tensor behind, in its order."""
        steps = [(dim, stride) for dim, stride in zip(self.dims, self.strides, strict=True) if dim != 1]
        dims = [dim for dim, _ in steps]
        return (
            self.base == 0
            and self.size == self.elements
            and tuple(stride for _, stride in steps) == row_major(dims)
        )

    @property
    def array(self) -> NDArray[Any] | None:
        """A constant's values, in its dims; None for all else."""
        if self.data is None:
            return None
        items = self.data.reshape(-1)
        steps = [stride * items.itemsize for stride in self.strides]
        return np.lib.stride_tricks.as_strided(items[self.base :], self.dims, steps, writeable=False)

    def axis(self, axis: int) -> int:
        """ONNX's axis (negative from the end) as an axis of `dims`. Refuses the batch axis and none such."""
        counted = axis + self.rank if axis < 0 else axis
        if not 0 <= counted < self.rank:
            raise Refusal(f"axis {axis} is outside a tensor of rank {self.rank}", "correct the attribute")
        if self.batched and counted == 0:
            raise Refusal(
                "it works along the batch axis, so that rows would depend on each other",
                "keep each row's arithmetic to itself",
            )
        return counted - self.batched

    def form(self, index: Sequence[Affine]) -> Affine:
        """The flat element, given each axis's index as a form of the kernel's loop variables."""
        parts = [forms.scale(one, stride) for one, stride in zip(index, self.strides, strict=True)]
        return forms.add(forms.constant(self.base), *parts)

    def with_view(self, dims: Sequence[int], strides: Sequence[int], base: int | None = None) -> Value:
        """Another view of the same tensor; a constant becomes a tensor of its own."""
        start = self.base if base is None else base
        view = replace(self, dims=tuple(dims), strides=tuple(strides), base=start)
        return view if view.array is None else constant_value(view.array, self.dtype)

    def transpose(self, order: Sequence[int]) -> Value:
        """`order` permutes the axes of `dims`."""
        return self.with_view([self.dims[a] for a in order], [self.strides[a] for a in order])

    def slice(self, starts: Sequence[int], steps: Sequence[int], dims: Sequence[int]) -> Value:
        """Every `steps`-th element (may be negative) from `starts`, `dims` of them, on each axis."""
        base = self.base + sum(s * stride for s, stride in zip(starts, self.strides, strict=True))
        strides = [step * stride for step, stride in zip(steps, self.strides, strict=True)]
        return self.with_view(dims, strides, base)

    def reshape(self, dims: Sequence[int]) -> Value | None:
        """The same elements in the same order under other dims; None where that needs a copy."""
        if self.array is not None:
            return constant_value(self.array.reshape(tuple(dims)), self.dtype)
        strides = _reshaped_strides(self.dims, self.strides, dims)
        return None if strides is None else self.with_view(dims, strides)

    def expand(self, dims: Sequence[int]) -> Value:
        """Broadcast to `dims` (of the same row rank or higher): axes of extent 1 repeat."""
        lead = len(dims) - len(self.dims)
        mine = (1,) * lead + self.dims
        steps = (0,) * lead + self.strides
        strides = [0 if m == 1 else step for m, step in zip(mine, steps, strict=True)]
        return replace(self, dims=tuple(dims), strides=tuple(strides))


def constant_value(array: NDArray[Any], dtype: int) -> Value:
    """A constant tensor. Refuses floats that are NaN."""
    held = np.ascontiguousarray(array, dtype=ONNX_TO_NUMPY[dtype]).reshape(np.shape(array))
    if held.size and dtype == FLOAT and bool(np.isnan(held).any()):
        raise Refusal("a constant holds NaN", "replace it by a number")
    negative_zero = dtype == FLOAT and bool((np.signbit(held) & (held == 0)).any())
    low, high = (held.min().item(), held.max().item()) if held.size else (0, 0)
    return Value(
        dtype=dtype,
        dims=held.shape,
        batched=False,
        source=Source.CONSTANT,
        index=0,
        elements=held.size,
        base=0,
        strides=row_major(held.shape),
        interval=Interval(low, high, negative_zero) if dtype == FLOAT else Interval(int(low), int(high)),
        data=held,
    )


def _reshaped_strides(
    dims: Sequence[int], strides: Sequence[int], wanted: Sequence[int]
) -> tuple[int, ...] | None:
    """Strides of the view under `wanted` dims, by splitting the runs of axes that lie evenly in memory."""
    runs: list[tuple[int, int]] = []  # (elements, stride of the last axis), outermost first
    for dim, stride in zip(dims, strides, strict=True):
        if dim == 1:
            continue
        if runs and runs[-1][1] == dim * stride:
            runs[-1] = (runs[-1][0] * dim, stride)
        else:
            runs.append((dim, stride))
    result: list[int] = []
    left, step = 1, 0
    for dim in reversed(wanted):
        if dim == 1:
            result.append(0)
            continue
        if left == 1:
            left, step = runs.pop()
        if left % dim:
            return None
        result.append(step)
        left, step = left // dim, step * dim
    return tuple(reversed(result))
