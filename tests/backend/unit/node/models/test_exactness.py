"""What an exact version is held to: root and self-test in the sandbox child, then requests and answers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import orjson
import pytest
from assay.errors import RequestError
from assay.exact.evaluator import memory_per_row
from assay.exact.lowering import lower
from assay.node.engines.runtime import build_session, session_specs
from assay.node.errors import ArtifactRefused
from assay.node.models import exactness
from assay.node.models.exactness import TRACE_BYTES, ExactClaim, ExactTerms, Port, examine, first_difference
from assay.node.models.self_test import parse_self_test
from assay.node.models.validate import SandboxLimits, inspect_artifact, inspect_once
from assay.types import TensorSpec

from tests.support.exact_version import STEPS, ExactVersion, exact_version, row, self_test_of
from tests.support.onnx_models import linear_model

X = (TensorSpec("x", "UINT8", (-1, STEPS)),)
Y = (TensorSpec("y", "INT32", (-1, 3)),)


@pytest.fixture(scope="module")
def version() -> ExactVersion:
    return exact_version()


def refusal(version: ExactVersion, **changes: Any) -> ArtifactRefused:
    """What `examine` refuses; `changes`: artifact, self_test, program_root."""
    artifact = changes.get("artifact", version.artifact)
    root = changes.get("program_root", version.program.root.hex())
    session = build_session(artifact)
    with pytest.raises(ArtifactRefused) as caught:
        examine(
            artifact,
            session,
            session_specs(session)[0],
            root,
            changes.get("self_test") or version.self_test,
        )
    return caught.value


# --- loading ---------------------------------------------------------------------------------------------


def test_inspect_artifact__exact_version__gives_its_terms_and_remembers_them(
    tmp_path: Path, version: ExactVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model"
    path.write_bytes(version.artifact)
    (tmp_path / "self_test").write_bytes(version.self_test)
    claim = ExactClaim(version.program.root, tmp_path / "self_test")
    found = inspect_once(path, limits := SandboxLimits(), claim)
    rows = TRACE_BYTES // memory_per_row(version.program)
    assert 1 < rows < (1 << 32) // STEPS
    assert found.exact == ExactTerms(True, rows, (Port(2, (STEPS,)),), (Port(6, (3,)),))
    monkeypatch.setattr("assay.node.models.validate.inspect_artifact", None)
    assert inspect_once(path, limits, claim) == found
    monkeypatch.setattr("assay.node.models.validate.processor", lambda: "another")
    with pytest.raises(TypeError):
        inspect_once(path, limits, claim)


def test_inspect_artifact__self_test_of_other_outputs__is_refused_in_the_child(
    tmp_path: Path, version: ExactVersion
) -> None:
    path = tmp_path / "model"
    path.write_bytes(version.artifact)
    (tmp_path / "self_test").write_bytes(self_test_of(version.artifact, shift=1))
    with pytest.raises(ArtifactRefused, match="other outputs than the self-test expects") as caught:
        inspect_artifact(path, SandboxLimits(), ExactClaim(version.program.root, tmp_path / "self_test"))
    assert caught.value.code == "self_test_expected"


def test_examine__another_root__names_both(version: ExactVersion) -> None:
    error = refusal(version, program_root="11" * 32)
    assert error.code == "program_root"
    assert "0x" + "11" * 32 in str(error)
    assert "0x" + version.program.root.hex() in str(error)


def test_examine__model_outside_the_profile__names_the_operator(
    version: ExactVersion,
) -> None:
    error = refusal(version, artifact=linear_model())
    assert error.code == "not_exact"
    assert "Gemm" in str(error)


def test_examine__runtime_that_computes_otherwise__names_the_element(
    version: ExactVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a processor whose kernels saturate."""
    true_run = ort.InferenceSession.run

    def saturating(self: ort.InferenceSession, names: Any, feeds: Any, *rest: Any) -> Any:
        (y,) = true_run(self, names, feeds, *rest)
        y = y.copy()
        y[0, 2] -= 1
        return [y]

    monkeypatch.setattr(ort.InferenceSession, "run", saturating)
    error = refusal(version)
    assert error.code == "self_test_runtime"
    assert "output 'y' element 2" in str(error)


def changed(version: ExactVersion, change: Callable[[dict[str, Any]], Any]) -> bytes:
    document = orjson.loads(version.self_test)
    change(document)
    return orjson.dumps(document)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.pop("artifact"),
        lambda d: d.update(artifact="00" * 32),
        lambda d: d.update(vectors=[]),
        lambda d: d.update(vectors=d["vectors"] * 40),
        lambda d: d.update(vectors=5),
        lambda d: d["vectors"][0].pop("output_hash"),
        lambda d: d["vectors"][0].update(input_hash="0x" + "00" * 32),
        lambda d: d["vectors"][0].update(inputs={"z": "00"}, shapes={"z": [1]}),
        lambda d: d["vectors"][0].update(inputs={"x": "0g"}),
        lambda d: d["vectors"][0].update(inputs={"x": 5}),
        lambda d: d["vectors"][0].update(inputs={"x": "00"}),
        lambda d: d["vectors"][0].update(shapes={"x": [-1, 100]}),
        lambda d: d["vectors"][0].update(shapes={"x": [1] * 65}),
        lambda d: d["vectors"][0].update(shapes=[]),
    ],
)
def test_examine__malformed_self_test__is_refused(
    version: ExactVersion, change: Callable[[dict[str, Any]], Any]
) -> None:
    assert refusal(version, self_test=changed(version, change)).code == "self_test"


