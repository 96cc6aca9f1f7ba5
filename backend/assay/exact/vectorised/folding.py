"""One run of one kernel, block by block: element by element, added up, extremes, or step by step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from assay.exact.instructions import range_of, wrap
from assay.exact.opcodes import Op
from assay.exact.program import Kernel
from assay.exact.step import loop_variables
from assay.exact.vectorised.reading import Block, Reader, axis_values, blocks
from assay.exact.vectorised.tree import Fold, Leaves, Tree, compute
from assay.exact.vectorised.values import (
    STORAGE,
    Bounds,
    Ints,
    Value,
    bits_of,
    bounds_of,
    dtype_bounds,
    scalar,
    stored,
    to_ints,
    value_of,
    wrapped,
)

_BLOCK: Final = 1 << 16
"""Elements computed at a time, so that the arrays of an expression stay in the processor's cache."""
_FEW_STEPS: Final = 64
_MANY_ELEMENTS: Final = 1 << 10
INT64: Final = 7

Array = NDArray[Any]


class _Here:
    """Operands and loop variables in one block. No closures: they would keep arrays alive in a cycle."""

    def __init__(self, readers: Sequence[Reader], block: Block) -> None:
        self._readers, self._block = readers, block
        self._known: dict[int, Value] = {}

    def operand(self, number: int) -> Value:
        if number not in self._known:
            self._known[number] = self._readers[number].read(self._block, self.operand)
        return self._known[number]

    def variable(self, number: int) -> Value:
        extent = self._block[number + 1]
        return Ints(axis_values(self._block, number + 1), extent.start, extent.stop - 1)


