"""Kernels and elements step by step, for what is not vectorised."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.exact.program import Kernel
from assay.exact.step import run_step
from assay.exact.vectorised.values import STORAGE


def accumulators(
    kernel: Kernel, arrays: Sequence[NDArray[Any]], row: int, element: int, steps: Iterable[int]
) -> list[int]:
    """The accumulator of an element of the row after each of the ascending numbers of steps.

    `arrays` are the operands' tensors over all rows, flat.
    """
    found, acc, done = [], kernel.init, 0
    for count in steps:
        for step in range(done, count):
            acc = run_step(kernel, row, element, step, acc, lambda k, at: int(arrays[k][at]))
        done = count
        found.append(acc)
    return found


def run(kernel: Kernel, arrays: Sequence[NDArray[Any]], rows: int) -> NDArray[Any]:
    """All elements over all rows, flat."""
    out = np.empty(rows * kernel.elements, dtype=STORAGE[kernel.dtype])
    for at in range(out.size):
        row, element = divmod(at, kernel.elements)
        out[at] = accumulators(kernel, arrays, row, element, [kernel.steps])[0]
    return out
