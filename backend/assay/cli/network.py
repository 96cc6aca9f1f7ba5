"""`assay network`: the utility of the network as its index measures it."""

from __future__ import annotations

from typing import Any

import click

from assay.cli.connect import Connection, connection_options
from assay.cli.output import command_errors, console, emit_json, emit_table, json_option
from assay.client.accelerator import Accelerator
from assay.client.transport import NodeHttp
from assay.errors import ConfigurationError


@click.command()
@connection_options
@json_option
@command_errors
def command(connection: Connection, as_json: bool) -> None:
    """Verified inferences, and accessibility × verifiability × scalability, from the API."""
    if connection.api_url is None:
        raise ConfigurationError(
            "the network's figures come from the API: set ASSAY_API_URL or --api, not --no-api"
        )
    http = NodeHttp()
    try:
        figures = Accelerator(connection.api_url, http).get("/v1/network")
    finally:
        http.close()
    if as_json:
        emit_json(figures)
        return
    for title, rows in _tables(figures):
        emit_table(title, ("figure", "value"), rows)
        console().print()


def _tables(figures: dict[str, Any]) -> list[tuple[str, list[tuple[str, Any]]]]:
    """Plain values first, then one table for each nested object."""
    plain = [(name, value) for name, value in figures.items() if not isinstance(value, dict | list)]
    nested = [(name, value) for name, value in figures.items() if isinstance(value, dict)]
    lists = [(name, value) for name, value in figures.items() if isinstance(value, list)]
    tables = [("network", plain)] if plain else []
    tables += [(name.replace("_", " "), list(value.items())) for name, value in nested]
    for name, rows in lists:
        lines = [(str(i + 1), ", ".join(f"{k} {v}" for k, v in row.items()) if isinstance(row, dict) else row)
                 for i, row in enumerate(rows)]  # fmt: skip
        tables.append((name.replace("_", " "), lines))
    return tables
