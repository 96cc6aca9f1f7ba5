"""What README tells people to type exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
from assay.cli import main

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```(?:sh|bash|console|shell)?\n(.*?)^```", re.MULTILINE | re.DOTALL)


def shown_commands(program: str) -> list[list[str]]:
    """Command lines in README's code blocks that begin with `program`, as words, comments left out."""
    text = (ROOT / "README.md").read_text()
    lines = [line.removeprefix("$ ") for block in BLOCK.findall(text) for line in block.splitlines()]
    lines = [line.strip() for line in "\n".join(lines).replace("\\\n", " ").splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith(program)]


def test_readme__scripts__exist_and_run() -> None:
    named = {words[0] for words in shown_commands("scripts/")}
    assert {"scripts/demo", "scripts/test"} <= named
    for name in sorted(named):
        assert (ROOT / name).stat().st_mode & 0o111, f"{name} is not executable"


def resolve(words: list[str]) -> tuple[click.Command, list[str]]:
    """The click command that `assay words…` runs, and what is left of the words."""
    command: click.Command = main
    rest = list(words)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        found = command.get_command(click.Context(command), rest[0])
        assert found is not None, f"README: there is no command `assay {' '.join(words)}`"
        command, rest = found, rest[1:]
    return command, rest


def test_readme__assay_commands__exist_with_their_options() -> None:
    commands = shown_commands("assay ")
    assert commands
    for _, *words in commands:
        command, rest = resolve(words)
        known = {name for parameter in command.params for name in parameter.opts + parameter.secondary_opts}
        options = {word.split("=")[0] for word in rest if word.startswith("--")} - {"--help"}
        assert options <= known, f"README: `assay {' '.join(words)}` has no {sorted(options - known)}"


def test_resolve__unknown_command__fails() -> None:
    with pytest.raises(AssertionError, match="there is no command"):
        resolve(["model", "frobnicate"])
