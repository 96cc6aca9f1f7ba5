"""`assay watch`: re-execute receipts, dispute the wrong ones."""

from __future__ import annotations

import sys
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from assay.cli.connect import Connection, connection_options_for
from assay.cli.output import command_errors, console, emit_json, emit_table, json_option, progress_console
from assay.errors import ConfigurationError, RequestError

if TYPE_CHECKING:
    from assay.watch.setup import Watch, WatchOptions
    from assay.watch.summary import Summary
    from assay.watch.values import NodeSummary


@click.command()
@click.option(
    "--rate", type=click.FloatRange(0, 1), default=0.1, show_default=True, help="share of public receipts"
)
@click.option("--all", "is_all", is_flag=True, help="every public receipt, whatever --rate says")
@click.option(
    "--version", "versions", multiple=True, metavar="MODEL@N", help="these versions alone; repeatable"
)
@click.option("--node", "nodes", multiple=True, metavar="ADDRESS", help="these nodes alone; repeatable")
@click.option("--max-per-batch", type=click.IntRange(1), help="receipts re-executed of one batch at most")
@click.option("--seed", help="64 hexadecimal digits; default a secret of the data folder's")
@click.option(
    "--join",
    type=click.Choice(["always", "never"]),
    default="always",
    show_default=True,
    help="whether to dispute what somebody else disputes already; they may mean to lose",
)
@click.option(
    "--min-reward",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="base units that winning must bring",
)
@click.option(
    "--max-open", type=click.IntRange(1, 1000), default=16, show_default=True, help="own disputes at a time"
)
@click.option(
    "--max-work", type=click.IntRange(1), default=1 << 40, show_default=True, help="steps of one re-execution"
)
@click.option(
    "--max-memory",
    type=click.IntRange(64),
    default=4096,
    show_default=True,
    help="MiB of memory, about, for one re-execution or trace",
)
@click.option("--hub", "hub_url", help="artifact hub; default ASSAY_HUB_URL")
@click.option("--poll", type=click.FloatRange(0.05, 3600), default=1.0, show_default=True, help="seconds")
@click.option(
    "--timeout", type=click.FloatRange(0.1, 600), default=30.0, show_default=True, help="seconds a node has"
)
@click.option(
    "--max-mib",
    type=click.IntRange(1, 4096),
    default=64,
    show_default=True,
    help="of one receipt's data; four at once",
)
@click.option(
    "--max-batch-mib",
    type=click.IntRange(1, 65_536),
    default=2048,
    show_default=True,
    help="of one batch, which is read from disk; four at once",
)
@click.option(
    "--allow-private", is_flag=True, help="nodes on loopback and private addresses; implied on local chains"
)
@click.option("--dry-run", is_flag=True, help="judge and report, dispute nothing; needs no account")
@click.option("--once", is_flag=True, help="to the head, everything due once, then end")
@click.option("--report", "is_report", is_flag=True, help="show how the watch in --data stands, then end")
@connection_options_for("watch", "what is known, kept and sent")
@json_option
@command_errors
def command(connection: Connection, as_json: bool, once: bool, is_report: bool, **given: Any) -> None:
    """Follow posted batches, re-execute a sample of their receipts, and dispute those that are wrong.

    Batches are found on the chain alone, or by the index if --api or ASSAY_API_URL names one. A dispute is
    played to its end, also after a crash. Ends with Ctrl-C; then, and with --report, it shows what nodes gave
    and withheld, what was found, and the profit and loss.
    """
    from assay.watch.setup import open_watch

    stopping = threading.Event()
    options = watch_options(connection, given)
    with ExitStack() as stack:
        key = None if given["dry_run"] or is_report else load_account(connection)
        watch = stack.enter_context(open_watch(options, key, stopping))
        if is_report:
            watch.catch_up()
        else:
            run(watch, once=once, as_json=as_json, quiet=as_json or connection.settings.log_json)
        token = watch.contracts.token
        summary, symbol, decimals = watch.summary(), token.symbol(), token.decimals()
    if as_json:
        emit_json(summary.to_json())
    else:
        show(summary, symbol, decimals)


