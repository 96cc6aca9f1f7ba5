"""The models that the serving benches run, each built the same on every machine."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import rfc8785
from assay.commitments.identifiers import artifact_digest
from assay.commitments.manifest import Manifest
from assay.commitments.tensors import commit_tensors
from assay.exact.lowering import lower
from assay.exact.program import Program
from assay.node.engines.runtime import session_specs
from assay.types import Hash32
from numpy.typing import NDArray

from scripts.benches.resnet import build_small_resnet
from tests.support.nodes import Network, Published
from tests.support.onnx_models import mlp_model

DIGITS = Path(__file__).resolve().parents[1] / "models" / "digits" / "model.onnx"
MLP_SIZES = (784, 1024, 512, 10)


@dataclass(frozen=True)
class Workload:
    """A model and the row that every request asks for. `program`: what an exact version claims."""

    name: str
    artifact: bytes = field(repr=False)
    row: NDArray[Any] = field(repr=False)
    program: Program | None = field(default=None, repr=False)

    @cached_property
    def session(self) -> ort.InferenceSession:
        """As anybody would open it: ONNX Runtime's default optimisations; one thread."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        return ort.InferenceSession(self.artifact, options, providers=["CPUExecutionProvider"])

    @property
    def input_name(self) -> str:
        return str(self.session.get_inputs()[0].name)

    def run(self, row: NDArray[Any]) -> NDArray[Any]:
        (answer,) = self.session.run(None, {self.input_name: row})
        return np.asarray(answer)

    def publish(self, network: Network, name: str) -> Published:
        """A version of it by account 0; an exact one with its self-test."""
        self_test = b""
        if self.program is not None:
            self_test = self.self_test()
            network.store(self_test)
        digest = artifact_digest(self_test) if self_test else Hash32(bytes(32))
        manifest = Manifest(*session_specs(self.session), "Apache-2.0", Hash32(bytes(32)), digest)
        if self.program is None:
            return network.publish(name, self.artifact, manifest)
        return network.publish(name, self.artifact, manifest, self.program.root)

    def self_test(self) -> bytes:
        """The canonical document of one vector."""
        vector: dict[str, Any] = {
            "inputs": {self.input_name: self.row.tobytes().hex()},
            "shapes": {self.input_name: list(self.row.shape)},
            "input_hash": "0x" + commit_tensors([self.row]).hex(),
            "output_hash": "0x" + commit_tensors([self.run(self.row)]).hex(),
        }
        return rfc8785.dumps({"artifact": artifact_digest(self.artifact).hex(), "vectors": [vector]})


def mlp(sizes: tuple[int, ...] = MLP_SIZES) -> Workload:
    """float32, 1.33 M parameters. Its row's numbers have few digits, so that JSON is no worse than it must
    be."""
    row = np.random.default_rng(0).integers(0, 256, (1, sizes[0])).astype(np.float32) / 256
    return Workload("mlp", mlp_model(sizes), row)


def cnn() -> Workload:
    """int8 in ONNX Runtime's QOperator form, 2.8 M parameters, an exact version."""
    artifact = build_small_resnet()
    row = np.random.default_rng(0).uniform(-4, 4, (1, 3, 32, 32)).astype(np.float32)
    return Workload("cnn", artifact, row, lower(artifact))


def digits() -> Workload:
    """float32, 25 kB."""
    artifact = DIGITS.read_bytes()
    shape = ort.InferenceSession(artifact).get_inputs()[0].shape
    row = np.random.default_rng(0).random((1, *shape[1:]), dtype=np.float32)
    return Workload("digits", artifact, row)


@dataclass(frozen=True)
class Raw:
    """`session.run` of one row in a loop: rows a second, and a row's time in milliseconds."""

    rate: float
    p50: float


def measure_raw(workload: Workload, seconds: float) -> Raw:
    """On the core that this thread is on; no server, no hashing, nothing but the model."""
    session, feeds = workload.session, {workload.input_name: workload.row}
    times = []
    started = last = time.perf_counter()
    while last - started < seconds:
        session.run(None, feeds)
        now = time.perf_counter()
        times.append(now - last)
        last = now
    return Raw(len(times) / (last - started), float(np.median(times)) * 1e3)
