"""One run's operands: layouts bound to tensors, read block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from assay.exact.program import Affine
from assay.exact.vectorised.layout import MAX_PLACE, Layout, is_row_dependent, strided
from assay.exact.vectorised.values import Bounds, Ints, Value, pattern_bounds, to_ints, value_of

_ALL: Final = slice(None)
Block = tuple[slice, ...]
"""Of each axis, the row first, a slice with start and stop."""


@dataclass(frozen=True)
class Tensor:
    """Elements over all rows, flat, as `values.STORAGE` has them, and what is known of them."""

    array: NDArray[Any]
    bounds: Bounds


def cut(array: NDArray[Any], block: Block) -> NDArray[Any]:
    """The block of an array whose axes may have extent 1."""
    parts = [one if extent > 1 else _ALL for one, extent in zip(block, array.shape, strict=True)]
    return array[tuple(parts)]


def blocks(extents: Sequence[int], limit: int) -> Iterator[Block]:
    """Consecutive row-major pieces of at most `limit` elements each, or of one."""
    inner, axis = 1, len(extents)
    while axis and inner * extents[axis - 1] <= limit:
        axis -= 1
        inner *= extents[axis]
    whole = tuple([slice(0, extent) for extent in extents[axis:]])
    if not axis:
        yield whole
        return
    axis -= 1
    step = max(1, limit // inner)
    for lead in np.ndindex(*extents[:axis]):
        fixed = tuple(slice(index, index + 1) for index in lead)
        for start in range(0, extents[axis], step):
            yield (*fixed, slice(start, min(start + step, extents[axis])), *whole)


def axis_values(block: Block, axis: int) -> NDArray[np.int64]:
    """The loop variable of an axis, along it."""
    shape = [1] * len(block)
    shape[axis] = -1
    return np.arange(block[axis].start, block[axis].stop, dtype=np.int64).reshape(shape)


class Reader:
    """An operand of a kernel in one run."""

    def __init__(self, layout: Layout, tensor: Tensor, rows: int) -> None:
        self.layout, self.tensor = layout, tensor
        self.rows = rows if is_row_dependent(layout.operand) else 1
        self.bounds = tensor.bounds
        if layout.may_pad:
            self.bounds = self.bounds.union(pattern_bounds(layout.operand.pad, layout.operand.dtype))

    @cached_property
    def storage(self) -> NDArray[Any]:
        """What an affine layout strides over: the tensor, or its padded copy."""
        if not self.layout.padding:
            return self.tensor.array
        return self.layout.padding.fill(self.tensor.array, self.rows, self.layout.operand.elements)

    def view(self, storage: NDArray[Any]) -> NDArray[Any]:
        """The operand over all axes, of anything that is laid out as `self.storage`."""
        layout = self.layout
        extents, strides = layout.axes
        row = layout.row_elements if self.rows > 1 else 0
        return strided(storage, layout.offset, (self.rows, *extents), (row, *strides))

    @cached_property
    def whole(self) -> NDArray[Any]:
        return self.view(self.storage)

    @property
    def size(self) -> int:
        """How many elements it is read at, if the layout is affine."""
        return self.rows * prod(self.layout.axes[0])

    def value(self, array: NDArray[Any]) -> Value:
        return value_of(array, self.layout.operand.dtype, self.bounds)

    def read(self, block: Block, earlier: Callable[[int], Value]) -> Value:
        """The operand's values in a block; `earlier` gives those of the operands before it."""
        if self.layout.is_affine:
            return self.value(cut(self.whole, block))
        return self.value(self._gather(block, earlier))

    def _gather(self, block: Block, earlier: Callable[[int], Value]) -> NDArray[Any]:
        operand = self.layout.operand
        index = _along(operand.flat, block)
        if operand.indirect:
            number, coefficient = operand.indirect
            index = np.asarray(index + coefficient * _places(to_ints(earlier(number)), coefficient))
        inside = (index >= 0) & (index < operand.elements)
        for bound in self.layout.bounds:
            at = _along(bound.form, block)
            inside = inside & (at >= 0) & (at < bound.extent)
        index = np.where(inside, index, 0)
        if self.rows > 1:
            index = index + axis_values(block, 0) * operand.elements
        if not operand.elements:
            return np.full(
                np.broadcast_shapes(index.shape, inside.shape), operand.pad, self.tensor.array.dtype
            )
        found: NDArray[Any] = np.take(self.tensor.array, index)
        if inside.all():
            return found
        return np.where(inside, found, self.tensor.array.dtype.type(operand.pad))


def _along(form: Affine, block: Block) -> NDArray[np.int64]:
    """A form's value over a block, on the axes that it depends on."""
    total = np.full((1,) * len(block), form.base, dtype=np.int64)
    for variable, coefficient in form.terms:
        total = total + coefficient * axis_values(block, variable + 1)
    return total


def _places(value: Ints, coefficient: int) -> NDArray[np.int64]:
    """The values as int64; what is too far out for any form to bring back is brought nearer."""
    reach = 2 * MAX_PLACE // max(abs(coefficient), 1)
    if value.within((-reach, reach)):
        return value.array.astype(np.int64)
    clipped = np.clip(value.array.astype(object), -reach, reach)
    return np.asarray(clipped, dtype=object).astype(np.int64)
