"""A version's self-test: made when the model is, confirmed before it is published."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rfc8785

from assay.commitments.tensors import OIP_TO_NUMPY, array_bytes, commit_tensors
from assay.exact.program import Program
from assay.node.engines.runtime import build_session
from assay.node.models.exactness import run_vector
from assay.node.models.self_test import parse_self_test
from assay.node.models.validate import Inspection
from assay.types import Hash32, TensorSpec

ROWS = 4
SEED = 20_240_229
WIDE = 10_000
"""Floats of a self-test go so far on both sides."""
Fill = Callable[[np.random.Generator, TensorSpec], np.ndarray[Any, Any]]


def ensure_self_test(
    path: Path,
    artifact: Path,
    digest: Hash32,
    inspection: Inspection,
    program: Program | None,
    *,
    is_confirmed: bool = True,
) -> bytes:
    """The self-test of this artifact: kept if the file is there and of this artifact, else made. Canonical
    JSON.

    A few rows of inputs with the outputs that this machine computes, so that a node can compare its own. With
    a program the exact evaluator must compute the same if it shall be confirmed. Raises ArtifactRefused
    `self_test…`.
    """
    raw = _kept_self_test(path, digest)
    if raw is None:
        raw = rfc8785.dumps(build_self_test(artifact, digest, inspection, is_exact=program is not None))
    if program is not None and is_confirmed:
        _confirm(raw, artifact, digest, inspection, program)
    path.write_bytes(raw)
    return raw


def _kept_self_test(path: Path, digest: Hash32) -> bytes | None:
    try:
        raw = path.read_bytes()
        return raw if json.loads(raw).get("artifact") == digest.hex() else None
    except (FileNotFoundError, ValueError, AttributeError):
        return None


def _confirm(raw: bytes, artifact: Path, digest: Hash32, inspection: Inspection, program: Program) -> None:
    """Every vector by ONNX Runtime and by the exact evaluator. Raises ArtifactRefused."""
    session = build_session(artifact.read_bytes(), threads=1)
    for number, vector in enumerate(parse_self_test(raw, digest.hex()), start=1):
        run_vector(program, session, inspection.inputs, vector, number)


def build_self_test(
    artifact: Path, digest: Hash32, inspection: Inspection, *, is_exact: bool = False
) -> dict[str, Any]:
    """`{"artifact", "vectors": [{"inputs": {name: hex}, "shapes", "input_hash", "output_hash"}]}`.

    Tensor bytes are little-endian and row-major, in hex. Of an exact model also rows at the ends of the
    inputs' range and across it: where CPU classes differ, they do on such.
    """
    random = np.random.default_rng(SEED)
    session = build_session(artifact.read_bytes(), threads=1)
    fills: list[Fill] = [_random_input] * ROWS
    if is_exact:
        fills += [_lowest_input, _highest_input, *[_wide_input] * ROWS]
    vectors = []
    for fill in fills:
        feeds = {spec.name: fill(random, spec) for spec in inspection.inputs}
        outputs = session.run([spec.name for spec in inspection.outputs], feeds)
        vectors.append(
            {
                "inputs": {name: _hex(array) for name, array in feeds.items()},
                "shapes": {name: list(array.shape) for name, array in feeds.items()},
                "input_hash": "0x" + commit_tensors(feeds.values()).hex(),
                "output_hash": "0x" + commit_tensors(outputs).hex(),
            }
        )
    return {"artifact": digest.hex(), "vectors": vectors}


def _shape(spec: TensorSpec) -> tuple[int, ...]:
    return tuple(1 if dim == -1 else dim for dim in spec.shape)


def _range(spec: TensorSpec) -> tuple[int, int]:
    """The dtype's; of floats one that no 8-bit scale in use reaches."""
    dtype = OIP_TO_NUMPY[spec.dtype]
    if dtype.kind == "f":
        return -WIDE, WIDE
    if dtype.kind == "b":
        return 0, 1
    return int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)


def _lowest_input(random: np.random.Generator, spec: TensorSpec) -> np.ndarray[Any, Any]:
    return np.full(_shape(spec), _range(spec)[0], OIP_TO_NUMPY[spec.dtype])


def _highest_input(random: np.random.Generator, spec: TensorSpec) -> np.ndarray[Any, Any]:
    return np.full(_shape(spec), _range(spec)[1], OIP_TO_NUMPY[spec.dtype])


def _wide_input(random: np.random.Generator, spec: TensorSpec) -> np.ndarray[Any, Any]:
    (low, high), dtype = _range(spec), OIP_TO_NUMPY[spec.dtype]
    if dtype.kind == "f":
        return random.uniform(low, high, _shape(spec)).astype(dtype)
    if dtype.kind == "b":
        return random.integers(0, 2, _shape(spec)).astype(dtype)
    return random.integers(low, high, _shape(spec), dtype, endpoint=True)


def _random_input(random: np.random.Generator, spec: TensorSpec) -> np.ndarray[Any, Any]:
    shape = _shape(spec)
    dtype = OIP_TO_NUMPY[spec.dtype]
    if dtype.kind == "O":
        return np.full(shape, "", dtype=object)
    if dtype.kind == "f":
        return random.random(shape).astype(dtype)
    return random.integers(0, 2, shape).astype(dtype)


def _hex(array: np.ndarray[Any, Any]) -> str:
    return bytes(array_bytes(array)).hex()
