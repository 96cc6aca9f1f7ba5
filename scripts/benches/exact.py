"""Traces against plain onnxruntime: a ResNet-18 of 1.1 G multiply-adds, and the digits network.

Processor time of a process with one thread: ONNX Runtime with one intra-op thread, BLAS with one. One row of
input. The trace is that of a program that was traced before, as a watcher's is; the first has its own row.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from assay.exact.lowering import lower
from assay.exact.trace import run_trace

from scripts.benches.resnet import build_resnet

__all__ = ["build_resnet", "run"]

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "scripts" / "models" / "digits-int8" / "model.onnx"
MOST = 20.0
"""What the trace of the large network may cost, in inferences."""
THREADS = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def build_row(name: str, value: float, unit: str, reference: float | None = None) -> dict[str, Any]:
    ratio = round(value / reference, 3) if reference else None
    return {"name": name, "value": round(value, 3), "unit": unit, "reference": reference, "ratio": ratio}


def milliseconds(call: Callable[[], Any]) -> float:
    started = time.process_time()
    call()
    return (time.process_time() - started) * 1e3


def build_session(artifact: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(artifact, options, providers=["CPUExecutionProvider"])


def measure(name: str, artifact: bytes, rounds: int, bound: float | None) -> list[dict[str, Any]]:
    """The best of `rounds` of each, in turn. Raises AssertionError if their outputs differ."""
    session, program = build_session(artifact), lower(artifact)
    rng = np.random.default_rng(0)
    images = [rng.uniform(-4, 4, (1, *one.dims)).astype(np.float32) for one in program.inputs]
    feed = {one.name: image for one, image in zip(program.inputs, images, strict=True)}
    first = milliseconds(lambda: run_trace(program, images))
    trace = run_trace(program, images)
    for ours, theirs in zip(trace.outputs, session.run(None, feed), strict=True):
        assert ours.tobytes() == theirs.tobytes(), f"{name}: the trace's outputs are not onnxruntime's"
    inferences, traces = [], []
    for _ in range(rounds):
        inferences.append(milliseconds(lambda: session.run(None, feed)))
        traces.append(milliseconds(lambda: run_trace(program, images)))
    return [
        build_row(f"trace_over_inference_{name}", min(traces) / min(inferences), "x", bound),
        build_row(f"trace_{name}_ms", min(traces), "ms"),
        build_row(f"trace_{name}_first_ms", first, "ms"),
        build_row(f"inference_{name}_ms", min(inferences), "ms"),
    ]


def run() -> list[dict[str, Any]]:
    """Rows {name, value, unit, reference, ratio}, measured by a process whose BLAS has one thread."""
    command = [sys.executable, "-m", "scripts.benches.exact"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | THREADS, capture_output=True, check=True)
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


if __name__ == "__main__":
    found = measure("1gmac", build_resnet(), 15, MOST) + measure("digits", DIGITS.read_bytes(), 200, None)
    json.dump(found, sys.stdout, indent=2)
