"""Every command: machine-readable output, help, and exit codes that the manual names."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest
from assay import errors
from assay.cli import EXIT_CODES, GROUPS, main

from tests.support.cli import RUNNER


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        yield " ".join(path), command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        assert found is not None
        yield from commands(found, (*path, name))


COMMANDS = dict(commands(main))


def test_groups__each__has_commands() -> None:
    assert {path.split()[0] for path in COMMANDS} == set(GROUPS)
    assert len(COMMANDS) > len(GROUPS)


@pytest.mark.parametrize("path", COMMANDS)
def test_command__each__offers_json_and_explains_itself(path: str) -> None:
    command = COMMANDS[path]
    options = {option for parameter in command.params for option in parameter.opts}
    assert "--json" in options
    assert command.help


@pytest.mark.parametrize("path", COMMANDS)
def test_command__each__takes_no_raw_key(path: str) -> None:
    options = {option for parameter in COMMANDS[path].params for option in parameter.opts}
    assert not options & {"--key", "--private-key", "--secret", "--password", "--mnemonic"}


def subclasses(kind: type[errors.AssayError]) -> Iterator[type[errors.AssayError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from subclasses(child)


def test_exit_codes__of_every_error__are_in_the_manual() -> None:
    named = {
        int(part.split()[0]) for part in EXIT_CODES.removeprefix("Exit codes:").replace("\n", " ").split(";")
    }
    used = {kind.exit_code for kind in subclasses(errors.AssayError)}
    assert used <= named


@pytest.mark.parametrize("raised", [KeyboardInterrupt, click.Abort])
def test_main__interrupted_before_a_command_or_at_a_question__exits_with_130(
    monkeypatch: pytest.MonkeyPatch, raised: type[BaseException]
) -> None:
    def interrupt(*_: object) -> None:
        raise raised

    monkeypatch.setattr("assay.cli.importlib.import_module", interrupt)
    found = RUNNER.invoke(main, ["node", "run"])
    assert (found.exit_code, found.stderr) == (130, "stopped\n")
