"""The operator's bearer token."""

import stat
from pathlib import Path

import pytest
from assay.errors import ConfigurationError
from assay.node.errors import OperatorOnly
from assay.node.operator_token import FILE, OperatorToken, load_token


def test_load_token__no_file__made_for_its_owner_alone_and_kept(tmp_path: Path) -> None:
    token = load_token(tmp_path)
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600
    assert len(token.value) >= 40
    assert load_token(tmp_path) == token


def test_load_token__another_folder__another_token(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert load_token(tmp_path / "a") != load_token(tmp_path / "b")


@pytest.mark.parametrize("content", ["", "short\n", "\x00\xff"])
def test_load_token__file_without_a_token__refused(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigurationError, match="delete it"):
        load_token(tmp_path)


@pytest.mark.parametrize(
    "value", [None, "", "secret-secret-secret", "Basic secret-secret-secret", "Bearer ", "Bearer"]
)
def test_check__no_bearer_token__unauthorised(value: str | None) -> None:
    with pytest.raises(OperatorOnly) as caught:
        OperatorToken("secret-secret-secret").check(value, "this")
    assert (caught.value.status, caught.value.code) == (401, "operator_token")


@pytest.mark.parametrize("value", ["Bearer secret", "Bearer secret-secret-secret2", "bearer ö"])
def test_check__another_token__forbidden(value: str) -> None:
    with pytest.raises(OperatorOnly) as caught:
        OperatorToken("secret-secret-secret").check(value, "this")
    assert (caught.value.status, caught.value.code) == (403, "operator_denied")


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_check__the_token__passes(scheme: str) -> None:
    OperatorToken("secret-secret-secret").check(f"{scheme} secret-secret-secret", "this")


def test_operator_token__repr__shows_nothing() -> None:
    assert "secret" not in repr(OperatorToken("secret-secret-secret"))
