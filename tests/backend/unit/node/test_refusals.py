"""The table of refusals: complete, the same in SPEC.md, and what an error becomes by it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from assay.errors import FatalError, RequestError
from assay.node.errors import InputError, Unavailable
from assay.node.grpc.statuses import ascii_value, details, trailing_metadata
from assay.node.refusals import REFUSALS, Refusal, answer_error

ROOT = Path(__file__).parents[4]
NODE = ROOT / "backend" / "assay" / "node"
ARTIFACTS = {"ArtifactRefused", "ArtifactError", "problem", "Finding"}
"""What carries a code that no request is answered with."""


def spec_table() -> dict[str, Refusal]:
    lines = iter((ROOT / "contracts" / "SPEC.md").read_text().splitlines())
    for line in lines:
        if line.startswith("| HTTP | code | gRPC |"):
            break
    next(lines)
    found = {}
    for line in lines:
        if not line.startswith("|"):
            return found
        status, code, status_name, reason, cure = (cell.strip() for cell in line.strip("|").split(" | "))
        found[code.strip("`")] = Refusal(int(status), status_name, reason, cure)
    return found


def raised_codes() -> Iterator[tuple[str, str, int]]:
    """Every `code="…"` of a call in the node's modules, with its file and line."""
    for path in sorted(NODE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            for keyword in node.keywords:
                value = keyword.value
                if keyword.arg == "code" and isinstance(value, ast.Constant) and name not in ARTIFACTS:
                    yield str(value.value), path.relative_to(NODE).as_posix(), node.lineno


def test_spec__table_of_refusals__is_the_code_s() -> None:
    assert spec_table() == REFUSALS


def test_refusals__every_code_that_the_node_raises__is_there() -> None:
    raised = list(raised_codes())
    assert len(raised) > 50
    unknown = [where for where in raised if where[0] not in REFUSALS]
    assert unknown == []


@pytest.mark.parametrize("code", sorted(REFUSALS))
def test_refusals__each__has_status_reason_and_cure(code: str) -> None:
    refusal = REFUSALS[code]
    assert 400 <= refusal.status < 600 and grpc.StatusCode[refusal.grpc] is not grpc.StatusCode.OK
    assert refusal.reason and refusal.cure and refusal.cure.isascii()
    assert "|" not in (refusal.reason + refusal.cure).replace(" ‖ ", "")
    assert not refusal.cure.endswith(".")


def test_answer_error__known_code__its_cure_and_grpc_status() -> None:
    answered = answer_error(InputError("x is wrong", code="input_dtype"), "here")
    assert answered.to_json() == {
        "error": "x is wrong",
        "code": "input_dtype",
        "cure": REFUSALS["input_dtype"].cure,
    }
    assert (answered.status, answered.grpc, answered.retry_after) == (400, "INVALID_ARGUMENT", None)


def test_answer_error__own_cure__goes_before_the_code_s() -> None:
    assert answer_error(RequestError("a", code="input_dtype", cure="do b"), "here").cure == "do b"


def test_answer_error__unavailable__says_when_to_come_again() -> None:
    answered = answer_error(Unavailable("later", code="busy", retry_after=7), "here")
    assert (answered.status, answered.grpc, answered.retry_after) == (503, "UNAVAILABLE", 7)
    assert ("retry-after", "7") in trailing_metadata(answered)


def test_answer_error__fatal__not_ready() -> None:
    answered = answer_error(FatalError("secret of the operator"), "here")
    assert (answered.status, answered.code) == (503, "not_ready")
    assert "secret" not in str(answered.to_json())


def test_answer_error__unexpected__internal_and_not_shown() -> None:
    answered = answer_error(ZeroDivisionError("secret of the operator"), "here")
    assert (answered.status, answered.code, answered.grpc) == (500, "internal", "INTERNAL")
    assert "secret" not in str(answered.to_json())


@pytest.mark.parametrize(
    ("status", "name"), [(400, "INVALID_ARGUMENT"), (409, "FAILED_PRECONDITION"), (500, "INTERNAL")]
)
def test_answer_error__code_without_a_row__nearest_grpc_status(status: int, name: str) -> None:
    answered = answer_error(RequestError("a", status=status, code="something_new"), "here")
    assert (answered.status, answered.grpc, answered.cure) == (status, name, "")
    assert details(answered) == "something_new: a."


def test_trailing_metadata__text_beyond_ascii__percent_encoded() -> None:
    assert ascii_value("−1 is ok, 100%") == "%E2%88%921 is ok, 100%25"
    for _, value in trailing_metadata(answer_error(InputError("ö", code="input_size"), "here")):
        assert value.isascii() and value.isprintable()
