"""How the node's cost grows: with cores and sessions, with the model's size, with the number of consumers.

Each figure stands beside what it would be if the cost were linear, measured in this run.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from assay.node.config import LimitsConfig

from scripts.benches.load.cores import on_cores
from scripts.benches.node_rows import Row, build_row
from scripts.benches.options import Options
from scripts.benches.stage import PRICE, Offer, Stage, build_stage
from scripts.benches.workloads import Raw, cnn, measure_raw, mlp

SESSIONS = (1, 2, 4)
SIZES = {
    "10kB": (250, 10),
    "1MB": (250, 1_000, 10),
    "10MB": (250, 1_500, 1_400, 10),
    "100MB": (250, 4_900, 4_900, 10),
    "500MB": (250, 11_000, 11_000, 10),
}
"""Fully connected, float32, of one input size: what differs is the model alone."""
CONSUMERS = (1, 10, 100, 1_000)
SECONDS = 2.0
LARGEST = LimitsConfig(artifact_mib=640, sandbox_mib=8_192, sandbox_seconds=300)
FIRST_RATE = 4_000.0
"""Requests a second for which vouchers are signed before a rate is known."""


@dataclass(frozen=True)
class Loaded:
    """A model of one size. `seconds`: from the node's start until it is served; times in milliseconds."""

    seconds: float
    p50: float
    raw: Raw


def measure_sessions(count: int, rounds: int) -> float:
    """Requests a second of the int8 network by `count` sessions on as many cores."""
    with build_stage(servers=count, run_threads=count) as stage:
        offer = stage.offer(cnn(), "cnn", PRICE)
        with stage.serving():
            expected = 1_500.0 * count
            return max(stage.load(offer, SECONDS, expected, connections=32).rate for _ in range(rounds))


def session_rows(options: Options) -> list[Row]:
    """For as many sessions as there are cores; the generator has one of them beside it, if one is left."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    found: dict[int, float] = {}
    for count in SESSIONS:
        if count > cores:
            continue
        options.progress(f"{count} sessions")
        found[count] = measure_sessions(count, options.rounds)
    rows = []
    for count, rate in found.items():
        shared = ", one shared with the generator and the chain" if count == cores else ""
        unit = f"requests/s, int8 network, {count} cores{shared}; reference: {count} × one session"
        rows.append(build_row(f"scale_sessions_{count}_rps", rate, unit, found[1] * count))
    return rows


def measure_size(sizes: tuple[int, ...], rounds: int) -> Loaded:
    """Unpaid, so that nothing but the model differs; p50 at one connection."""
    workload = mlp(sizes)
    with build_stage(limits=LARGEST) as stage:
        offer = stage.offer(workload, "sized", 0)
        started = time.monotonic()
        with stage.serving():
            seconds = time.monotonic() - started
            raws, p50s = [], []
            for _ in range(rounds):
                with on_cores(stage.cores.server):
                    raws.append(measure_raw(workload, SECONDS / 2))
                p50s.append(stage.load(offer, SECONDS / 2, 0, connections=1).percentile(50))
    return Loaded(seconds, min(p50s), min(raws, key=lambda raw: raw.p50))


def size_rows(options: Options) -> list[Row]:
    rows = []
    smallest: Loaded | None = None
    for name, sizes in SIZES.items():
        options.progress(f"a model of {name}")
        found = measure_size(sizes, options.rounds)
        smallest = smallest or found
        rows += [
            build_row(
                f"scale_model_{name}_ready_s",
                found.seconds,
                "s from the node's start until it serves; reference: the smallest model",
                smallest.seconds,
            ),
            build_row(
                f"scale_model_{name}_overhead_ms",
                found.p50 - found.raw.p50,
                "ms of a request beside its run; reference: the run",
                found.raw.p50,
            ),
        ]
    return rows


def measure_consumers(stage: Stage, offer: Offer, count: int, rounds: int) -> float:
    """Requests a second of so many payers who take turns at 16 connections."""
    rates = [FIRST_RATE]
    while any(not offer.spent[i] for i in range(count)):  # the node reads each one's escrow once
        rates.append(stage.load(offer, SECONDS / 2, max(rates), payers=count).rate)
    measured = [stage.load(offer, SECONDS, max(rates) * 1.5, payers=count).rate for _ in range(rounds)]
    return max(measured)


def consumer_rows(options: Options) -> list[Row]:
    found: dict[int, float] = {}
    with build_stage() as stage:
        offer = stage.offer(mlp(), "mlp", PRICE)
        with stage.serving():
            for count in CONSUMERS:
                options.progress(f"{count:,} consumers")
                found[count] = measure_consumers(stage, offer, count, options.rounds)
    unit = "requests/s, float32 network, paid, 16 connections; reference: one consumer"
    return [build_row(f"scale_consumers_{n}_rps", rate, unit, found[1]) for n, rate in found.items()]


def run(options: Options) -> list[Row]:
    parts: tuple[Callable[[Options], list[Row]], ...] = (consumer_rows, session_rows, size_rows)
    return [row for part in parts for row in part(options)]
