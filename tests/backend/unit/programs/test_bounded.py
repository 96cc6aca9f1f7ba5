"""The limited child that lowers: what it says of models, and how it ends for what misbehaves."""

from __future__ import annotations

from pathlib import Path

import pytest
from assay.exact.lowering import check_model, lower
from assay.programs.bounded import LoweringLimits, lower_bounded
from assay.programs.lowering import Lowering, lowering_of
from assay.types import ProgramOutcome

from tests.support.onnx_models import convolution_model, linear_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(convolution_model())
    return path


def test_lower_bounded__model_of_the_profile__gives_the_root_that_lower_gives(model: Path) -> None:
    found = lower_bounded(model)
    assert (found.outcome, found.root) == (ProgramOutcome.LOWERED, lower(model.read_bytes()).root)


def test_lower_bounded__float_model__names_the_node_and_a_cure(tmp_path: Path) -> None:
    path = tmp_path / "float.onnx"
    path.write_bytes(linear_model())
    found = lower_bounded(path)
    assert (found.outcome, found.root) == (ProgramOutcome.OUTSIDE, None)
    assert [finding.op_type for finding in found.findings] == ["Gemm"] and found.findings[0].cure
    assert found.reason.startswith(str(found.findings[0]))


def test_lower_bounded__no_onnx_file__is_outside(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"not a model")
    assert lower_bounded(path).outcome is ProgramOutcome.OUTSIDE


def test_lower_bounded__no_file__failed_with_the_reason(tmp_path: Path) -> None:
    found = lower_bounded(tmp_path / "nothing")
    assert found.outcome is ProgramOutcome.FAILED and "FileNotFoundError" in found.reason
    assert not found.is_lasting


def test_lower_bounded__too_little_memory__failed(model: Path) -> None:
    with model.open("r+b") as file:
        file.truncate(1 << 30)
    found = lower_bounded(model, LoweringLimits(memory=1 << 30))
    assert found.outcome is ProgramOutcome.FAILED and "memory" in found.reason


def test_lower_bounded__longer_than_the_limit__failed(model: Path) -> None:
    found = lower_bounded(model, LoweringLimits(seconds=0))
    assert found.outcome is ProgramOutcome.FAILED and "more than 0 s" in found.reason


def test_lower_bounded__stopped__ends_the_child_at_once(model: Path) -> None:
    assert lower_bounded(model, should_stop=lambda: True).outcome is ProgramOutcome.FAILED


@pytest.mark.parametrize("artifact", [convolution_model(), linear_model()])
def test_lowering__to_json_and_back__is_the_same(artifact: bytes) -> None:
    found = lowering_of(check_model(artifact))
    assert Lowering.from_json(found.to_json()) == found
