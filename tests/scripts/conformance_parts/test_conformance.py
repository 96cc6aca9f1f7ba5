"""`scripts/conformance`: its set covers every operator, this machine agrees with itself, absence is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from assay.exact.lowering.registry import REGISTRY

from scripts.conformance_parts import cpus
from scripts.conformance_parts.__main__ import build_table, compare, run
from scripts.conformance_parts.arm64 import NotRun, Root
from scripts.conformance_parts.cases import NO_CASES, build_cases, write_cases
from scripts.conformance_parts.measure import describe_machine, measure_case

NATIVE = {"cases": {"a": {"program_root": "1", "evaluator": "2", "onnxruntime": "2"}}}


@pytest.fixture(scope="module")
def cases() -> list[Any]:
    return list(build_cases())


def test_build_cases__all__cover_every_operator(cases: list[Any]) -> None:
    covered = {
        (node.domain, node.op_type)
        for _, artifact, _ in cases
        for node in onnx.ModelProto.FromString(artifact).graph.node
    }
    assert REGISTRY.keys() - covered == NO_CASES
    assert len({name for name, _, _ in cases}) == len(cases)


def test_write_cases__all__are_on_disk(cases: list[Any], tmp_path: Path) -> None:
    """It raises if an operator has none."""
    assert write_cases(tmp_path) == len(cases) == len(list(tmp_path.glob("*.npz")))


def test_build_cases__twice__same_bytes(cases: list[Any]) -> None:
    for (name, artifact, feeds), (other, bytes_, values) in zip(
        cases[::10], list(build_cases())[::10], strict=True
    ):
        assert (name, artifact) == (other, bytes_)
        assert all(np.array_equal(feeds[one], values[one]) for one in feeds)


def test_measure_case__this_machine__every_way_gives_the_same(cases: list[Any]) -> None:
    for _, artifact, feeds in cases[::7]:
        found = measure_case(artifact, feeds)
        outputs = {value for way, value in found.items() if not way.endswith("_root")}
        assert len(outputs) == 1
        assert {len(value) for value in found.values()} == {64}


def test_compare__other_trace__named() -> None:
    other = {"cases": {"a": {"program_root": "9", "evaluator": "2", "onnxruntime": "2"}}}
    assert compare(NATIVE, NATIVE) == []
    assert compare(other, NATIVE) == ["a: program_root differ from the native run"]


def test_compare__ways_apart__named() -> None:
    apart = {"cases": {"a": {"program_root": "1", "evaluator": "2", "onnxruntime": "3"}}}
    assert compare(apart, apart) == ["a: evaluator, onnxruntime are not equal to each other"]
    assert len(compare(apart, NATIVE)) == 2


def test_run__no_emulator__says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cpus.shutil, "which", lambda name: None)
    for cpu in cpus.CPUS[1:]:
        result = run(cpu, tmp_path)
        assert "apt-get install qemu-user" in result["not_run"]
        assert result.keys() == {"not_run"}
        columns = build_table({cpu.name: result}, {cpu.name: []}, 1).columns
        assert "not run" in [next(iter(column.cells)) for column in columns]


def test_prepare__no_apt__says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("scripts.conformance_parts.arm64.shutil.which", lambda name: None)
    with pytest.raises(NotRun, match="no apt-get here"):
        Root(tmp_path / "arm64").prepare()


def test_describe_machine__here__names_versions_and_features() -> None:
    machine = describe_machine()
    assert machine["features"]
    assert machine["onnxruntime"].count(".") == 2
