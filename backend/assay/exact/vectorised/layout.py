"""Where an operand's elements lie: one affine view of its tensor, perhaps padded first, or an index for each.

Axes: 0 is the row, then the kernel's loop variables. All arrays have an axis for each, of extent 1 where the
operand does not depend on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from assay.exact.instructions import range_of
from assay.exact.program import Affine, Bound, Kernel, Operand, Source

_GROWTH: Final = 4
"""A padded copy has at most so many times the elements that it is read at, or that it copies …"""
_SMALL: Final = 1 << 16
"""… or this many."""
MAX_PLACE: Final = 1 << 60
"""Forms that reach further are left to the scalar interpreter."""


class NeedsScalar(Exception):  # noqa: N818 - a way out, not an error
    """Beyond what is vectorised: a form that reaches too far, or a pad value outside its dtype."""


@dataclass(frozen=True)
class Padding:
    """A copy of the tensor with pad values around what the bounds allow.

    Its axes: the row, the variables of `rest`, then one for each bound, from `low` to `high` of its form; of
    these `start` to `stop` are in the tensor, `multiple` elements apart.
    """

    base: int
    rest: tuple[tuple[int, int, int], ...]
    """(variable, coefficient, extent)."""
    bounds: tuple[tuple[int, int, int, int, int], ...]
    """(multiple, low, high, start, stop)."""
    pad: int

    @property
    def dims(self) -> tuple[int, ...]:
        return (
            *(extent for _, _, extent in self.rest),
            *(high - low + 1 for _, low, high, _, _ in self.bounds),
        )

    def fill(self, storage: NDArray[Any], rows: int, elements: int) -> NDArray[Any]:
        """The copy, flat; `storage` holds `rows` rows of `elements`."""
        padded = np.full((rows, *self.dims), self.pad, dtype=storage.dtype)
        inner = tuple(slice(start - low, max(start, stop) - low) for _, low, _, start, stop in self.bounds)
        extents = (
            rows,
            *(extent for _, _, extent in self.rest),
            *(one.stop - one.start for one in inner),
        )
        if prod(extents):
            steps = (
                elements,
                *(coefficient for _, coefficient, _ in self.rest),
                *(multiple for multiple, *_ in self.bounds),
            )
            offset = self.base + sum(multiple * start for multiple, _, _, start, _ in self.bounds)
            padded[(..., *inner)] = strided(storage, offset, extents, steps)
        return padded.reshape(-1)


@dataclass(frozen=True)
class Layout:
    """Static: how to read one operand. Affine on the tensor, or on its padded copy, or index by index."""

    operand: Operand
    extents: tuple[int, ...]
    """Of the loop variables."""
    offset: int = 0
    strides: tuple[int, ...] | None = None
    """A variable's, in elements; None: index by index."""
    padding: Padding | None = None
    bounds: tuple[Bound, ...] = ()
    """Index by index: those that can fail."""
    may_pad: bool = False

    @property
    def is_affine(self) -> bool:
        return self.strides is not None

    @cached_property
    def axes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Extents and strides of an affine layout's view, extent 1 where it does not depend on a variable."""
        assert self.strides is not None
        pairs = list(zip(self.extents, self.strides, strict=True))
        return tuple(extent if stride else 1 for extent, stride in pairs), tuple(
            stride for _, stride in pairs
        )

    @cached_property
    def row_elements(self) -> int:
        """In what `strides` count, a copy if there is one."""
        return prod(self.padding.dims) if self.padding else self.operand.elements


def strided(
    storage: NDArray[Any], offset: int, extents: Sequence[int], strides: Sequence[int]
) -> NDArray[Any]:
    """A view of a contiguous array; numpy refuses one that leaves it."""
    width = storage.itemsize
    steps = [stride * width for stride in strides]
    return np.ndarray(tuple(extents), storage.dtype, storage, offset * width, steps)


def span(form: Affine, extents: Sequence[int]) -> tuple[int, int]:
    """Least and greatest value over all loop variables."""
    reaches = [coefficient * (extents[variable] - 1) for variable, coefficient in form.terms]
    return form.base + sum(min(reach, 0) for reach in reaches), form.base + sum(
        max(reach, 0) for reach in reaches
    )


def _coefficients(form: Affine, count: int) -> list[int]:
    found = [0] * count
    for variable, coefficient in form.terms:
        found[variable] += coefficient
    return found


