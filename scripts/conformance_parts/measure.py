"""Run in every CPU class: a folder of cases through onnxruntime and the evaluator, as JSON of hashes.

    python -m scripts.conformance_parts.measure FOLDER

Needs numpy, onnx, onnxruntime and `backend/` on the path, and nothing else: emulated machines have no more.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from assay.commitments.tensors import commit_tensors
from assay.exact.lowering import lower
from assay.exact.trace import run_trace
from numpy.typing import NDArray

Array = NDArray[Any]


def main(folder: Path) -> None:
    cases = {}
    for path in sorted(folder.glob("*.onnx")):
        begun = time.monotonic()
        with np.load(path.with_suffix(".npz")) as stored:
            feeds = {name: stored[name] for name in stored.files}
        cases[path.stem] = measure_case(path.read_bytes(), feeds)
        print(f"{path.stem} {time.monotonic() - begun:.1f} s", file=sys.stderr, flush=True)
    print(json.dumps({"machine": describe_machine(), "cases": cases}))


def measure_case(artifact: bytes, feeds: Mapping[str, Array]) -> dict[str, str]:
    """Roots of program and trace, and the hash of the outputs by each way of computing them."""
    program = lower(artifact)
    trace = run_trace(program, [feeds[one.name] for one in program.inputs])
    found = {
        "program_root": bytes(program.root).hex(),
        "trace_root": bytes(trace.root).hex(),
        "evaluator": hash_outputs(trace.outputs),
        "onnxruntime": hash_outputs(run_onnxruntime(artifact, feeds, optimised=True)),
        "onnxruntime_unoptimised": hash_outputs(run_onnxruntime(artifact, feeds, optimised=False)),
    }
    if program.batched:
        found["onnxruntime_row_by_row"] = hash_outputs(run_rows(artifact, feeds))
    return found


def run_onnxruntime(artifact: bytes, feeds: Mapping[str, Array], *, optimised: bool) -> list[Array]:
    return run_session(start_session(artifact, optimised=optimised), feeds)


def run_rows(artifact: bytes, feeds: Mapping[str, Array]) -> list[Array]:
    """Every row in a request of its own."""
    session = start_session(artifact, optimised=True)
    rows = len(next(iter(feeds.values())))
    parts = [
        run_session(session, {name: array[row : row + 1] for name, array in feeds.items()})
        for row in range(rows)
    ]
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


def start_session(artifact: bytes, *, optimised: bool) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimised else level.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(artifact, options, providers=["CPUExecutionProvider"])


def run_session(session: Any, feeds: Mapping[str, Array]) -> list[Array]:
    outputs: list[Array] = session.run(None, dict(feeds))
    return outputs


def hash_outputs(outputs: Any) -> str:
    """`output_hash` of SPEC.md §2."""
    return bytes(commit_tensors(outputs)).hex()


def describe_machine() -> dict[str, Any]:
    """What the process sees: numpy reads the CPU's features from the CPU itself, emulated or not."""
    features: Mapping[str, bool] = np.core._multiarray_umath.__cpu_features__
    return {
        "architecture": platform.machine(),
        "features": sorted(name for name, there in features.items() if there),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
