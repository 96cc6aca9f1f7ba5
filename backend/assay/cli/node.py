"""`assay node`: set up, check and run a node."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from assay.cli.output import (
    command_errors,
    console,
    emit_json,
    emit_table,
    emit_wide,
    json_option,
)
from assay.errors import RequestError
from assay.settings import Settings

if TYPE_CHECKING:
    from assay.node.config import VersionConfig

EXIT_UNHEALTHY = 1
TABLES = ("next_batches", "versions")
"""Of a node's status, what is not shown as one line."""
_VERSION = r"(0x[0-9a-fA-F]{40})/([a-z0-9\-_.]{1,64})@([1-9][0-9]{0,8})"
_SERVE = re.compile(_VERSION + r"=([0-9][0-9_]*(?:\.[0-9]+)?)")

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
@click.option("--account", help="operator: Ape account alias or keystore v3 file; default ASSAY_ACCOUNT")
@click.option(
    "--password-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="file with the operator's password; default ASSAY_PASSWORD_FILE, else it is asked for",
)
@click.option("--endpoint", help="public URL of this node, as consumers reach it")
@click.option("--host", help="address to listen on; default 127.0.0.1")
@click.option("--port", type=click.IntRange(1, 65535), help="port to listen on; default 8601")
@click.option("--rpc", "rpc_urls", multiple=True, help="RPC URL, repeatable; default ASSAY_RPC_URLS")
@click.option("--deployments", type=click.Path(path_type=Path), help="folder of contract addresses")
@click.option("--hub", "hub_url", help="artifact hub; default ASSAY_HUB_URL")
@click.option("--stake", help="stake in tokens, as in 1.5; default the minimum")
@click.option(
    "--signer-gas", default="0.05", show_default=True, help="ether sent to the signer when it is low"
)
@click.option(
    "--serve",
    multiple=True,
    metavar="PUBLISHER/NAME@NUMBER=PRICE",
    help="a version to offer at a price in tokens an inference; repeatable",
)
@click.option("--rotate-signer", is_flag=True, help="make this folder's key the signer of a registered node")
@click.option("--yes", is_flag=True, help="ask nothing")
@json_option
@command_errors
def init(data: Path | None, as_json: bool, **options: Any) -> None:
    """Set up a node: folder, signer key, registration, stake, offers. Running it again changes only what
    differs."""
    from assay.cli.node_setup import initialise

    steps = []
    for step in initialise(node_folder(data), options):
        steps.append({"step": step.name, "changed": step.changed, "detail": step.detail})
        click.echo(f"{'done' if step.changed else 'kept'}  {step.name}: {step.detail}", err=True)
    if as_json:
        emit_json({"folder": str(node_folder(data)), "steps": steps})
    else:
        click.echo(f"Now run: assay node run --data {node_folder(data)}")


@command.command()
@data_option
@json_option
@command_errors
def doctor(data: Path | None, as_json: bool) -> None:
    """Check everything that the node needs; names each missing thing and its cure. Exit code 1 if one is
    missing."""
    from assay.node.doctor import Doctor

    findings = []
    for finding in Doctor(node_folder(data)).examine():
        findings.append(finding)
        if not as_json:
            mark = click.style("✓", "green") if finding.ok else click.style("✗", "red")
            click.echo(f"{mark} {finding.name}: {finding.detail}")
            if not finding.ok:
                click.echo(f"  → {finding.cure}")
    healthy = all(finding.ok for finding in findings)
    if as_json:
        rows = [{"name": f.name, "ok": f.ok, "detail": f.detail, "cure": f.cure} for f in findings]
        emit_json({"ok": healthy, "checks": rows})
    if not healthy:
        sys.exit(EXIT_UNHEALTHY)


