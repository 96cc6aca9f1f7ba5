"""Rules that every tracked file must keep; prints `path:line: what is wrong` and exits 1 if one is broken."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

MAX_BYTES = 1_000_000
MAX_PYTHON_LINES = 400
LOCKS = ("requirements.txt", "requirements-dev.txt", "package-lock.json")
CONFLICT = re.compile(r"^(<{7} |={7}$|>{7} )")
MACHINE_PATH = re.compile(r"(?<![\w.])/(work|root|home/\w+)/")
"""A path of somebody's machine: works there and nowhere else."""


def tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], check=True, capture_output=True, text=True).stdout
    return [path for name in listed.split("\0") if name and (path := Path(name)).is_file()]


def problems(path: Path) -> Iterator[tuple[int, str]]:
    """(line, what is wrong) for one file; line 0 is the file as a whole."""
    data = path.read_bytes()
    if len(data) > MAX_BYTES:
        yield 0, f"{len(data):,} bytes, more than {MAX_BYTES:,}"
    if b"\0" in data:
        return
    try:
        text = data.decode()
    except UnicodeDecodeError:
        if path.suffix != ".onnx":
            yield 0, "is not UTF-8"
        return
    yield from text_problems(path, text)
    if problem := parse_problem(path, text):
        yield 0, problem


def text_problems(path: Path, text: str) -> Iterator[tuple[int, str]]:
    if text and not text.endswith("\n"):
        yield text.count("\n") + 1, "does not end with a newline"
    if path.name in LOCKS:
        yield from ((i, "names a host") for i, line in lines(text) if re.search(r"https?://", line))
        return
    for i, line in lines(text):
        if line != line.rstrip():
            yield i, "ends with white space or a carriage return"
        if CONFLICT.match(line):
            yield i, "is a conflict marker"
        if MACHINE_PATH.search(line):
            yield i, "names a path of one machine"
    if (
        path.suffix == ".py"
        and path.parts[0] in ("backend", "scripts")
        and text.count("\n") > MAX_PYTHON_LINES
    ):
        yield 0, f"has more than {MAX_PYTHON_LINES} lines"


def lines(text: str) -> Iterator[tuple[int, str]]:
    return enumerate(text.removesuffix("\n").split("\n"), 1)


def parse_problem(path: Path, text: str) -> str | None:
    try:
        if path.suffix == ".json":
            json.loads(text)
        elif path.suffix == ".toml":
            tomllib.loads(text)
    except ValueError as error:
        return f"does not parse: {error}"
    return None


def main() -> int:
    found = [(path, line, what) for path in tracked_files() for line, what in problems(path)]
    for path, line, what in found:
        print(f"{path}:{line}: {what}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