def plan_layout(kernel: Kernel, operand: Operand) -> Layout:
    """How the operand is read. Raises NeedsScalar."""
    extents = (*kernel.domain, *kernel.reduction)
    failing = []
    for bound in dict.fromkeys(operand.bounds):
        low, high = span(bound.form, extents)
        if low < 0 or high >= bound.extent:
            failing.append(bound)
    low, high = span(operand.flat, extents)
    leaves = bool(operand.indirect) or low < 0 or high >= operand.elements
    may_pad = leaves or bool(failing)
    _check_range(operand, [operand.flat, *(bound.form for bound in failing)], extents, may_pad=may_pad)
    by_index = Layout(operand, extents, bounds=tuple(failing), may_pad=may_pad)
    if operand.indirect:
        return by_index
    if not may_pad:
        return Layout(operand, extents, operand.flat.base, tuple(_coefficients(operand.flat, len(extents))))
    whole = Bound(operand.flat, operand.elements)
    return _padded(operand, extents, failing) or _padded(operand, extents, [whole, *failing]) or by_index


def _check_range(operand: Operand, forms: list[Affine], extents: Sequence[int], *, may_pad: bool) -> None:
    low, high = range_of(operand.dtype)
    if may_pad and not low <= operand.pad <= high:
        raise NeedsScalar
    if any(max(map(abs, span(form, extents))) > MAX_PLACE for form in forms):
        raise NeedsScalar


def _padded(operand: Operand, extents: tuple[int, ...], bounds: list[Bound]) -> Layout | None:
    """With a padded copy, if the bounds are axes of the tensor and the copy is small enough."""
    rest = _coefficients(operand.flat, len(extents))
    base, axes = operand.flat.base, []
    for bound in bounds:
        form = _coefficients(bound.form, len(extents))
        multiple = _multiple(rest, form, extents)
        rest = [left - multiple * one for left, one in zip(rest, form, strict=True)]
        base -= multiple * bound.form.base
        low, high = span(bound.form, extents)
        axes.append((multiple, low, high, max(low, 0), min(high + 1, bound.extent)))
    kept = tuple(
        (variable, coefficient, extents[variable])
        for variable, coefficient in enumerate(rest)
        if coefficient and extents[variable] > 1
    )
    padding = Padding(base, kept, tuple(axes), operand.pad)
    if not _is_inside(padding, operand.elements) or not _is_small(padding, operand, extents):
        return None
    return _over(padding, operand, extents, bounds)


def _multiple(rest: list[int], form: list[int], extents: Sequence[int]) -> int:
    """How often the form goes into the rest, such that most variables vanish from it."""
    best, most = 0, 0
    for total, part in zip(rest, form, strict=True):
        if not part or total % part:
            continue
        candidate = total // part
        vanished = sum(
            left == candidate * one != 0
            for left, one, extent in zip(rest, form, extents, strict=True)
            if extent > 1
        )
        if vanished > most:
            best, most = candidate, vanished
    return best


def _is_inside(padding: Padding, elements: int) -> bool:
    """Whether all that the copy takes lies in the tensor's row."""
    low = high = padding.base
    reaches = [coefficient * (extent - 1) for _, coefficient, extent in padding.rest]
    for multiple, _, _, start, stop in padding.bounds:
        if start >= stop:
            return True
        low, high = low + multiple * start, high + multiple * start
        reaches.append(multiple * (stop - 1 - start))
    low += sum(min(reach, 0) for reach in reaches)
    high += sum(max(reach, 0) for reach in reaches)
    return low >= 0 and high < elements


def _is_small(padding: Padding, operand: Operand, extents: Sequence[int]) -> bool:
    used = {
        variable for form in (operand.flat, *(b.form for b in operand.bounds)) for variable, _ in form.terms
    }
    read = prod(extents[variable] for variable in used)
    return prod(padding.dims) <= max(_SMALL, _GROWTH * max(read, operand.elements))


def _over(padding: Padding, operand: Operand, extents: tuple[int, ...], bounds: list[Bound]) -> Layout:
    """The affine view of the padded copy."""
    dims = padding.dims
    steps = [prod(dims[axis + 1 :]) for axis in range(len(dims))]
    strides = [0] * len(extents)
    for (variable, _, _), step in zip(padding.rest, steps, strict=False):
        strides[variable] += step
    offset = 0
    for bound, (_, low, *_), step in zip(bounds, padding.bounds, steps[len(padding.rest) :], strict=True):
        offset += (bound.form.base - low) * step
        for variable, coefficient in bound.form.terms:
            strides[variable] += coefficient * step
    return Layout(operand, extents, offset, tuple(strides), padding, may_pad=True)


def is_row_dependent(operand: Operand) -> bool:
    return operand.source is not Source.CONSTANT
