"""Run the chosen benches, print one table, write or update one JSON list."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any, Literal

import click
from rich.console import Console
from rich.status import Status
from rich.table import Table

from scripts.benches.options import MissingError, Options

BENCHES = ("gas", "commitments", "index", "node", "exact", "dispute")
"""Measured if none is named."""
LONG = ("scale", "soak", "receipts_log")
"""Measured only by name."""
WITH_OPTIONS = ("node", *LONG)
"""Take `Options`."""
FILE_WIDTH = 160
"""Columns of a table that goes to no terminal."""
FIELDS = ("name", "value", "unit", "reference", "ratio")
"""`reference` is what the value is held against, in the same unit; `ratio` = value / reference."""

Row = dict[str, Any]


@click.command()
@click.argument("names", nargs=-1, type=click.Choice([*BENCHES, *LONG, "all"]))
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="write the rows to this file")
@click.option("--no-peers", is_flag=True, help="node: leave out the other servers, which are installed else")
@click.option(
    "--rounds",
    default=3,
    show_default=True,
    type=click.IntRange(1),
    help="node, scale: of which the best counts",
)
@click.option("--minutes", default=10.0, show_default=True, type=click.FloatRange(0.5), help="soak: how long")
@click.option(
    "--rows", default=10_000_000, show_default=True, type=click.IntRange(1), help="receipts_log: receipts"
)
def main(
    names: tuple[str, ...], json_path: Path | None, no_peers: bool, rounds: int, minutes: float, rows: int
) -> None:
    """Measure gas, commitments, index, node, exact and dispute on this machine; all of them by default.

    scale (how the node's cost grows), receipts_log (a log of ten million) and soak (minutes at more than the
    node can take; fails if it does not hold) take long, and run only if they are named.
    """
    console = Console(highlight=False, width=None if sys.stdout.isatty() else FILE_WIDTH)
    progress = Console(stderr=True, highlight=False)
    chosen = BENCHES if not names or "all" in names else tuple(dict.fromkeys(names))
    found: list[Row] = []
    failures: list[str] = []
    for name in chosen:
        module = importlib.import_module(f"scripts.benches.{name}")
        with progress.status(f"measuring {name} …") as status:

            def show_progress(what: str, status: Status = status, name: str = name) -> None:
                status.update(f"{name}: {what} …")

            options = Options(not no_peers, minutes, rounds, rows, show_progress)
            try:
                measured = check_rows(name, module.run(options) if name in WITH_OPTIONS else module.run())
            except MissingError as error:
                raise click.ClickException(str(error)) from None
        console.print(build_table(name, measured))
        for note in options.notes:
            console.print(note, soft_wrap=True)
        failures += [f"{name}: {failure}" for failure in options.failures]
        found += measured
        if json_path:
            write_rows(json_path, found)
    if failures:
        raise click.ClickException("does not hold: " + "; ".join(failures))


def check_rows(bench: str, rows: list[Row]) -> list[Row]:
    """The rows as they came; raises ValueError if one is not what `FIELDS` says."""
    for row in rows:
        if tuple(row) != FIELDS:
            raise ValueError(f"bench {bench}: a row has the fields {tuple(row)}, expected {FIELDS}")
    return rows


def build_table(name: str, rows: list[Row]) -> Table:
    table = Table(title=name, title_justify="left", show_edge=False, pad_edge=False)
    for field in FIELDS:
        numeric = field in ("value", "reference", "ratio")
        justify: Literal["left", "right"] = "right" if numeric else "left"
        table.add_column(field, justify=justify, overflow="fold", no_wrap=field != "unit")
    for row in rows:
        table.add_row(*(show(row[field]) for field in FIELDS))
    return table


def show(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def write_rows(path: Path, rows: list[Row]) -> None:
    """Merge by name into what the file holds, so that benches can be measured one at a time."""
    kept = json.loads(path.read_text()) if path.exists() else []
    fresh = {row["name"] for row in rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([row for row in kept if row["name"] not in fresh] + rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
