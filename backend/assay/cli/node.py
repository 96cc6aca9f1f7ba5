"""`assay node`: set up, check and run a node."""

from __future__ import annotations

from pathlib import Path

import click

from assay.cli.output import command_errors, progress_console
from assay.settings import Settings

data_option = click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    help="the node's folder, with node.toml; default `node` in ASSAY_DATA",
)


def node_folder(data: Path | None) -> Path:
    return data if data is not None else Settings().data / "node"


@click.group()
def command() -> None:
    """Set up, check and run a node."""


@command.command()
@data_option
@command_errors
def run(data: Path | None) -> None:
    """Serve until Ctrl-C or SIGTERM; requests in progress are finished, receipts are written."""
    from assay.node.config import load_config
    from assay.node.logs import configure_logs
    from assay.node.process import NodeProcess

    folder = node_folder(data)
    configure_logs(as_json=Settings().log_json)
    console = progress_console()
    NodeProcess(folder, load_config(folder), progress=lambda text: console.print(text, markup=False)).run()
