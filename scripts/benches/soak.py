"""Minutes at one and a half times of what the node can take, from many consumers and a greedy one.

Held to: flat memory; no receipt lost, doubled or skipped; a Retry-After with each 503; the honest consumers'
fair share; bounded latency of what is let in; an orderly end. Ctrl-C ends it early, and it still reports.
"""

from __future__ import annotations

import contextlib
import json
import pickle
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from assay.commitments.signing import SigningKey
from assay.node.config import LOG_FILE
from assay.types import Address
from numpy.typing import NDArray

from scripts.benches.load import overload
from scripts.benches.load.cores import on_cores
from scripts.benches.load.overload import Caller, Overloaded, OverloadPlan
from scripts.benches.node_rows import Row
from scripts.benches.options import Options
from scripts.benches.soak_report import (
    MIB,
    RECEIPT,
    Memory,
    Soak,
    build_rows,
    compare,
    describe_refusals,
    find_failures,
)
from scripts.benches.stage import PRICE, ROOT, Offer, Stage, build_stage
from scripts.benches.workloads import mlp

SIZES = (784, 4096, 2048, 10)
"""Heavy enough that a generator in Python can offer more than the node takes, and sign it."""
OVER = 1.5
HONEST = 32
GREEDY_SHARE = 0.5
"""Of all that is offered: what the honest ones ask for is within their fair share."""
HONEST_LIMIT, GREEDY_LIMIT = 16, 384
"""Requests under way, each on a connection: fewer in all than a node lets connect. A greedy consumer does not
care how many receipts it is behind."""
CAPACITY_SECONDS = 4.0
CAPACITY_CONNECTIONS = 64
SAMPLE_SECONDS = 1.0


def measure_capacity(stage: Stage, offer: Offer) -> float:
    """Paid answers a second, the better of two closed loops."""
    guess, found = 6_000.0, 0.0
    for _ in range(2):
        load = stage.load(offer, CAPACITY_SECONDS, guess, connections=CAPACITY_CONNECTIONS)
        found = max(found, load.rate)
        guess = found * 1.5
    return found


def build_plan(stage: Stage, offer: Offer, capacity: float, seconds: float, folder: Path) -> OverloadPlan:
    """Its callers are fresh and funded; the last is the greedy one."""
    before = len(stage.payers)
    stage.add_payers(before + HONEST + 1)
    fresh = stage.payers[before:]
    honest = [Caller(secret, (1 - GREEDY_SHARE) / HONEST, HONEST_LIMIT) for secret in fresh[:-1]]
    return OverloadPlan(
        port=stage.node.port,
        seconds=seconds,
        rate=capacity * OVER,
        connections=HONEST * HONEST_LIMIT + GREEDY_LIMIT,
        infer=offer.infer,
        payment=stage.payment(offer),
        callers=(*honest, Caller(fresh[-1], GREEDY_SHARE, GREEDY_LIMIT)),
        receipts=folder / "answered",
    )


class Watch:
    """Samples the memory of a process and its children."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._begin = time.monotonic()
        self._last = 0.0
        self.samples: list[tuple[float, int]] = []

    def look(self) -> None:
        """At most once in SAMPLE_SECONDS."""
        now = time.monotonic() - self._begin
        if self.samples and now - self._last < SAMPLE_SECONDS:
            return
        self._last = now
        with contextlib.suppress(psutil.NoSuchProcess):
            every = [self._process, *self._process.children(recursive=True)]
            self.samples.append((now, sum(one.memory_info().rss for one in every)))


def drive(plan: OverloadPlan, stage: Stage, folder: Path, options: Options) -> tuple[Overloaded, Memory]:
    """Until the time is over, or Ctrl-C. Raises RuntimeError if node or generator fail."""
    paths = [folder / "plan", folder / "result"]
    paths[0].write_bytes(pickle.dumps(plan))
    command = [sys.executable, "-m", "scripts.benches.load.overload", *map(str, paths)]
    with on_cores(stage.cores.client):
        generator = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
        )
    assert stage.node.process is not None
    watch = Watch(stage.node.process.pid)
    try:
        with _interruptible(generator):
            for line in generator.stdout or ():
                watch.look()
                options.progress(_describe(json.loads(line), watch, plan))
        _, errors = generator.communicate(timeout=60)
    finally:
        if generator.poll() is None:
            generator.kill()
            generator.wait()
    if generator.returncode or stage.node.process.poll() is not None:
        log = (stage.node.folder / "node.log").read_text()[-1500:]
        raise RuntimeError(f"the load ended early: {errors[-1500:]}\nThe node said:\n{log}")
    load: Overloaded = pickle.loads(paths[1].read_bytes())
    return load, Memory(tuple(watch.samples))


@contextlib.contextmanager
def _interruptible(generator: subprocess.Popen[str]) -> Iterator[None]:
    """Ctrl-C ends the load in order; a second one is the usual."""

    def stop(*_: object) -> None:
        signal.signal(signal.SIGINT, before)
        generator.terminate()

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _describe(said: dict[str, Any], watch: Watch, plan: OverloadPlan) -> str:
    seconds, size = said["seconds"], watch.samples[-1][1] / MIB if watch.samples else 0
    return (
        f"{seconds:,.0f} of {plan.seconds:,.0f} s; {said['offered']:,} offered, {said['served']:,} served, "
        f"{said['refused']:,} refused, {said['broken']} connections broken, {size:,.0f} MiB"
    )


def read_answered(path: Path) -> NDArray[Any]:
    return np.fromfile(path, RECEIPT)


def read_logged(path: Path, version_id: bytes, callers: dict[Address, int]) -> NDArray[Any]:
    """The log's receipts of those callers, by their numbers."""
    query = (
        "SELECT c.consumer, r.sequence, r.digest FROM receipts r JOIN channels c ON c.id = r.channel"
        " WHERE c.version_id = ?"
    )
    with contextlib.closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(query, (version_id,))
        found = b"".join(
            overload.RECEIPT.pack(callers[consumer], sequence, digest)
            for consumer, sequence, digest in rows
            if consumer in callers
        )
    return np.frombuffer(found, RECEIPT)


def run(options: Options) -> list[Row]:
    """Failures go to `options.failures`."""
    seconds = options.minutes * 60
    with build_stage() as stage, tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        offer = stage.offer(mlp(SIZES), "soak", PRICE)
        with stage.serving():
            options.progress("measuring what the node can take")
            capacity = measure_capacity(stage, offer)
            plan = build_plan(stage, offer, capacity, seconds, folder)
            load, memory = drive(plan, stage, folder, options)
            options.progress("stopping the node, reading its log")
            status = stage.node.stop()
        callers = {SigningKey(one.secret).address: i for i, one in enumerate(plan.callers)}
        answered = read_answered(plan.receipts)
        logged = read_logged(stage.node.folder / LOG_FILE, offer.published.version_id, callers)
    comparisons = tuple(
        compare(answered[answered["caller"] == i], logged[logged["caller"] == i]) for i in range(len(callers))
    )
    soak = Soak(capacity, load, memory, comparisons, status, seconds)
    options.failures.extend(find_failures(soak))
    options.notes.append(describe_memory(memory))
    options.notes.append(describe_refusals(soak))
    return build_rows(soak)


def describe_memory(memory: Memory) -> str:
    """A line of about 30 samples, MiB."""
    step = max(1, len(memory.samples) // 30)
    shown = " ".join(f"{size / MIB:.0f}" for _, size in memory.samples[::step])
    return f"memory of the node, MiB, every {step * SAMPLE_SECONDS:g} s: {shown}"
