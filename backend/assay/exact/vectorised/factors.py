"""The two factors of a contraction as arrays that BLAS can multiply."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from assay.exact.opcodes import Op
from assay.exact.vectorised.reading import Reader
from assay.exact.vectorised.tree import Leaves, Tree, compute
from assay.exact.vectorised.values import INT64_RANGE, Value, to_ints

MAX_COPY: Final = 1 << 22
"""A factor that must be spread out over all that it depends on has at most so many elements …"""
MAX_SPREAD: Final = 2
"""… or so many times those of its tensors."""


@dataclass(frozen=True)
class Factor:
    """Integers over all axes, not yet laid out; |element| ≤ reach."""

    values: NDArray[Any]
    view: Callable[[NDArray[Any]], NDArray[Any]]
    """The array over all axes, extent 1 where it does not depend on one, of anything shaped as `values`."""
    reach: int

    def laid(self, dtype: np.dtype[Any]) -> NDArray[Any]:
        return self.view(np.ascontiguousarray(self.values, dtype=dtype))

    @property
    def extents(self) -> tuple[int, ...]:
        return self.view(self.values).shape


def read_factor(tree: Tree, root: int, readers: Sequence[Reader], axes: int) -> Factor | None:
    """A node of the tree over all axes; None if it is too large, beyond int64, or not affine.

    If it depends on one tensor alone it is computed on that tensor (or its padded copy) and laid out
    afterwards, so that windows that overlap are not computed anew.
    """
    numbers = sorted(tree.uses(root, Op.OPERAND))
    if tree.uses(root, Op.VAR) or not all(readers[number].layout.is_affine for number in numbers):
        return None
    large = [readers[number] for number in numbers if readers[number].size > 1]
    if len(large) == 1 and large[0].storage.size <= MAX_SPREAD * large[0].size:
        only = large[0]
        return _factor(
            tree,
            root,
            lambda k: readers[k].value(only.storage if readers[k] is only else readers[k].whole.reshape(())),
            only.view,
        )
    spread = sum(reader.size for reader in large)
    if spread > max(MAX_COPY, MAX_SPREAD * sum(reader.tensor.array.size for reader in large)):
        return None
    return _factor(
        tree,
        root,
        lambda k: readers[k].value(readers[k].whole),
        lambda array: array.reshape((1,) * (axes - array.ndim) + array.shape),
    )


def _factor(
    tree: Tree,
    root: int,
    operand: Callable[[int], Value],
    view: Callable[[NDArray[Any]], NDArray[Any]],
) -> Factor | None:
    ints = to_ints(compute(tree, tree.below(root), Leaves(operand, _no_variable)))
    if not ints.within(INT64_RANGE):
        return None
    return Factor(np.ascontiguousarray(ints.array), view, max(abs(ints.low), abs(ints.high)))


def _no_variable(number: int) -> Value:
    raise AssertionError(f"a factor does not depend on loop variable {number}")
