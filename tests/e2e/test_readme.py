"""What README and the pages for operators tell people to type exists."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from assay.cli import main
from assay.node.config import parse_config

ROOT = Path(__file__).resolve().parents[2]
OPERATIONS = ROOT / "backend" / "operations"
SPOKEN = re.compile(r"`(assay [a-z][^`\n]*)`")
"""A command in a sentence."""
SETTINGS = re.compile(r"^```toml\n(.*?)^```", re.MULTILINE | re.DOTALL)
NEEDED: dict[str, Any] = {
    "operator": "0x" + "11" * 20,
    "endpoint": "https://node.example",
    "rpc_urls": ["http://127.0.0.1:8545"],
    "chain_id": 1,
    "deployments": "deployments",
    "hub_url": "http://127.0.0.1:8600",
}
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
        assert found is not None, f"there is no command `assay {' '.join(words)}`"
        command, rest = found, rest[1:]
    return command, rest


def check_command(words: list[str]) -> None:
    command, rest = resolve(words)
    known = {name for parameter in command.params for name in parameter.opts + parameter.secondary_opts}
    options = {word.split("=")[0] for word in rest if word.startswith("--")} - {"--help"}
    assert options <= known, f"`assay {' '.join(words)}` has no {sorted(options - known)}"


def test_readme__assay_commands__exist_with_their_options() -> None:
    commands = shown_commands("assay ")
    assert commands
    for _, *words in commands:
        check_command(words)


def pages() -> Iterator[Path]:
    yield from (ROOT / "README.md", ROOT / "contracts" / "SPEC.md", ROOT / "backend" / "ARCHITECTURE.md")
    yield from sorted(path for path in OPERATIONS.rglob("*") if path.suffix in (".md", ".yaml", ".json"))


def test_pages__commands_in_sentences__exist_with_their_options() -> None:
    spoken = [found for path in pages() for found in SPOKEN.findall(path.read_text())]
    assert len(spoken) > 20
    for text in spoken:
        check_command(shlex.split(text)[1:])


@pytest.mark.parametrize("path", [path for path in pages() if SETTINGS.search(path.read_text())], ids=str)
def test_pages__settings_of_node_toml__are_settings(path: Path) -> None:
    for text in SETTINGS.findall(path.read_text()):
        shown = tomllib.loads(text.replace("0x…", NEEDED["operator"]))
        parse_config(NEEDED | shown, path.name)


def test_resolve__unknown_command__fails() -> None:
    with pytest.raises(AssertionError, match="there is no command"):
        resolve(["model", "frobnicate"])
