"""What strangers wrote (endpoints, file names, a node's error text) is printed as it is."""

from __future__ import annotations

import json
from typing import Any

import click
import pytest
from assay.cli.output import command_errors, console, emit_json, emit_table, emit_wide, json_option
from assay.errors import ContractRevert, RequestError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.text import Text

from tests.support.cli import RUNNER

HOSTILE = ("[/tmp/x]", "[bold]", "[link=https://evil.example]here[/link]", ":smile:", "inputs[0]", "\\[red]")


@click.command()
@json_option
@command_errors
def failing(as_json: bool) -> None:
    raise RequestError("file [/tmp/x] :smile: is no [bold] tensor", code="input_file")


def test_command_errors__brackets_in_the_message__are_shown() -> None:
    done = RUNNER.invoke(failing, catch_exceptions=False)
    assert done.exit_code == RequestError.exit_code
    assert done.stderr == "error file [/tmp/x] :smile: is no [bold] tensor\n"


@pytest.mark.parametrize("steering", ["\x1b]52;c;AAAA\x07", "\x1b[2J", "\x9b1m", "\r"])
def test_output__what_would_steer_a_terminal__is_written_out(
    steering: str, capsys: pytest.CaptureFixture[str]
) -> None:
    stranger = RequestError(f"node answered 402 {steering}")

    @click.command()
    @command_errors
    def failing(**options: Any) -> None:
        raise stranger

    refused = RUNNER.invoke(failing, catch_exceptions=False).stderr
    emit_table(f"a{steering}", (f"b{steering}",), [(f"c{steering}",), (stranger,)])
    console().print(f"d{steering}", stranger)
    shown = refused + capsys.readouterr().out
    assert not set(shown) & set("\x1b\x07\x9b\r")
    assert shown.count(f"\\x{ord(steering[0]):02x}") == 7


def test_command_errors__json__names_the_code_on_standard_output() -> None:
    done = RUNNER.invoke(failing, ["--json"], catch_exceptions=False)
    assert json.loads(done.stdout) == {
        "error": "file [/tmp/x] :smile: is no [bold] tensor",
        "code": "input_file",
    }
    assert done.stderr == ""


@pytest.mark.parametrize("text", HOSTILE)
def test_emit_table__cell_and_title__are_taken_literally(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    emit_table(text, (text,), [(text,), (Text("coloured", "red"),), (None,)])
    shown = capsys.readouterr().out
    assert shown.count(text) == 3
    assert "coloured" in shown


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40))
def test_console__any_text__is_printed_as_it_is(capsys: pytest.CaptureFixture[str], text: str) -> None:
    capsys.readouterr()
    console().print(text, soft_wrap=True)
    assert capsys.readouterr().out == text + "\n"


def test_emit_json__bytes_and_errors__become_text(capsys: pytest.CaptureFixture[str]) -> None:
    emit_json({"root": b"\x01\xff", "why": ContractRevert("nodes: no")})
    assert json.loads(capsys.readouterr().out) == {"root": "0x01ff", "why": "nodes: no"}


@pytest.mark.parametrize("width", [80, 200])
def test_emit_wide__any_width__breaks_no_amount(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    columns = ("day", "version", *(f"figure {n}" for n in range(6)))
    amount, name = "1234567890123456789012", "0x" + "ab" * 20 + "/digits@1"
    emit_wide("Money", columns, [("2026-11-23", name, amount, "0", amount, None, 0, "[x]")], names=2)
    shown = capsys.readouterr().out
    assert shown.startswith("Money")
    assert (shown.count(amount), shown.count(name), shown.count("[x]")) == (2, 1, 1)
    assert all(len(line) <= width for line in shown.splitlines())
