"""The same file lowers to the same root, whatever the process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
from assay.exact.lowering import lower

from tests.support.exact_models import DIGITS, random_case

VECTORS = Path(__file__).parents[4] / "vectors" / "programs.json"
DIGITS_VECTOR = json.loads(VECTORS.read_bytes())["programs"][0]
DIGITS_ROOT = DIGITS_VECTOR["program_root"].removeprefix("0x")
PROGRAM = """
import sys
from assay.exact.lowering import lower
print(lower(sys.stdin.buffer.read()).root.hex())
"""


def _root_elsewhere(artifact: bytes, seed: str) -> str:
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=artifact,
        capture_output=True,
        check=True,
        env=os.environ | {"PYTHONHASHSEED": seed},
    )
    return found.stdout.decode().strip()


def test_lower__digits__is_the_golden_program() -> None:
    artifact = DIGITS.read_bytes()
    program = lower(artifact)
    assert "0x" + sha256(artifact).hexdigest() == DIGITS_VECTOR["artifact"]
    assert ["0x" + record.hex() for record in program.records] == DIGITS_VECTOR["records"]
    assert program.root.hex() == DIGITS_ROOT


@pytest.mark.parametrize("seed", ["0", "1", "4242"])
def test_lower__other_processes_and_hash_seeds__give_the_same_root(seed: str) -> None:
    assert _root_elsewhere(DIGITS.read_bytes(), seed) == DIGITS_ROOT


@pytest.mark.parametrize("operator", ["QLinearConv", "QLinearConcat", "QLinearSigmoid"])
def test_lower__twice__gives_the_same_records(operator: str) -> None:
    artifact = random_case(operator, 2).artifact
    first, second = lower(artifact), lower(artifact)
    assert first.records == second.records
    assert list(first.constants) == list(second.constants)
