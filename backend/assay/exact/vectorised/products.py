"""`acc + left · right` as matrix products, where a kernel is one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.exact.opcodes import Op
from assay.exact.program import Kernel, Source
from assay.exact.vectorised.contraction import (
    Precision,
    Roles,
    Side,
    arranged,
    assign_roles,
    choose_precision,
    multiply,
)
from assay.exact.vectorised.factors import Factor, read_factor
from assay.exact.vectorised.reading import Reader
from assay.exact.vectorised.tree import Fold, Tree
from assay.exact.vectorised.values import INT32_RANGE, STORAGE, Bounds, dtype_bounds

Array = NDArray[Any]


@dataclass
class Product:
    """A kernel that adds up products of two factors; remembers what its constant factors become."""

    kernel: Kernel
    tree: Tree
    factors: tuple[int, int]
    constant: tuple[bool, bool]
    _read: dict[int, Factor | None] = field(default_factory=dict)
    _sides: dict[tuple[int, Roles, str], Side] = field(default_factory=dict)
    _precisions: dict[tuple[Roles, int], tuple[Precision, int]] = field(default_factory=dict)

    @classmethod
    def of(cls, kernel: Kernel, tree: Tree, fold: Fold) -> Product | None:
        """None if the kernel is no fold of one product."""
        if kernel.steps == 1 or fold.op is not Op.ADD or fold.minus or len(fold.plus) != 1:
            return None
        node = tree.nodes[fold.plus[0]]
        if node.op is not Op.MUL:
            return None
        left, right = node.arguments
        constant = [
            all(kernel.operands[k].source is Source.CONSTANT for k in tree.uses(one, Op.OPERAND))
            for one in (left, right)
        ]
        return cls(kernel, tree, (left, right), (constant[0], constant[1]))

    def run(self, readers: Sequence[Reader], rows: int) -> tuple[Array, Bounds] | None:
        """The tensor, flat, and its bounds; None if products do not suit it."""
        kernel = self.kernel
        first, second = (self._factor(which, readers) for which in (0, 1))
        if first is None or second is None:
            return None
        extents = (rows, *kernel.domain, *kernel.reduction)
        outputs = 1 + len(kernel.domain)
        roles = assign_roles(extents, outputs, first.extents, second.extents)
        if roles is None:
            return None
        precision, bound = self._precision(roles, (first, second), prod(kernel.reduction))
        sides = [self._side(which, factor, roles, precision) for which, factor in enumerate((first, second))]
        if roles.swapped:
            sides.reverse()
        out = np.empty(rows * kernel.elements, dtype=STORAGE[kernel.dtype])
        shaped = out.reshape([extents[axis] for axis in (*roles.loops, *roles.left, *roles.right)])
        bound += abs(kernel.init)
        for part, sums in multiply(sides[0], sides[1], precision, shaped):
            self._store(part, sums, bound)
        inside = dtype_bounds(kernel.dtype)
        fits = inside.low <= -bound and bound <= inside.high
        return out, Bounds(-bound, bound) if fits else inside

    def _store(self, part: Array, sums: Array, bound: int) -> None:
        """Adds the initial accumulator; numpy's casts between integers reduce to the kernel's dtype."""
        if self.kernel.init or bound > INT32_RANGE[1] or part.dtype.itemsize < 4 or part.dtype.kind == "u":
            sums = sums.astype(np.int64) + np.int64(self.kernel.init)
        part[...] = sums

    def _factor(self, which: int, readers: Sequence[Reader]) -> Factor | None:
        if which in self._read:
            return self._read[which]
        axes = 1 + len(self.kernel.domain) + len(self.kernel.reduction)
        factor = read_factor(self.tree, self.factors[which], readers, axes)
        if self.constant[which]:
            self._read[which] = factor
        return factor

    def _side(self, which: int, factor: Factor, roles: Roles, precision: Precision) -> Side:
        key = (which, roles, precision.dtype.str)
        if key in self._sides:
            return self._sides[key]
        free = roles.left if (which == 1) == roles.swapped else roles.right
        array = arranged(factor, precision.dtype, (*roles.loops, *free, *roles.contracted))
        if self.constant[which]:
            array = np.ascontiguousarray(array)
        side = Side(array, len(roles.loops), len(free))
        if self.constant[which]:
            self._sides[key] = side
        return side

    def _precision(self, roles: Roles, factors: Sequence[Factor], length: int) -> tuple[Precision, int]:
        """By the sums of a constant factor's magnitudes, if there is one."""
        reach = factors[0].reach * factors[1].reach
        known = [which for which in (0, 1) if self.constant[which]]
        if not known:
            return choose_precision(length, reach, None)
        which = known[-1]
        reach = factors[1 - which].reach
        if (roles, reach) not in self._precisions:
            axes = [axis for axis in range(len(factors[which].extents)) if axis not in roles.contracted]
            laid = arranged(factors[which], np.dtype(np.int64), (*axes, *roles.contracted))
            magnitudes = np.abs(laid).reshape(-1, length)
            self._precisions[roles, reach] = choose_precision(length, reach, magnitudes)
        return self._precisions[roles, reach]
