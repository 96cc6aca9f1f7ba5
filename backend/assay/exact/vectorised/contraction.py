"""Sums of products by BLAS: exact, because every partial sum is an integer that the float type holds.

float32 where the sums of magnitudes stay below 2^24 (cut into pieces if that helps), float64 below 2^53,
else int64 modulo 2^64, which is as good for every dtype of at most 64 bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from assay.exact.vectorised.factors import Factor
from assay.exact.vectorised.reading import Block, blocks

FLOAT32_EXACT: Final = 1 << 24
FLOAT64_EXACT: Final = 1 << 53
_MIN_PIECE: Final = 64
"""Shorter pieces cost more than float64."""
_MATRIX: Final = 1 << 19
"""Elements of the copy of one side that is multiplied at a time."""
_MANY_LOOPS: Final = 32
_LITTLE_WORK: Final = 1 << 16
"""Multiply-adds of one product; more than _MANY_LOOPS of less than this are better added up step by step."""

Array = NDArray[Any]


@dataclass(frozen=True)
class Roles:
    """What each axis is to the product; axes of extent 1 are nothing. In order: loops, left, right."""

    loops: tuple[int, ...]
    left: tuple[int, ...]
    right: tuple[int, ...]
    contracted: tuple[int, ...]
    swapped: bool
    """The left side is the second factor."""


@lru_cache(maxsize=1024)
def assign_roles(
    extents: tuple[int, ...], outputs: int, first: tuple[int, ...], second: tuple[int, ...]
) -> Roles | None:
    """Roles such that products come out in the output's order; None if that would make too many small ones.

    `extents` are all axes', the first `outputs` of them the output's; `first` and `second` the factors'.
    """
    contracted = tuple(axis for axis in range(outputs, len(extents)) if extents[axis] > 1)
    if any(first[axis] == 1 or second[axis] == 1 for axis in contracted):
        return None
    axes = [axis for axis in range(outputs) if extents[axis] > 1]
    owners = {axis: (first[axis] > 1, second[axis] > 1) for axis in axes}
    swapped = bool(axes) and owners[axes[-1]] == (True, False)
    right = _trailing(axes, owners, (swapped, not swapped))
    left = _trailing(axes[: len(axes) - len(right)], owners, (not swapped, swapped))
    loops = tuple(axes[: len(axes) - len(left) - len(right)])
    work = prod(extents[axis] for axis in (*left, *right, *contracted))
    if prod(extents[axis] for axis in loops) > _MANY_LOOPS and work < _LITTLE_WORK:
        return None
    return Roles(loops, left, right, contracted, swapped)


def _trailing(
    axes: Sequence[int], owners: dict[int, tuple[bool, bool]], owner: tuple[bool, bool]
) -> tuple[int, ...]:
    start = len(axes)
    while start and owners[axes[start - 1]] == owner:
        start -= 1
    return tuple(axes[start:])


@dataclass(frozen=True)
class Precision:
    """The type to multiply in, and where the contracted axes, flattened, are cut."""

    dtype: np.dtype[Any]
    cuts: tuple[int, ...]


def choose_precision(length: int, reach: int, magnitudes: Array | None) -> tuple[Precision, int]:
    """The cheapest exact one, and a bound of the sums.

    A term's magnitude is at most `reach`, times its entry of `magnitudes` (rows of `length`) if given.
    """
    bound = _bound((0, length), reach, magnitudes)
    least = -(-bound // (FLOAT32_EXACT - 1)) or 1
    for pieces in range(least, 2 * least + 1):
        if pieces > 1 and length < pieces * _MIN_PIECE:
            break
        cuts = tuple(length * piece // pieces for piece in range(pieces + 1))
        if _bound(cuts, reach, magnitudes) < FLOAT32_EXACT:
            return Precision(np.dtype(np.float32), cuts), bound
    dtype = np.float64 if bound < FLOAT64_EXACT else np.int64
    return Precision(np.dtype(dtype), (0, length)), bound


def _bound(cuts: Sequence[int], reach: int, magnitudes: Array | None) -> int:
    """Of the sums between two neighbouring cuts."""
    if magnitudes is None:
        return reach * max(high - low for low, high in pairwise(cuts))
    return reach * int(np.add.reduceat(magnitudes, cuts[:-1], axis=-1).max())


def arranged(factor: Factor, dtype: np.dtype[Any], axes: Sequence[int]) -> Array:
    """The factor with exactly these axes; they are all that it depends on, and some more."""
    laid = factor.laid(dtype)
    others = [axis for axis in range(laid.ndim) if axis not in axes]
    return laid.transpose(*axes, *others).reshape([laid.shape[axis] for axis in axes])


def _part(array: Array, place: Sequence[int | slice]) -> Array:
    """A view of it, also where no axis is left."""
    key: Any = (*place, ...)
    part: Array = array[key]
    return part


@dataclass(frozen=True)
class Side:
    """One factor: the axes loops, free, contracted; contiguous if it is worth keeping."""

    array: Array
    loops: int
    free: int
    """How many axes each."""

    def at(self, index: Sequence[int]) -> Array:
        """The free and contracted axes at one index of the loops."""
        place = tuple(min(one, extent - 1) for one, extent in zip(index, self.array.shape, strict=False))
        return _part(self.array, place)

    def matrix(self, index: Sequence[int], block: Block) -> Array:
        """Free × contracted, of a block of the free axes; a view where the strides allow it."""
        part = _part(self.at(index), block)
        free = prod(part.shape[: self.free])
        return part.reshape(free, -1)

    def transposed(self, index: Sequence[int], block: Block) -> Array:
        """Contracted × free: copied, if it must be, along the free axes."""
        part = _part(self.at(index), block)
        free, contracted = part.shape[: self.free], part.shape[self.free :]
        turned = part.transpose(*range(self.free, part.ndim), *range(self.free))
        return turned.reshape(prod(contracted), prod(free))


def multiply(left: Side, right: Side, precision: Precision, out: Array) -> Iterator[tuple[Array, Array]]:
    """Pairs (part of `out`, sums for it); `out` has the axes loops, left, right, and is contiguous."""
    loops, height = out.shape[: left.loops], out.shape[left.loops : left.loops + left.free]
    width = out.shape[left.loops + left.free :]
    length = precision.cuts[-1]
    limit = max(_MATRIX // max(length, 1), 1)
    taller = prod(height) if left.array.flags.c_contiguous else limit
    for index in np.ndindex(*loops):
        part = _part(out, index)
        for rows in blocks(height, taller):
            upper = left.matrix(index, rows)
            for columns in blocks(width, limit):
                lower = right.transposed(index, columns)
                target = _part(part, (*rows, *columns))
                yield target, _product(upper, lower, precision).reshape(target.shape)


def _product(upper: Array, lower: Array, precision: Precision) -> Array:
    cuts = precision.cuts
    if len(cuts) == 2:
        product: Array = np.matmul(upper, lower)
        return product
    total = np.zeros((upper.shape[0], lower.shape[1]), dtype=np.int64)
    for start, stop in pairwise(cuts):
        np.add(total, np.matmul(upper[:, start:stop], lower[start:stop]), out=total, casting="unsafe")
    return total
