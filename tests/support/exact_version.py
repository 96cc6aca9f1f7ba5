"""A small version of the exact profile for tests: `y = x · w + b` in integers, with its self-test.

version = exact_version(); network.publish_exact("exact", version)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
import rfc8785
from assay.commitments.identifiers import artifact_digest
from assay.commitments.manifest import Manifest
from assay.commitments.tensors import commit_tensors
from assay.exact.lowering import lower
from assay.exact.program import Program
from assay.types import Hash32, TensorSpec
from numpy.typing import NDArray
from onnx import TensorProto, helper

from tests.support.onnx_models import build_model, tensor, value

STEPS = 300
"""Of the product's reduction: more than one segment of the game, each of more than one step."""
OUTPUTS = 3


def exact_model(seed: int = 0) -> bytes:
    """uint8 `x` [rows, 300] → int32 `y` [rows, 3]."""
    weights = np.random.default_rng(seed).integers(0, 64, (STEPS, OUTPUTS), dtype=np.uint8)
    model = build_model(
        [
            helper.make_node("MatMulInteger", ["x", "w"], ["product"], name="product"),
            helper.make_node("Add", ["product", "b"], ["y"], name="sum"),
        ],
        [value("x", ["rows", STEPS], TensorProto.UINT8)],
        [value("y", ["rows", OUTPUTS], TensorProto.INT32)],
        [tensor("w", weights), tensor("b", np.array([1, -2, 3], np.int32))],
    )
    return bytes(model.SerializeToString())


def self_test_of(artifact: bytes, *, shift: int = 0, rows: int = 2) -> bytes:
    """Two vectors with the outputs that ONNX Runtime gives here, `shift` added to every element."""
    session = ort.InferenceSession(artifact, providers=["CPUExecutionProvider"])
    random = np.random.default_rng(1)
    vectors: list[Any] = []
    for x in (random.integers(0, 256, (rows, STEPS), dtype=np.uint8), np.full((rows, STEPS), 255, np.uint8)):
        (y,) = session.run(["y"], {"x": x})
        vectors.append(
            {
                "inputs": {"x": x.tobytes().hex()},
                "shapes": {"x": list(x.shape)},
                "input_hash": "0x" + commit_tensors([x]).hex(),
                "output_hash": "0x" + commit_tensors([y + np.int32(shift)]).hex(),
            }
        )
    return bytes(rfc8785.dumps({"artifact": artifact_digest(artifact).hex(), "vectors": vectors}))


@dataclass(frozen=True)
class ExactVersion:
    artifact: bytes
    self_test: bytes
    program: Program

    @property
    def manifest(self) -> Manifest:
        return Manifest(
            (TensorSpec("x", "UINT8", (-1, STEPS)),),
            (TensorSpec("y", "INT32", (-1, OUTPUTS)),),
            "Apache-2.0",
            Hash32(bytes(32)),
            artifact_digest(self.self_test),
        )

    def run(self, x: NDArray[Any]) -> NDArray[Any]:
        """What it answers."""
        session = ort.InferenceSession(self.artifact, providers=["CPUExecutionProvider"])
        answer: NDArray[Any] = session.run(["y"], {"x": x})[0]
        return answer


def exact_version(*, shift: int = 0) -> ExactVersion:
    """`shift`: of what its self-test expects, from what is true."""
    artifact = exact_model()
    return ExactVersion(artifact, self_test_of(artifact, shift=shift), lower(artifact))


def row(seed: int = 0, rows: int = 1) -> NDArray[np.uint8]:
    """An input."""
    return np.random.default_rng(seed).integers(0, 256, (rows, STEPS), dtype=np.uint8)
