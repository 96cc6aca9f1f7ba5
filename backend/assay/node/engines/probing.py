"""Tries whether a model's rows depend on what they are batched with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from assay.commitments.tensors import OIP_TO_NUMPY
from assay.node.engines.batching import join_rows, part_rows
from assay.node.engines.runtime import SessionRunner
from assay.node.errors import RunFailed
from assay.node.oip.protocol import Array
from assay.types import TensorSpec

ROWS: Final = 32
TOLERANCE: Final = 1e-4
"""Relative and absolute, of float outputs, where `max_batch` is the operator's word."""
OPEN_DIM: Final = 3
"""For dimensions of any size, but the first."""


def probe(runner: SessionRunner, max_rows: int, *, exactly: bool) -> str:
    """Why batches are off; empty: every row gave the same alone as in batches of several sizes and orders,
    whatever its neighbours were. `exactly`: bit for bit."""
    random = np.random.default_rng(0)
    for dim in (OPEN_DIM, 1):
        rows = [_random_row(runner.inputs, random, dim) for _ in range(ROWS)]
        try:
            alone = [runner.run(row) for row in rows]
        except RunFailed:
            continue
        return _compare(runner, rows, alone, max_rows, exactly=exactly)
    return "no row of random values was taken, so it could not be tried"


def _compare(
    runner: SessionRunner, rows: list[list[Array]], alone: list[list[Array]], max_rows: int, *, exactly: bool
) -> str:
    for order in _orders(max_rows):
        try:
            outputs = runner.run(join_rows([rows[i] for i in order]))
        except RunFailed as error:
            return f"a batch of {len(order)} rows failed where each row alone did not: {error}"
        parts = part_rows(outputs, [1] * len(order))
        if parts is None:
            return f"a batch of {len(order)} rows gave another number of rows"
        for i, part in zip(order, parts, strict=True):
            if not all(_equal(a, b, exactly) for a, b in zip(part, alone[i], strict=True)):
                return f"a row gave another answer in a batch of {len(order)} than alone" + (
                    ", if only by rounding; max_batch in node.toml allows that" if exactly else ""
                )
    return ""


def _orders(max_rows: int) -> list[list[int]]:
    """Rows of the batches that are tried: growing sizes, each row in several places beside several others."""
    sizes = sorted({size for size in (2, 3, 7, 8, 13, 16, max_rows) if size <= max_rows})
    return [
        [(start + step * i) % ROWS for i in range(size)]
        for start, step, size in zip(range(len(sizes)), (1, 2, 3, 4, 1, 2, 3), sizes, strict=False)
    ]


def _equal(a: Array, b: Array, exactly: bool) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.dtype.kind == "f" and not exactly:
        return bool(np.allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True))
    if a.dtype.kind == "O":
        return bool((a == b).all())
    return a.tobytes() == b.tobytes()


def _random_row(inputs: Sequence[TensorSpec], random: np.random.Generator, dim: int) -> list[Array]:
    """Floats around zero; integers of 0 and 1, which are in range wherever they are indices."""
    arrays: list[Array] = []
    for spec in inputs:
        shape = (1, *(dim if size == -1 else size for size in spec.shape[1:]))
        dtype = OIP_TO_NUMPY[spec.dtype]
        if dtype.kind == "f":
            arrays.append(random.normal(size=shape).astype(dtype))
        elif dtype.kind == "O":
            arrays.append(random.choice(np.array(["a", "b"], dtype=object), size=shape))
        else:
            arrays.append(random.integers(0, 2, size=shape).astype(dtype))
    return arrays
