"""The child process that lowers an artifact: `python -m assay.programs.child`.

Reads `{"path", "memory", "cpu_seconds"}` (one JSON line) from standard input, limits itself, and writes a
`Lowering` as one JSON line.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from assay.programs.limits import limit_process
from assay.programs.lowering import Lowering, lowering_of
from assay.types import ProgramOutcome


def lower_file(path: Path) -> Lowering:
    from assay.exact.lowering import check_model

    try:
        return lowering_of(check_model(path.read_bytes()))
    except MemoryError:
        return Lowering(ProgramOutcome.FAILED, reason="lowering it needs more memory than is allowed here")
    except Exception as error:
        reason = f"lowering it failed: {type(error).__name__}: {str(error)[:500]}"
        return Lowering(ProgramOutcome.FAILED, reason=reason)


def main() -> None:
    job = json.loads(sys.stdin.readline())
    limit_process(int(job["memory"]), int(job["cpu_seconds"]))
    sys.stdout.write(json.dumps(lower_file(Path(job["path"])).to_json()) + "\n")


if __name__ == "__main__":
    main()
