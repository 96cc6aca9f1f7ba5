"""NodeRegistry's guards, proven by halmos for every caller and argument. A minute's work: `--deep` only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.symbolic import ROOT, write_artifacts

HOLDS, REFUTED = 0, 1


@pytest.mark.deep
@pytest.mark.timeout(580)
def test_node_guards__any_caller_any_argument__hold(tmp_path: Path) -> None:
    write_artifacts(tmp_path, "contracts/NodeRegistry.vy", "tests/contracts/proofs/NodeGuards.vy")
    tools = f"{ROOT / 'node_modules' / '.bin'}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.symbolic", str(tmp_path), "NodeGuards"],
        cwd=ROOT,
        env=os.environ | {"PATH": tools},
        capture_output=True,
        text=True,
        timeout=560,
        check=True,
    )
    verdicts = json.loads(done.stdout.splitlines()[-1])
    assert {name.split("(")[0]: code for name, code in verdicts.items()} == {
        "check_guards": HOLDS,
        "check_control": REFUTED,
    }, done.stdout[-3_000:]
