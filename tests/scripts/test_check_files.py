from __future__ import annotations

from pathlib import Path

import pytest

from scripts.lib.check_files import problems


def found(path: Path) -> list[tuple[int, str]]:
    return list(problems(path))


@pytest.mark.parametrize(
    ("name", "content", "line", "what"),
    [
        ("a.py", "x = 1", 1, "does not end with a newline"),
        ("a.py", "x = 1 \n", 1, "ends with white space"),
        ("a.py", "x = 1\r\n", 1, "carriage return"),
        ("a.md", "a\n" + "<" * 7 + " HEAD\n", 2, "conflict marker"),
        ("a.md", "see " + "/" + "root/x\n", 1, "path of one machine"),
        ("a.json", "{\n", 0, "does not parse"),
        ("a.toml", "a =\n", 0, "does not parse"),
        ("requirements.txt", "--index-url https" + "://pypi.example/simple\n", 1, "names a host"),
        ("a.txt", "a" * 1_000_000 + "\n", 0, "bytes, more than"),
    ],
)
def test_problems__one_broken_rule__is_named_with_its_line(
    tmp_path: Path, name: str, content: str, line: int, what: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content.encode())
    [(at, message)] = found(path)
    assert at == line
    assert what in message


def test_problems__not_utf8_text__is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xff\xfe\n")
    assert found(path) == [(0, "is not UTF-8")]


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.py", b"x = 1\n"), ("empty.md", b""), ("a.onnx", b"\x00\xff"), ("a.json", b"[]\n")],
)
def test_problems__file_in_order__has_none(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert found(path) == []