class Folding:
    """Computes a kernel's tensor over all rows."""

    def __init__(self, kernel: Kernel, tree: Tree, fold: Fold, readers: Sequence[Reader], rows: int) -> None:
        self.kernel, self.tree, self.fold, self.readers = kernel, tree, fold, readers
        self.outputs = (rows, *kernel.domain)
        self.bounds: Bounds | None = None

    def result(self) -> tuple[Array, Bounds]:
        """The tensor, flat, and its bounds."""
        out = np.empty(self.outputs, dtype=STORAGE[self.kernel.dtype])
        if self.kernel.steps == 1:
            self._by_step(out)
        elif self.fold.op is Op.ADD:
            self._added_up(out)
        elif self.fold.op is None or not self._extremes(out):
            self._by_step(out)
        return out.reshape(-1), self.bounds or dtype_bounds(self.kernel.dtype)

    def leaves(self, block: Block, accumulator: Value | None = None) -> Leaves:
        """What the expression reads in a block of all axes."""
        here = _Here(self.readers, block)
        return Leaves(here.operand, here.variable, accumulator)

    def _known(self, bounds: Bounds) -> None:
        self.bounds = bounds if self.bounds is None else self.bounds.union(bounds)

    def _steps(self) -> Iterator[Block]:
        return blocks(self.kernel.reduction, 1)

    def _by_step(self, out: Array) -> None:
        """Every step of a block of elements after the other, from the accumulators of the one before."""
        order, dtype = self.tree.below(self.tree.root), self.kernel.dtype
        for part in blocks(self.outputs, _BLOCK):
            value: Value = scalar(self.kernel.init)
            for number, step in enumerate(self._steps()):
                if number:
                    value = value_of(stored(value, dtype), dtype, bounds_of(value, dtype))
                value = compute(self.tree, order, self.leaves((*part, *step), value))
            self._known(bounds_of(value, dtype))
            array = bits_of(value, dtype)
            out[part] = array.reshape(array.shape[: out.ndim])

    def _term(self, leaves: Leaves) -> Ints:
        """What a step adds, modulo 2^64 as int64."""
        total: Ints | None = None
        for nodes, sign in ((self.fold.plus, 1), (self.fold.minus, -1)):
            for node in nodes:
                value = to_ints(compute(self.tree, self.tree.below(node), leaves))
                value = wrapped(value, INT64)
                array = value.array.astype(np.int64) * np.int64(sign)
                low, high = sorted((sign * value.low, sign * value.high))
                total = (
                    Ints(array, low, high)
                    if total is None
                    else Ints(total.array + array, total.low + low, total.high + high)
                )
        return total or scalar(0)

    def _is_stepwise(self) -> bool:
        return self.kernel.steps <= _FEW_STEPS and prod(self.outputs) >= _MANY_ELEMENTS

    def _pieces(self) -> list[tuple[Block, Block]]:
        """Blocks of elements and of steps that are computed at a time."""
        if self._is_stepwise():
            return [(part, step) for part in blocks(self.outputs, _BLOCK) for step in self._steps()]
        split = len(self.outputs)
        return [
            (block[:split], block[split:])
            for block in blocks((*self.outputs, *self.kernel.reduction), _BLOCK)
        ]

    def _reduced(self, array: Array, part: Block, step: Block, reduce: Callable[..., Array]) -> Array:
        """Over the reduction's axes, whether the term depends on them or not."""
        shape = tuple(one.stop - one.start for one in (*part, *step))
        axes = tuple(range(len(part), len(shape)))
        return reduce(np.broadcast_to(array, shape), axis=axes)

    def _added_up(self, out: Array) -> None:
        total = np.full(out.shape, self.kernel.init, dtype=np.int64)
        low = high = 0
        for part, step in self._pieces():
            term = self._term(self.leaves((*part, *step)))
            total[part] += self._reduced(term.array, part, step, np.add.reduce)
            low, high = min(low, term.low), max(high, term.high)
        out[...] = total
        steps, init = self.kernel.steps, self.kernel.init
        least, most = range_of(self.kernel.dtype)
        if least <= steps * low + init and steps * high + init <= most:
            self._known(bounds_of(Ints(total, steps * low + init, steps * high + init), self.kernel.dtype))

    def _extremes(self, out: Array) -> bool:
        """False if a term is outside the dtype, so that the accumulator wraps at each step."""
        inside = range_of(self.kernel.dtype)
        if not inside[0] <= self.kernel.init <= inside[1]:
            return False
        ufunc = self._extreme()
        out[...] = self.kernel.init
        (node,) = self.fold.plus
        order = self.tree.below(node)
        for part, step in self._pieces():
            term = to_ints(compute(self.tree, order, self.leaves((*part, *step))))
            if not term.within(inside):
                return False
            array = self._reduced(term.array.astype(out.dtype, copy=False), part, step, ufunc.reduce)
            out[part] = ufunc(out[part], array)
            self._known(Bounds(min(term.low, self.kernel.init), max(term.high, self.kernel.init)))
        return True

    def accumulators(self, row: int, element: int, steps: Sequence[int]) -> list[int] | None:
        """Of one element of the row after each of the ascending numbers of steps; None: go step by step."""
        place = loop_variables(self.kernel, element, 0)[: len(self.kernel.domain)]
        part = tuple(slice(one, one + 1) for one in (row, *place))
        found, acc, done = {0: self.kernel.init}, self.kernel.init, 0
        for step in blocks(self.kernel.reduction, _BLOCK):
            if done >= max(steps, default=0):
                break
            series = self._series(part, step, acc)
            if series is None:
                return None
            for count in steps:
                if done < count <= done + series.size:
                    found[count] = wrap(int(series[count - done - 1]), self.kernel.dtype)
            done, acc = done + series.size, int(series[-1])
        return [found[count] for count in steps]

    def _series(self, part: Block, step: Block, acc: int) -> Array | None:
        """The accumulators after each of the steps, modulo 2^64; None if an extreme wraps."""
        leaves, shape = self.leaves((*part, *step)), tuple(one.stop - one.start for one in (*part, *step))
        if self.fold.op is Op.ADD:
            terms = np.broadcast_to(self._term(leaves).array, shape)
            sums: Array = np.cumsum(terms, dtype=np.int64) + np.int64(acc)
            return sums
        inside = range_of(self.kernel.dtype)
        (node,) = self.fold.plus
        term = to_ints(compute(self.tree, self.tree.below(node), leaves))
        if not term.within(inside) or not inside[0] <= acc <= inside[1]:
            return None
        terms = np.broadcast_to(term.array.astype(STORAGE[self.kernel.dtype]), shape).reshape(-1)
        ufunc = self._extreme()
        extremes: Array = ufunc.accumulate(ufunc(terms, terms.dtype.type(acc)))
        return extremes

    def _extreme(self) -> np.ufunc:
        return np.minimum if self.fold.op is Op.MIN else np.maximum
