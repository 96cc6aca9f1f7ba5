"""`assay index`: follow the chain into a database."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from sqlalchemy import Engine

from assay.chain.client import ChainClient
from assay.chain.deployments import Deployment
from assay.cli.logs import configure_logs
from assay.cli.output import command_errors, emit_json, emit_table, json_option, progress_console
from assay.db.engine import drop_everything, open_engine, read_session, upgrade
from assay.db.repositories.status import index_status
from assay.errors import RetryableError
from assay.index.batch_file import BYTES_PER_SECOND, MAX_BATCH_BYTES
from assay.index.batches import BatchChecker
from assay.index.daemon import Daemon
from assay.index.download import Limits
from assay.index.fetch import Fetcher
from assay.index.follower import MAX_RANGE, Follower, Outcome, Step
from assay.index.probe import PERIOD, Prober
from assay.index.programs import ProgramChecker
from assay.settings import Settings

LOCAL_CHAINS = {1337, 31337}
BATCH_MIB, BATCH_SECONDS, PROBE_SECONDS = MAX_BATCH_BYTES >> 20, 30.0, 2.0


def shared_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Where the chain, the deployment and the database are; default: the ASSAY_… settings."""
    options = (
        click.option("--rpc", "rpc_urls", multiple=True, help="RPC URL; repeat for fail-over"),
        click.option("--deployments", type=click.Path(path_type=Path), help="folder of the deployment"),
        click.option("--database", "database_url", help="sqlite:///path or postgresql://…"),
    )
    for option in reversed(options):
        function = option(function)
    return function


@click.group()
def command() -> None:
    """Follow the chain into a database."""


@contextmanager
def stopped_by_signals(stop: Callable[[], None]) -> Iterator[None]:
    """SIGTERM and Ctrl-C ask for a clean end; the database is safe under SIGKILL as well."""
    before = {s: signal.signal(s, lambda *_: stop()) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def open_follower(
    rpc_urls: tuple[str, ...], deployments: Path | None, database_url: str | None, max_range: int = MAX_RANGE
) -> tuple[Engine, Deployment, Follower]:
    settings = Settings()
    client = ChainClient(list(rpc_urls) or settings.rpc_urls, settings.chain_id)
    deployment = Deployment.load(deployments or settings.deployments, client.chain_id)
    engine = open_engine(database_url or settings.database_url)
    upgrade(engine)
    return (
        engine,
        deployment,
        Follower(engine, Fetcher.of(client, deployment), deployment, max_range=max_range),
    )


@command.command("run")
@shared_options
@click.option("--poll", default=1.0, show_default=True, help="seconds between looks for a new block")
@click.option("--probe-period", default=float(PERIOD), show_default=True, help="seconds between node probes")
@click.option("--hub", help="artifact hub whose models' programs are recomputed; default ASSAY_HUB_URL")
@click.option("--no-probes", is_flag=True, help="do not ask nodes whether they are alive")
@click.option(
    "--allow-private/--public-only",
    default=None,
    help="ask nodes at loopback and private addresses too [default: only on a local chain]",
)
@click.option(
    "--max-batch-mib", default=BATCH_MIB, show_default=True, help="largest batch file taken from a node"
)
@click.option("--max-range", default=MAX_RANGE, show_default=True, help="most blocks in one eth_getLogs")
@json_option
@command_errors
def run_index(
    *,
    rpc_urls: tuple[str, ...],
    deployments: Path | None,
    database_url: str | None,
    poll: float,
    probe_period: float,
    hub: str | None,
    no_probes: bool,
    allow_private: bool | None,
    max_batch_mib: int,
    max_range: int,
    as_json: bool,
) -> None:
    """Follow the chain, check batches, recompute programs and probe nodes until stopped.

    With --json (or ASSAY_LOG_JSON) log lines are JSON, on standard error; --json ends with a status document.
    """
    configure_logs(as_json=as_json or Settings().log_json)
    engine, deployment, follower = open_follower(rpc_urls, deployments, database_url, max_range)
    private = deployment.chain_id in LOCAL_CHAINS if allow_private is None else allow_private
    limits = Limits(max_batch_mib << 20, BATCH_SECONDS, private, BYTES_PER_SECOND)
    checker = BatchChecker(engine, deployment.domain, limits, folder=Settings().data / "index")
    prober = Prober(engine, deployment.domain, deadline=PROBE_SECONDS, allow_private=private)
    programs = ProgramChecker(engine, hub or Settings().hub_url)
    daemon = Daemon(
        follower,
        checker,
        None if no_probes else prober,
        programs,
        poll=poll,
        probe_period=probe_period,
    )
    console = progress_console()
    console.print(f"indexing chain {deployment.chain_id} from block {deployment.block}")
    with stopped_by_signals(daemon.stop):
        daemon.run()
    console.print(f"stopped at block {follower.position().number}")
    if as_json:
        report(engine, as_json, {})


@command.command("backfill")
@shared_options
@click.option(
    "--reset", is_flag=True, help="drop everything in the database and start from the deployment block"
)
@click.option("--max-range", default=MAX_RANGE, show_default=True, help="most blocks in one eth_getLogs")
@json_option
@command_errors
def backfill(
    *,
    rpc_urls: tuple[str, ...],
    deployments: Path | None,
    database_url: str | None,
    reset: bool,
    max_range: int,
    as_json: bool,
) -> None:
    """Catch up with the chain's head, with a progress bar, and end."""
    configure_logs(as_json=Settings().log_json)
    if reset:
        drop_everything(open_engine(database_url or Settings().database_url))
    engine, _, follower = open_follower(rpc_urls, deployments, database_url, max_range)
    position = follower.prepare()
    columns = (TextColumn("block"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    events, stopping = 0, threading.Event()
    with Progress(*columns, console=progress_console()) as progress, stopped_by_signals(stopping.set):
        task = progress.add_task("backfill", total=None, completed=position.number)
        for step in steps_to_head(follower, stopping):
            events += step.events
            progress.update(task, completed=step.number, total=step.head)
    report(engine, as_json, {"events_added": events})


def steps_to_head(follower: Follower, stopping: threading.Event) -> Iterator[Step]:
    """Steps until the head is reached; a window that fails is tried again a few times."""
    failures = 0
    while not stopping.is_set():
        try:
            step = follower.step()
        except RetryableError:
            failures += 1
            if failures > 5:
                raise
            stopping.wait(0.5 * 2**failures)
            continue
        failures = 0
        yield step
        if step.outcome is not Outcome.ADVANCED:
            return


@command.command("status")
@click.option("--database", "database_url", help="sqlite:///path or postgresql://…")
@json_option
@command_errors
def status(database_url: str | None, as_json: bool) -> None:
    """Show how far the index is and what it holds."""
    engine = open_engine(database_url or Settings().database_url)
    upgrade(engine)
    report(engine, as_json, {})


def report(engine: Engine, as_json: bool, extra: dict[str, Any]) -> None:
    with read_session(engine) as session:
        data = {**index_status(session), **extra}
    if as_json:
        emit_json(data)
    else:
        emit_table("index", ("what", "value"), data.items())
