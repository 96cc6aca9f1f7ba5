"""Several requests in one run: which may run together, their rows joined, the answers parted. Pure."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from math import prod
from typing import Any, Final

import numpy as np

from assay.commitments.tensors import CHUNK_BYTES, MAX_RANK, commit_tensors, onnx_dtype, tensor_header
from assay.node.oip.protocol import Array
from assay.types import Hash32, TensorSpec

AUTOMATIC_ROWS: Final = 32
"""More rows in a run gain little (see decisions) and make those in front wait."""
MAX_HEADS: Final = 4096
_HEADS: dict[tuple[str, tuple[int, ...]], bytes] = {}


@dataclass(frozen=True, slots=True)
class Batching:
    """`max_rows` 1: every request runs alone, and `reason` says why; `retry_at`, in UNIX time, when batches
    are tried again, None: not before the version is loaded anew."""

    max_rows: int
    reason: str = ""
    retry_at: float | None = None

    def __str__(self) -> str:
        if self.max_rows > 1:
            return f"up to {self.max_rows} rows"
        if self.retry_at is None:
            return f"off: {self.reason}"
        until = datetime.fromtimestamp(self.retry_at, UTC).strftime("%H:%M:%S UTC")
        return f"off until {until}: {self.reason}"

    def to_json(self) -> dict[str, Any]:
        retry_at = None if self.retry_at is None else round(self.retry_at)
        return {"max_rows": self.max_rows, "reason": self.reason, "retry_at": retry_at}


def row_count(inputs: Sequence[Array]) -> int:
    """Rows of a request whose inputs all have the same first dimension; 0: they have not."""
    shape = inputs[0].shape
    rows = shape[0] if shape else 0
    for array in inputs[1:]:
        if array.shape[:1] != (rows,):
            return 0
    return rows


def batch_key(inputs: Sequence[Array]) -> tuple[tuple[int, ...], ...]:
    """What two requests must have in common to run together: all dims but the first."""
    return tuple([array.shape[1:] for array in inputs])


def join_rows(requests: Sequence[Sequence[Array]]) -> list[Array]:
    """Each input of all requests under one another."""
    if len(requests) == 1:
        return list(requests[0])
    return [np.concatenate(arrays) for arrays in zip(*requests, strict=True)]


def part_rows(outputs: Sequence[Array], counts: Sequence[int]) -> list[tuple[Array, ...]] | None:
    """The outputs of each request, as views; None if an output has not a row for each row that went in."""
    total = sum(counts)
    if any(not array.ndim or array.shape[0] != total for array in outputs):
        return None
    parts, start = [], 0
    for count in counts:
        parts.append(tuple([array[start : start + count] for array in outputs]))
        start += count
    return parts


def has_dynamic_rows(specs: Sequence[TensorSpec]) -> bool:
    return all(spec.shape and spec.shape[0] == -1 for spec in specs)


def hash_outputs(outputs: Sequence[Array]) -> Hash32:
    """`commit_tensors`, faster for the small tensors that most answers are."""
    commitments = b""
    for array in outputs:
        dtype = array.dtype
        head = _HEADS.get((dtype.char, array.shape)) or _head(dtype, array.shape)
        if not head or not dtype.isnative:
            return commit_tensors(outputs)
        chunk = sha256(b"\x00" + array.tobytes()).digest()
        commitments += sha256(head + chunk).digest()
    return Hash32(sha256(b"\x03" + commitments).digest())


def _head(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """The head of a tensor's commitment, as `commitments.tensors` writes it; empty: it is not of numbers, or
    of more than one chunk."""
    size = prod(shape) * dtype.itemsize
    if dtype.kind not in "fiu" or len(shape) > MAX_RANK or size > CHUNK_BYTES or sys.byteorder != "little":
        return b""
    head = tensor_header(onnx_dtype(dtype), shape)
    if len(_HEADS) < MAX_HEADS:
        _HEADS[dtype.char, shape] = head
    return head
