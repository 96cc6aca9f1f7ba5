"""The child process that is first to parse, load and run an artifact: `python -m assay.node.models.sandbox`.

Reads `{"path", "memory", "cpu_seconds", "threads", "exact", "runtime"}` (one JSON line) from standard input,
gives up what it could do harm with (`confinement`), and writes one JSON line: `{"inputs", "outputs",
"run_seconds", "memory_bytes", "exact", "obstacle"}` or `{"error", "code", "operator", "node"}`. `exact` is
null but for exact versions: `{"program_root", "self_test"}` in, terms out. `obstacle` is `row_wise`'s.
Without `runtime` the file is checked and lowered, but not run by ONNX Runtime: another server does that.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from assay.node.errors import ArtifactRefused
from assay.node.models.confinement import isolate, lock_down

if TYPE_CHECKING:
    import onnxruntime as ort

    from assay.types import TensorSpec


MAX_OUTPUT: Final = 64 << 20
"""Bytes of all outputs of one row."""
MAX_PASSING: Final = 256 << 20
"""Bytes that loading may take for a while, beyond what is kept and three times the file."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The root that the chain has, in hex, and the self-test's bytes."""

    program_root: str
    self_test: bytes


class ResidentMemory:
    """How much this process holds, and has held at most, read through a file that was opened while that was
    possible."""

    def __init__(self) -> None:
        self._file = os.open("/proc/self/status", os.O_RDONLY) if sys.platform == "linux" else -1

    def now(self) -> int:
        return self._read(b"VmRSS:")

    def peak(self) -> int:
        return self._read(b"VmHWM:")

    def _read(self, name: bytes) -> int:
        found = os.pread(self._file, 8192, 0).partition(name)[2].split() if self._file >= 0 else []
        return int(found[0]) << 10 if found else 0


def inspect(
    data: bytes, threads: int, claim: Claim | None, memory: ResidentMemory, *, runtime: bool
) -> dict[str, Any]:
    """Check the file, load it, run it once on zeros; examine it, if it is claimed to be exact.

    Raises ArtifactRefused.
    """
    from assay.node.engines.row_wise import find_obstacle
    from assay.node.engines.runtime import build_session, session_specs
    from assay.node.models.exactness import examine
    from assay.node.models.rules import check_artifact, graph_specs

    model = check_artifact(data)
    inputs, outputs = graph_specs(model)
    obstacle = find_obstacle(model, threads)
    del model
    session, run_seconds, memory_bytes = None, 0.0, 0
    if runtime:
        before = memory.now()
        session = build_session(data, threads=threads, is_optimised=claim is None)
        inputs, outputs = session_specs(session)
        run_seconds = run_on_zeros(session, inputs)
        memory_bytes = max(memory.now() - before, len(data))
        check_passing(memory.peak() - before, memory_bytes, len(data))
    terms = claim and examine(data, session, inputs, claim.program_root, claim.self_test).to_json()
    return {
        "inputs": [[spec.name, spec.dtype, list(spec.shape)] for spec in inputs],
        "outputs": [[spec.name, spec.dtype, list(spec.shape)] for spec in outputs],
        "run_seconds": run_seconds,
        "memory_bytes": memory_bytes,
        "exact": terms,
        "obstacle": obstacle,
    }


def check_passing(most: int, kept: int, size: int) -> None:
    """Bytes that loading and the first run took at most and that are kept, of a file of `size`: what is
    between them is in nobody's budget when the node loads it. Raises ArtifactRefused `memory`."""
    if most > kept + 3 * size + MAX_PASSING:
        raise ArtifactRefused(
            f"loading it takes {most >> 20} MiB for a while, of which {kept >> 20} MiB are kept; store what "
            f"it computes from constants",
            code="memory",
        )


def run_on_zeros(session: ort.InferenceSession, inputs: tuple[TensorSpec, ...]) -> float:
    """Seconds of one run of one row. Raises ArtifactRefused `run_failed`."""
    import numpy as np

    from assay.commitments.tensors import OIP_TO_NUMPY

    feeds: dict[str, Any] = {}
    for spec in inputs:
        shape = tuple(1 if dim == -1 else dim for dim in spec.shape)
        dtype = OIP_TO_NUMPY[spec.dtype]
        feeds[spec.name] = np.full(shape, "", dtype=object) if dtype.kind == "O" else np.zeros(shape, dtype)
    started = time.perf_counter()
    try:
        outputs = session.run(None, feeds)
    except Exception as error:
        raise ArtifactRefused(
            f"its first run, on zeros, failed: {str(error)[:300]}", code="run_failed"
        ) from None
    seconds = time.perf_counter() - started
    if sum(array.nbytes for array in outputs) > MAX_OUTPUT:
        raise ArtifactRefused(
            f"one row gives more than {MAX_OUTPUT} bytes of outputs; a model that does is not served",
            code="output_size",
        )
    return seconds


def warm_up(memory: ResidentMemory, *, exact: bool) -> None:
    """Inspect a file of our own first: what is imported or opened late is there then, for after `lock_down`
    nothing can be opened."""
    import numpy as np
    from onnx import TensorProto, helper

    from assay.commitments.tensors import commit_tensors
    from assay.node.models.exactness import lower_artifact

    ports = [helper.make_tensor_value_info(name, TensorProto.UINT8, ["rows", 1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Max", ["x", "x"], ["y"])], "warm", ports[:1], ports[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    data: bytes = model.SerializeToString()
    claim = None
    if exact:
        digest = "0x" + commit_tensors([np.zeros((1, 1), np.uint8)]).hex()
        vector = {"inputs": {"x": "00"}, "shapes": {"x": [1, 1]}, "input_hash": digest, "output_hash": digest}
        self_test = {"artifact": hashlib.sha256(data).hexdigest(), "vectors": [vector]}
        claim = Claim(lower_artifact(data).root.hex(), json.dumps(self_test).encode())
    inspect(data, 1, claim, memory, runtime=True)


def main() -> None:
    job = json.loads(sys.stdin.readline())
    data = Path(job["path"]).read_bytes()
    claimed = job["exact"]
    claim = claimed and Claim(claimed["program_root"], Path(claimed["self_test"]).read_bytes())
    memory = ResidentMemory()
    isolated = isolate()
    warm_up(memory, exact=claim is not None)
    lock_down(int(job["memory"]), int(job["cpu_seconds"]), int(job["threads"]), isolated=isolated)
    try:
        answer = inspect(data, int(job["threads"]), claim, memory, runtime=job["runtime"])
    except MemoryError:
        answer = {"error": "it needs more memory than a model may", "code": "memory"}
    except RecursionError:
        answer = {"error": "it is nested deeper than a model may be", "code": "nesting"}
    except Exception as error:
        code = getattr(error, "code", "load_failed")
        answer = {
            "error": str(error)[:2000],
            "code": code if isinstance(code, str) else "load_failed",
            "operator": getattr(error, "operator", ""),
            "node": getattr(error, "node", ""),
        }
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