def test_parse_self_test__not_json__is_refused() -> None:
    with pytest.raises(ArtifactRefused) as caught:
        parse_self_test(b"\xff", hashlib.sha256(b"").hexdigest())
    assert caught.value.code == "self_test"


def test_first_difference__equal_and_not__names_the_first() -> None:
    a, b = np.zeros((2, 2), np.float32), np.zeros((2, 2), np.float32)
    assert first_difference(["y"], [a], [b]) == ""
    b[1, 0] = -0.0  # another bit pattern, another commitment
    assert "element 2" in first_difference(["y"], [a], [b])
    assert "[2, 2]" in first_difference(["y"], [a], [b.reshape(4)])


# --- serving ---------------------------------------------------------------------------------------------


def terms_of(version: ExactVersion, **changes: Any) -> ExactTerms:
    found = ExactTerms.of(version.program)
    return ExactTerms(**{name: getattr(found, name) for name in found.__slots__} | changes)


def test_exact_terms__of_a_program__come_back_from_json(version: ExactVersion) -> None:
    terms = ExactTerms.of(lower(version.artifact))
    assert ExactTerms.from_json(orjson.loads(orjson.dumps(terms.to_json()))) == terms


def test_exact_terms__of_a_program__take_no_more_rows_than_a_trace_has_memory_for(
    version: ExactVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a consumer sends more rows than that, disputes the answer, and wins by the node's silence."""
    per_row = memory_per_row(version.program)
    assert ExactTerms.of(version.program).max_rows == exactness.TRACE_BYTES // per_row
    monkeypatch.setattr(exactness, "TRACE_BYTES", 3 * per_row)
    terms = ExactTerms.of(version.program)
    assert terms.check_inputs(X, [row(rows=3)]) == 3
    with pytest.raises(RequestError, match="at most 3"):
        terms.check_inputs(X, [row(rows=4)])
    monkeypatch.setattr(exactness, "TRACE_BYTES", 1)
    assert ExactTerms.of(version.program).max_rows == 1


def test_check_inputs__rows_that_fit__are_counted(version: ExactVersion) -> None:
    assert terms_of(version).check_inputs(X, [row(rows=3)]) == 3


@pytest.mark.parametrize(
    ("arrays", "changes", "code"),
    [
        ([row(rows=0)], {}, "input_rows"),
        ([row(rows=3)], {"max_rows": 2}, "too_large"),
        ([row()[:, 1:]], {}, "input_shape"),
        ([row()], {"batched": False}, "input_shape"),
    ],
)
def test_check_inputs__rows_that_no_dispute_can_open__are_refused(
    version: ExactVersion, arrays: list[Any], changes: dict[str, Any], code: str
) -> None:
    with pytest.raises(RequestError) as caught:
        terms_of(version, **changes).check_inputs(X, arrays)
    assert caught.value.code == code


def test_check_inputs__two_inputs_of_unequal_rows__are_refused(version: ExactVersion) -> None:
    """ONNX Runtime would broadcast a single row; the program would not."""
    port = Port(2, (STEPS,))
    with pytest.raises(RequestError) as caught:
        terms_of(version, inputs=(port, port)).check_inputs(X * 2, [row(rows=2), row(rows=1)])
    assert caught.value.code == "input_rows"


@pytest.mark.parametrize(
    ("array", "changes", "code"),
    [
        (np.zeros((2, 4), np.int32), {}, "output_shape"),
        (np.zeros((1, 3), np.int32), {}, "output_shape"),
        (np.zeros((2, 3), np.int64), {}, "output_shape"),
        (np.full((2, 3), np.nan, np.float32), {"outputs": (Port(1, (3,)),)}, "output_nan"),
    ],
)
def test_check_outputs__what_no_program_gives__is_not_signed(
    version: ExactVersion, array: Any, changes: dict[str, Any], code: str
) -> None:
    with pytest.raises(RequestError) as caught:
        terms_of(version, **changes).check_outputs(Y, [array], 2)
    assert (caught.value.code, caught.value.status) == (code, 500)


def test_check_outputs__what_the_program_gives__passes(version: ExactVersion) -> None:
    terms_of(version).check_outputs(Y, [np.zeros((2, 3), np.int32)], 2)
    infinite = np.array([[np.inf, -np.inf, 0.0]], np.float32)
    terms_of(version, outputs=(Port(1, (3,)),)).check_outputs(Y, [infinite], 1)


def test_lower_artifact__unsupported__tells_at_most_a_few_findings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exactness, "MAX_FINDINGS", 0)
    with pytest.raises(ArtifactRefused, match="and 1 more"):
        exactness.lower_artifact(linear_model())
