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
        figures = Accelerator(connection.api_url, http).network()
    finally:
        http.close()
    if as_json:
        emit_json(figures)
        return
    _show(figures)


SHARES = ("accessibility", "verifiability", "scalability", "utility")
COUNTS = (
    "verified_inferences",
    "settled_inferences",
    "settled_signed_only",
    "active_versions",
    "live_versions",
    "staked_nodes",
    "answering_nodes",
    "disputes_open",
    "disputes_won_by_node",
    "disputes_won_by_challenger",
    "frauds_proven",
    "indexed_block",
    "head_block",
    "finalized_block",
)


def _show(figures: dict[str, Any]) -> None:
    rows = [(name.replace("_", " "), figures[name]) for name in COUNTS if name in figures]
    if "slashed" in figures:
        rows.append(("slashed, base units", figures["slashed"]))
    rows += [(name, f"{100 * figures[name]:.1f} %") for name in SHARES if name in figures]
    emit_table("network", ("figure", "value"), rows)
    for title, name in (("day", "per_day"), ("node", "per_node"), ("version", "per_version")):
        if buckets := figures.get(name):
            console().print()
            lines = [(bucket["key"], bucket["verified"], bucket["settled"]) for bucket in buckets]
            emit_table(f"per {title}", (title, "verified", "settled"), lines)
