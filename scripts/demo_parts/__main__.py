"""`scripts/demo`: the order of events."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import httpx
from assay.chain.contracts import Token
from assay.chain.disputes import DisputeRecord
from assay.errors import AssayError
from assay.types import Hash32
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from . import fraud, gather, settling
from .checks import Check, check_all
from .evidence import Evidence
from .processes import ROOT, DemoError, Processes
from .report import build_report, print_report, write_report
from .setup import build_world
from .traffic import Consumer, Traffic, build_questions
from .world import CHEAT, CHEATED_MODEL, ONE_IN, World

FIRST_PART = 2 / 3
"""Share of the questions after which the demo waits for the killed node to be trusted again."""
KILLED = "node-1"
OUTAGE_SECONDS = 1.0


@click.command()
@click.option("--report", "report_path", type=click.Path(path_type=Path), help="write the result as JSON")
@click.option("--keep", is_flag=True, help="leave everything running until Ctrl-C")
@click.option("--limit", type=click.IntRange(min=30), help="only so many held-out rows of each data set")
@click.option(
    "--folder", type=click.Path(path_type=Path), help="for logs and state; default: a new one in var/demo"
)
def main(report_path: Path | None, keep: bool, limit: int | None, folder: Path | None) -> None:
    """Run the system on a local chain: publish, serve, infer, pay, kill a node, settle, query, check."""
    for number in (signal.SIGINT, signal.SIGTERM):  # a background job would not hear the first
        signal.signal(number, signal.default_int_handler)
    folder = (folder or ROOT / "var" / "demo" / f"{datetime.now():%Y%m%d-%H%M%S}-{os.getpid()}").resolve()  # noqa: DTZ005
    console, progress = Console(highlight=False), Console(stderr=True, highlight=False)
    if folder.exists():
        raise click.UsageError(f"{folder} exists; name a new folder")
    processes = Processes(folder / "logs")
    report: dict[str, Any] = {"ok": False, "folder": str(folder)}
    code = 1
    try:
        report, symbol = Demo(processes, folder, limit, progress).run()
        print_report(console, report, symbol)
        code = 0 if report["ok"] else 1
        save(report_path, report, progress)
        if keep:
            wait_for_interrupt(processes, progress)
    except KeyboardInterrupt:
        progress.print("stopped")
        code = code if keep and report["ok"] else 130
    except (DemoError, AssayError, httpx.HTTPError) as error:
        progress.print(
            f"[red]the demo failed[/red]: {escape(str(error))}\nlogs: {folder / 'logs'}", soft_wrap=True
        )
        save(report_path, report | {"error": str(error)}, progress)
    finally:
        processes.stop_all()
    sys.exit(code)


class Demo:
    """One run, start to end."""

    def __init__(self, processes: Processes, folder: Path, limit: int | None, console: Console) -> None:
        self.processes, self.folder, self.limit, self.console = processes, folder, limit, console
        self.started = time.monotonic()

    def say(self, text: str) -> None:
        self.console.print(f"[dim]{time.monotonic() - self.started:5.1f} s[/dim]  {text}", soft_wrap=True)

    def run(self) -> tuple[dict[str, Any], str]:
        """The report and the token's symbol."""
        world = build_world(self.folder, self.processes, self.say)
        traffic, mark = self.send_traffic(world)
        cheating = self.let_cheat(world, traffic)
        self.say("waiting until the nodes have posted their batches")
        settling.wait_until_posted(world)
        self.say(f"the watcher re-executes what was posted; {len(cheating.wrong)} answers were wrong")
        frauds = fraud.follow(world, len(cheating.wrong), self.say)
        self.say("letting the dispute window pass, waiting until the nodes have collected")
        settling.pass_dispute_window(world)
        settling.wait_until_collected(world)
        evidence = self.gather(world, traffic, mark, cheating, frauds)
        self.say("waiting for the index")
        network = settling.wait_until_indexed(world, len(evidence.batches))
        judged = [*check_all(evidence), check_index(world, evidence, network)]
        seconds = time.monotonic() - self.started
        return (
            build_report(world, evidence, judged, network, seconds),
            Token(world.chain, world.deployment).symbol(),
        )

    def send_traffic(self, world: World) -> tuple[Traffic, int]:
        """The traffic, and the receipts that the killed node had issued when it was back."""
        questions = build_questions(self.limit)
        consumers = [Consumer(world, person, questions[person.name]) for person in world.consumers]
        total = sum(len(consumer.questions) for consumer in consumers)
        self.say(f"{len(consumers)} consumers ask {total} questions; {KILLED} will be killed on the way")
        with self.bar("answers", total) as update:
            traffic = Traffic(consumers, update)
            traffic.run(FIRST_PART, lambda: self.kill_and_restart(world, traffic, total))
            mark = settling.count_rows(world, KILLED, "SELECT count(*) FROM receipts")
            self.say("waiting until the consumers trust it again")
            traffic.wait_until_trusted(world.people[KILLED].address)
            traffic.run(1.0)
        return traffic, mark

    def let_cheat(self, world: World, traffic: Traffic) -> fraud.Cheating:
        self.say(f"{CHEAT} joins, the cheapest of all; one answer in {ONE_IN} it gets wrong, and signs")
        fraud.join(world, self.processes)
        with self.bar("answers", ONE_IN) as update:
            cheating = fraud.ask(world, traffic.consumers, update)
        traffic.close()
        return cheating

    def kill_and_restart(self, world: World, traffic: Traffic, total: int) -> None:
        traffic.wait_for(round(total * FIRST_PART / 2))
        self.processes.kill(KILLED)
        self.say(f"[red]kill -9[/red] {KILLED}")
        time.sleep(OUTAGE_SECONDS)
        self.processes.restart(KILLED)
        self.processes.wait_until_ready(KILLED, world.urls[KILLED] + "/v2/health/ready")
        self.say(f"{KILLED} is back")

    def gather(
        self,
        world: World,
        traffic: Traffic,
        mark: int,
        cheating: fraud.Cheating,
        frauds: list[DisputeRecord],
    ) -> Evidence:
        self.say("reading logs, stores and chain")
        logs = {node.name: gather.read_node_log(world, node) for node in world.nodes}
        issued = {digest: signed for log in logs.values() for digest, signed in log.items()}
        kept: gather.Receipts = {}
        for consumer in world.consumers:
            kept |= gather.read_consumer(world, consumer)
        record = gather.ChainRecord(world)
        batches = record.posted()
        with self.bar("receipts checked from the chain", len(kept)) as update:
            reports = gather.verify_all(world, kept, batches, update)
        return Evidence(
            asked=traffic.total + ONE_IN,
            answers=(*(a for consumer in traffic.consumers for a in consumer.answers), *cheating.answers),
            issued=issued,
            kept=kept,
            batches=tuple(batches),
            reports=reports,
            money=gather.count_money(world, issued, record, frozenset(cheating.wrong)),
            wrong=frozenset(cheating.wrong),
            frauds=tuple(fraud.summarise(world, one, self.processes) for one in frauds),
            void=frozenset(Hash32(event.args["digest"]) for event in record.events["ReceiptVoided"]),
            collect_gas=record.gas("BatchCollected"),
            kills=1,
            restarted_receipts=len(logs[KILLED]) - mark,
        )

    @contextmanager
    def bar(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        columns = (TextColumn(" " * 8 + what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task(what, total=total)
            yield lambda done: progress.update(task, completed=done)


def check_index(world: World, evidence: Evidence, network: dict[str, Any]) -> Check:
    """The index and its API say what the chain says."""
    found = settling.availability(world)
    settled, verified = network["settled_inferences"], network["verified_inferences"]
    standing = {digest: s for digest, s in evidence.issued.items() if digest not in evidence.void}
    exact = sum(s.receipt.version_id == world.versions[CHEATED_MODEL] for s in standing.values())
    ok = found == ["available"] * len(evidence.batches)
    ok = ok and settled == len(standing) and verified == exact > 0
    available = found.count("available")
    detail = (
        f"{available} of {len(evidence.batches)} batches available, {settled} inferences settled, {verified} "
        f"verified: the {exact} of {CHEATED_MODEL}, the exact one, that stand"
    )
    return Check("the index agrees with the chain", ok, detail)


def save(path: Path | None, report: dict[str, Any], console: Console) -> None:
    if path:
        write_report(path, report)
        console.print(f"report: {path}", soft_wrap=True)


def wait_for_interrupt(processes: Processes, console: Console) -> None:
    console.print("everything keeps running; Ctrl-C ends it", soft_wrap=True)
    while True:
        time.sleep(1)
        for service in processes.services.values():
            if service.process.poll() not in (None, 0) and service.name in ("anvil", "hub", "index", "api"):
                raise DemoError(f"{service.name} ended ({service.log}):\n{service.tail()}")


if __name__ == "__main__":
    main()
