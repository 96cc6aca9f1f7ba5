"""What every command shares: `--json`, tables, errors as one line with an exit code, a quiet Ctrl-C."""

from __future__ import annotations

import functools
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ParamSpec, TypeVar

import click
from rich.console import Console
from rich.measure import Measurement
from rich.protocol import is_renderable
from rich.table import Table
from rich.text import Text

from assay.errors import AssayError

P = ParamSpec("P")
R = TypeVar("R")

EXIT_INTERRUPTED = 130
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class _Plain(Console):
    """Strangers' words reach the terminal without what would steer it: each control character as `\\x1b`."""

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*(item if is_renderable(item) else str(item) for item in objects), **options)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(plain_text(text), **options)


def plain_text(text: str) -> str:
    """`text` with control characters, but line breaks and tabs, written out."""
    return _CONTROLS.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def console() -> Console:
    """For people, on standard output. Plain: names and endpoints are strangers' words, never markup."""
    return _Plain(soft_wrap=False, highlight=False, markup=False, emoji=False)


def progress_console() -> Console:
    """For progress and notes, on standard error, so that `--json` output stays clean."""
    return _Plain(stderr=True, highlight=False, markup=False, emoji=False)


def emit_json(data: Any) -> None:
    """Print one JSON document; bytes as 0x hex, amounts as the caller gave them."""

    def plain(value: Any) -> Any:
        if isinstance(value, bytes):
            return "0x" + value.hex()
        return str(value)

    click.echo(json.dumps(data, indent=2, default=plain))


def emit_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table for people; a cell that shall be coloured is a `rich.text.Text`."""
    console().print(_table(title, columns, rows))


def emit_wide(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], names: int = 1) -> None:
    """A table where it fits; else a block for each row: its first `names` cells, and of the others those that
    are not nothing."""
    table, screen = _table(title, columns, rows), console()
    if Measurement.get(screen, screen.options.update(width=1 << 16), table).maximum <= screen.width:
        screen.print(table)
        return
    screen.print(title, soft_wrap=True)
    for row in rows:
        told = [(what, cell) for what, cell in zip(columns, row, strict=True) if str(cell or 0) != "0"]
        screen.print(" · ".join(map(str, row[:names])), soft_wrap=True)
        emit_table("", ("", ""), [pair for pair in told if pair[0] not in columns[:names]])


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    table = Table(title=title, title_justify="left", show_edge=False, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(
            *(cell if isinstance(cell, Text) else "" if cell is None else str(cell) for cell in row)
        )
    return table


def command_errors(function: Callable[P, R]) -> Callable[P, R]:
    """Turn an `AssayError` into one readable line (or JSON, with `--json`) and its documented exit code."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except AssayError as error:
            cure = getattr(error, "cure", "")
            if kwargs.get("as_json"):
                code = getattr(error, "code", "") or type(error).__name__
                emit_json({"error": str(error), "code": code} | ({"cure": cure} if cure else {}))
            else:
                progress_console().print(Text("error", "red"), error, soft_wrap=True)
                if cure:
                    progress_console().print(Text("cure", "green"), cure, soft_wrap=True)
            sys.exit(error.exit_code)
        except KeyboardInterrupt:
            progress_console().print("stopped")
            sys.exit(EXIT_INTERRUPTED)

    return wrapper


json_option = click.option(
    "--json", "as_json", is_flag=True, help="machine-readable output on standard output"
)
