"""Every revert reason in the contracts is hit by a test and names its contract."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SOURCES = sorted([*(ROOT / "contracts").glob("*.vy"), *(ROOT / "contracts" / "modules").glob("*.vy")])
PREFIXES = {
    "DisputeGame": "disputes",
    "ModelRegistry": "models",
    "NodeRegistry": "nodes",
    "Settlement": "settlement",
    "StepVerifier": "steps",
    "channels": "settlement",
    "expressions": "steps",
    "payouts": "disputes",
    "programs": "steps",
    "tensors": "steps",
    "vault": "settlement",
}
REASON = re.compile(r'"([a-z_]+: [^"]+)"')


def all_tests() -> str:
    folder = ROOT / "tests" / "contracts"
    return "\n".join(p.read_text() for p in folder.rglob("test_*.py") if p != Path(__file__))


def reasons(source: Path) -> list[str]:
    return REASON.findall(source.read_text())


def test_reasons__of_every_contract__are_found() -> None:
    assert {path.stem for path in SOURCES if reasons(path)} >= set(PREFIXES)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_reasons__each__is_hit_by_a_test(source: Path) -> None:
    text = all_tests()
    missing = [reason for reason in reasons(source) if f'"{reason}"' not in text]
    assert not missing, f"no test in tests/contracts expects {missing}"


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_reasons__each__names_its_contract(source: Path) -> None:
    for reason in reasons(source):
        assert reason.startswith(PREFIXES[source.stem] + ": ")


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_asserts__each__has_a_reason(source: Path) -> None:
    """An assert ends in a reason on its own line or on one of the next two."""
    lines = source.read_text().splitlines()
    for number, line in enumerate(lines):
        if line.strip().startswith("assert "):
            assert REASON.search(" ".join(lines[number : number + 4])), f"{source.name}:{number + 1}"