def watch_options(connection: Connection, given: dict[str, Any]) -> WatchOptions:
    """Raises RequestError, ConfigurationError."""
    from assay.commitments.parsing import parse_address
    from assay.watch.decision import Join
    from assay.watch.policy import SEED_BYTES
    from assay.watch.setup import WatchOptions

    seed = None
    if given["seed"] is not None:
        try:
            seed = bytes.fromhex(given["seed"].removeprefix("0x"))
        except ValueError:
            seed = b""
        if len(seed) != SEED_BYTES:
            raise RequestError(f"--seed is {SEED_BYTES} bytes as hexadecimal digits", code="seed_invalid")
    settings = connection.settings
    named_api = connection.api_url if connection.is_api_named else None
    return WatchOptions(
        rpc_urls=connection.rpc_urls,
        chain_id=settings.chain_id,
        deployments=connection.deployments,
        data=connection.data,
        api_url=named_api,
        hub_url=given["hub_url"] or settings.hub_url,
        rate=1.0 if given["is_all"] else given["rate"],
        nodes=frozenset(parse_address(node, "node") for node in given["nodes"]),
        versions=tuple(given["versions"]),
        max_per_batch=given["max_per_batch"],
        seed=seed,
        join=Join(given["join"]),
        min_reward=given["min_reward"],
        max_open=given["max_open"],
        max_work=given["max_work"],
        max_memory=given["max_memory"] << 20,
        poll=given["poll"],
        timeout=given["timeout"],
        max_bytes=given["max_mib"] << 20,
        max_batch_bytes=given["max_batch_mib"] << 20,
        allow_private=given["allow_private"],
    )


def load_account(connection: Connection) -> Any:
    """The key that disputes. Raises ConfigurationError."""
    from assay.chain.keys import load_key

    if not connection.account:
        raise ConfigurationError(
            "a dispute needs an account with tokens for the bond and gas: give --account ALIAS_OR_KEYSTORE "
            "or set ASSAY_ACCOUNT; with --dry-run receipts are judged and nothing is disputed"
        )
    return load_key(connection.account, connection.password())


def run(watch: Watch, *, once: bool, as_json: bool, quiet: bool) -> None:
    """Until Ctrl-C or SIGTERM; a line of progress where somebody looks."""
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from assay.cli.index import stopped_by_signals
    from assay.cli.logs import configure_logs

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(
        *columns, console=progress_console(), transient=True, disable=quiet or not sys.stderr.isatty()
    ) as progress:
        configure_logs(as_json=quiet)
        task = progress.add_task("starting", total=None)

        def on_step(position: Any) -> None:
            progress.update(task, description=watch.status_line(position))

        with stopped_by_signals(watch.stop):
            watch.run(once=once, on_step=on_step)


def node_words(node: NodeSummary) -> str:
    """A line each for its batches, its public receipts' data and the receipts; what is none is left out."""
    from assay.watch.summary import is_withholding

    parts = (("batches", node.batches), ("data", node.data), ("receipts", node.verdicts))
    lines = [
        f"{what}: " + ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
        for what, counts in parts
        if counts
    ]
    return "\n".join([*lines, *(["WITHHOLDS what it has to give"] if is_withholding(node) else [])])


def show(summary: Summary, symbol: str, decimals: int) -> None:
    from assay.cli.connect import format_amount

    emit_table(
        "nodes", ("node", "what it gave, what was found"), [(n.node, node_words(n)) for n in summary.nodes]
    )
    for state, count in summary.challenges.items():
        console().print(f"{count} wrong receipts: dispute {state}")
    for reason, count in summary.skipped.items():
        console().print(f"{count} receipts could not be judged: {reason}")
    for kind, count in summary.frauds.items():
        console().print(f"{count} {kind}")
    money = summary.money

    def tokens(units: int) -> str:
        return f"{format_amount(units, decimals)} {symbol}"

    lines = [
        ("disputes", f"{money.disputes}: {money.won} won, {money.lost} lost, {money.open} open"),
        ("bonds out", tokens(money.bonds_out)),
        ("bonds back", tokens(money.bonds_back)),
        ("bonds lost", tokens(money.bonds_lost)),
        ("share of slashes", tokens(money.slash_share)),
        ("share of reports", f"{tokens(money.report_share)} for {money.reports}"),
        ("tokens won less lost", tokens(money.tokens)),
        (
            "gas",
            f"{format_amount(money.gas_wei, 18)} of the chain's coin in {money.transactions} transactions",
        ),
    ]
    emit_table("profit and loss", ("what", "amount"), lines)
