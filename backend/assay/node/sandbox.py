"""The child process that is first to parse, load and run an artifact: `python -m assay.node.sandbox`.

Reads `{"path", "memory", "cpu_seconds", "threads", "exact"}` (one JSON line) from standard input, limits
itself, and writes one JSON line: `{"inputs", "outputs", "run_seconds", "exact"}` or `{"error", "code",
"operator", "node"}`. `exact` is null but for exact versions: `{"program_root", "self_test"}` in, terms out.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from assay.programs.limits import limit_process


def inspect(path: Path, threads: int, claim: dict[str, Any] | None = None) -> dict[str, Any]:
    """Check the file, load it, run it once on zeros; examine it, if it is claimed to be exact.

    Raises ArtifactRefused.
    """
    import numpy as np

    from assay.commitments.tensors import OIP_TO_NUMPY
    from assay.node.errors import ArtifactRefused
    from assay.node.rules import check_artifact
    from assay.node.runtime import build_session, session_specs

    data = path.read_bytes()
    check_artifact(data)
    session = build_session(data, threads=threads, is_optimised=claim is None)
    inputs, outputs = session_specs(session)
    feeds: dict[str, Any] = {}
    for spec in inputs:
        shape = tuple(1 if dim == -1 else dim for dim in spec.shape)
        dtype = OIP_TO_NUMPY[spec.dtype]
        feeds[spec.name] = np.full(shape, "", dtype=object) if dtype.kind == "O" else np.zeros(shape, dtype)
    started = time.perf_counter()
    try:
        session.run(None, feeds)
    except Exception as error:
        raise ArtifactRefused(
            f"its first run, on zeros, failed: {str(error)[:300]}", code="run_failed"
        ) from None
    run_seconds = time.perf_counter() - started
    terms = None
    if claim is not None:
        from assay.node.exactness import examine

        terms = examine(data, session, inputs, claim).to_json()
    return {
        "inputs": [[spec.name, spec.dtype, list(spec.shape)] for spec in inputs],
        "outputs": [[spec.name, spec.dtype, list(spec.shape)] for spec in outputs],
        "run_seconds": run_seconds,
        "exact": terms,
    }


def main() -> None:
    job = json.loads(sys.stdin.readline())
    limit_process(int(job["memory"]), int(job["cpu_seconds"]))
    try:
        answer = inspect(Path(job["path"]), int(job["threads"]), job["exact"])
    except MemoryError:
        answer = {"error": "it needs more memory than a model may", "code": "memory"}
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
