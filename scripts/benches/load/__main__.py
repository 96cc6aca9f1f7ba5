"""`python -m scripts.benches.load PLAN RESULT`: run the plan pickled in PLAN, pickle its load into RESULT."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

from scripts.benches.load.loops import run


def main(plan: Path, result: Path) -> None:
    result.write_bytes(pickle.dumps(run(pickle.loads(plan.read_bytes()))))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