@command.command()
@data_option
@click.argument("versions", nargs=-1, required=True, metavar="PUBLISHER/NAME@NUMBER…")
@click.option("--account", help="operator: Ape account alias or keystore v3 file; default ASSAY_ACCOUNT")
@click.option(
    "--password-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="file with the operator's password; default ASSAY_PASSWORD_FILE, else it is asked for",
)
@json_option
@command_errors
def withdraw(data: Path | None, versions: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Stop offering versions, on the chain and in node.toml. A running node finishes and settles what it has
    of them; an offer is made again by `assay node init --serve`."""
    from assay.cli.node_setup import withdraw_versions

    steps = []
    for step in withdraw_versions(node_folder(data), [parse_version(text) for text in versions], options):
        steps.append({"step": step.name, "changed": step.changed, "detail": step.detail})
        click.echo(f"{'done' if step.changed else 'kept'}  {step.name}: {step.detail}", err=True)
    if as_json:
        emit_json({"folder": str(node_folder(data)), "steps": steps})


@command.command(name="move-log")
@data_option
@json_option
@command_errors
def move_log(data: Path | None, as_json: bool) -> None:
    """Take a stopped node's receipts from its folder into the shared log that [log] url names."""
    from assay.node.config import load_config
    from assay.node.move_log import move_log
    from assay.node.startup import folder_lock, open_chain

    folder = node_folder(data)
    config = load_config(folder)
    with folder_lock(folder):
        client, deployment = open_chain(folder, config)
        with client:
            copied = move_log(folder, config, deployment.domain)
    if as_json:
        emit_json(copied)
        return
    click.echo(f"moved {copied['receipts']} receipts of {copied['channels']} channels; start the node again")


@command.command()
@data_option
@json_option
@command_errors
def run(data: Path | None, as_json: bool) -> None:
    """Serve until Ctrl-C or SIGTERM; requests in progress are finished, receipts are written.

    With --json (or ASSAY_LOG_JSON) log lines are JSON; they go to standard error.
    """
    from assay.cli.logs import configure_logs
    from assay.node.config import load_config
    from assay.node.process import NodeProcess

    folder = node_folder(data)
    configure_logs(as_json=as_json or Settings().log_json)
    NodeProcess(folder, load_config(folder), progress=lambda text: click.echo(text, err=True)).run()


@command.command()
@data_option
@click.option("--watch", "watching", is_flag=True, help="draw it anew until Ctrl-C, with rates and latencies")
@click.option(
    "--interval",
    type=click.FloatRange(0.5, 3600),
    default=2.0,
    show_default=True,
    help="seconds between two looks of --watch",
)
@json_option
@command_errors
def status(data: Path | None, watching: bool, interval: float, as_json: bool) -> None:
    """Show how the node stands: on the chain, in its log, and what it is owed.

    With --watch and --json, one JSON line a look.
    """
    from assay.node.config import load_config
    from assay.node.payments.chain_ledger import ChainLedger
    from assay.node.startup import open_chain
    from assay.node.status import fetch_status

    folder = node_folder(data)
    config = load_config(folder)
    client, deployment = open_chain(folder, config)
    with client:
        ledger = ChainLedger(client, deployment, config.node)
        if watching:
            from assay.cli.node_watch import watch
            from assay.node.observability.live import scrape

            watch(
                lambda: fetch_status(folder, config, ledger),
                lambda: scrape(config),
                interval,
                as_json=as_json,
            )
        found = fetch_status(folder, config, ledger)
    if as_json:
        emit_json(found)
    else:
        emit_table(
            f"Node {found['node']}",
            ("", ""),
            [(key.replace("_", " "), value) for key, value in found.items() if key not in TABLES],
        )
        if found["versions"]:
            from assay.cli.node_watch import versions_table

            console().print(versions_table(found["versions"]))


@command.command()
@data_option
@click.option(
    "--by",
    "grouping",
    type=click.Choice(["version", "day"]),
    default="version",
    show_default=True,
    help="all that happened by version, or day by day (UTC) and version",
)
@click.option(
    "--days",
    type=click.IntRange(0),
    default=30,
    show_default=True,
    help="with --by day: so many, today included; 0: all",
)
@json_option
@command_errors
def profit(data: Path | None, grouping: str, days: int, as_json: bool) -> None:
    """Show profit and loss by version, from the node's log: what came in, what is on its way, what gas cost.

    Amounts are in the token's base unit, gas in wei; `native_price` in node.toml makes one sum of them. By
    day, receipts count on the day of their execution, if they are kept; batches by their posting and their
    collection; gas when its transaction was sent, by the outbox.
    """
    from assay.node.config import load_config
    from assay.node.payments.chain_ledger import ChainLedger
    from assay.node.settlement.money import read_days_of, read_profit_of
    from assay.node.startup import open_chain

    folder = node_folder(data)
    config = load_config(folder)
    client, deployment = open_chain(folder, config)
    by_day = grouping == "day"
    with client:
        ledger = ChainLedger(client, deployment, config.node)
        rows = (
            read_days_of(folder, config, ledger, days) if by_day else read_profit_of(folder, config, ledger)
        )
    if as_json:
        key = "days" if by_day else "versions"
        emit_json({"native_price": str(config.settlement.native_price), key: rows})
    elif by_day:
        _show_days(rows)
    else:
        _show_versions(rows)


def _show_days(rows: list[dict[str, Any]]) -> None:
    columns = ("receipts", "charged", "posted", "collected", "prepaid", "slashed")
    emit_wide(
        "Profit and loss by day (UTC)",
        ("day", "version", *columns, "gas, wei", "profit"),
        [(row["day"] or "not known", *_figures(row, columns)) for row in rows],
        names=2,
    )


def _show_versions(rows: list[dict[str, Any]]) -> None:
    earned = ("receipts", "collected", "prepaid", "pending", "open", "owed")
    columns = (*earned, "royalty", "fee", "voided", "slashed")
    emit_wide(
        "Profit and loss",
        ("version", *columns, "gas, wei", "profit"),
        [_figures(row, columns) for row in rows],
    )


def _figures(row: dict[str, Any], columns: Sequence[str]) -> tuple[Any, ...]:
    gas = sum(map(int, row["gas_wei"].values()))
    name = row["model"] or row["version_id"] or "the node"
    return (name, *(row[column] for column in columns), gas, row["profit"])


def parse_version(text: str) -> VersionConfig:
    """`PUBLISHER/NAME@NUMBER`. Raises RequestError."""
    from assay.node.config import VersionConfig

    found = re.fullmatch(_VERSION, text)
    if found is None:
        raise RequestError(
            f"{text!r} is not PUBLISHER/NAME@NUMBER, as in 0x…/digits@1", code="version_invalid"
        )
    publisher, name, number = found.groups()
    return VersionConfig(publisher=publisher, name=name, number=int(number))


def parse_served(text: str, decimals: int) -> VersionConfig:
    """`PUBLISHER/NAME@NUMBER=PRICE`. Raises RequestError."""
    from assay.cli.connect import parse_amount
    from assay.node.config import VersionConfig

    found = _SERVE.fullmatch(text)
    if found is None:
        raise RequestError(
            f"{text!r} is not PUBLISHER/NAME@NUMBER=PRICE, as in 0x…/digits@1=0.001", code="version_invalid"
        )
    publisher, name, number, price = found.groups()
    return VersionConfig(
        publisher=publisher, name=name, number=int(number), price=parse_amount(price, decimals)
    )


def merge_versions(known: list[VersionConfig], given: list[VersionConfig]) -> list[VersionConfig]:
    """Those given take the place of the same versions known."""
    merged = {(v.publisher, v.name, v.number): v for v in [*known, *given]}
    return list(merged.values())
