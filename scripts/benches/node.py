"""The node beside the servers that people use, in one run: paid, signed and durable answers a second.

A real node process on a real chain (Anvil), its receipts on disk, pinned to one core; the load comes from a
process on another core, one row a request, over 16 connections if nothing else is said. The references are
`session.run` of one row in a loop, and other servers of the same model, each alone on the node's core. All
are measured in turn, round after round, and each is given its best round.
"""

from __future__ import annotations

import contextlib
import json
from typing import Any

from scripts.benches import peers
from scripts.benches.load.cores import on_cores
from scripts.benches.load.drive import drive, responding
from scripts.benches.load.plan import Plan
from scripts.benches.node_bare import measure_bare
from scripts.benches.node_rows import Measured, build_rows
from scripts.benches.options import Options
from scripts.benches.stage import PRICE, WARMUP, Offer, Stage, build_stage
from scripts.benches.workloads import Workload, cnn, digits, measure_raw, mlp

CONNECTIONS = 16
OPEN_CONNECTIONS = 64
"""For arrivals at a fixed rate: more than are ever busy."""
SECONDS = 2.5
RAW_SECONDS = 1.0
ANSWER_BYTES = 900
"""Of the responder's answers; a node's have as many."""


def measure_ceiling(stage: Stage, offer: Offer, found: Measured) -> None:
    """What the generator reaches if the server does nothing, with the requests of `offer`."""
    request = offer.infer.render({})
    with responding(sum(map(len, request)), ANSWER_BYTES, stage.cores.server) as port:
        for name, connections in (("generator", CONNECTIONS), ("generator_1", 1)):
            plan = Plan(port, RAW_SECONDS, connections, WARMUP, fixed=request)
            found.add(name, drive(plan, stage.cores.client))


def measure_reference(stage: Stage, workload: Workload, found: Measured) -> float:
    """Rows a second of `session.run`."""
    with on_cores(stage.cores.server):
        raw = measure_raw(workload, RAW_SECONDS)
    found.add_raw(workload.name, raw)
    return raw.rate


def measure_floor(stage: Stage, workload: Workload, found: Measured) -> None:
    with on_cores(stage.cores.server):
        found.bares.append(measure_bare(workload, RAW_SECONDS))


def measure_mlp(stage: Stage, free: Offer, paid: Offer, found: Measured) -> None:
    """Signed; paid; paid at one connection; paid at half of what was just reached."""
    raw = measure_reference(stage, paid.workload, found)
    measure_floor(stage, paid.workload, found)
    signed = stage.load(free, SECONDS, 0)
    found.add("mlp_signed", signed)
    load = stage.load(paid, SECONDS, signed.rate)
    found.add("mlp_paid", load)
    found.add("mlp_paid_1", stage.load(paid, SECONDS / 2, raw, connections=1))
    half = load.rate / 2
    found.add("mlp_half", stage.load(paid, SECONDS, half, connections=OPEN_CONNECTIONS, rate=half))


def measure_cnn(stage: Stage, paid: Offer, found: Measured) -> None:
    raw = measure_reference(stage, paid.workload, found)
    found.add("cnn_paid", stage.load(paid, SECONDS, raw * 1.5))


def measure_digits(stage: Stage, free: Offer, paid: Offer, found: Measured) -> None:
    measure_reference(stage, paid.workload, found)
    signed = stage.load(free, SECONDS, 0)
    found.add("digits_signed", signed)
    found.add("digits_paid", stage.load(paid, SECONDS, signed.rate))


def measure_peer(stage: Stage, peer: peers.Running, found: Measured) -> None:
    with peer.awake():
        for suffix, connections in (("", CONNECTIONS), ("_1", 1)):
            load = drive(peer.plan(RAW_SECONDS, connections, WARMUP), stage.cores.client)
            for answer in load.last:
                peer.check(answer)
            found.add(f"{peer.name}{suffix}", load)


def run(options: Options) -> list[dict[str, Any]]:
    """Raises `peers.Missing` if another server cannot be installed, unless `options` leave them out."""
    chosen = peers.install_all(options.progress) if options.peers else []
    found = Measured()
    with contextlib.ExitStack() as stack:
        stage = stack.enter_context(build_stage())
        found.cores = stage.cores
        network, image, small = mlp(), cnn(), digits()
        pairs = [
            (stage.offer(one, f"{one.name}-free", 0), stage.offer(one, f"{one.name}-paid", PRICE))
            for one in (network, small)
        ]
        exact = stage.offer(image, image.name, PRICE)
        options.progress("starting the node")
        stack.enter_context(stage.serving())
        stage.add_payers(OPEN_CONNECTIONS)
        running = [stack.enter_context(peers.started(peer, network, stage.cores.server)) for peer in chosen]
        for i in range(options.rounds):
            here = f"round {i + 1} of {options.rounds}"
            options.progress(f"{here}: what the generator reaches")
            measure_ceiling(stage, pairs[0][0], found)
            options.progress(f"{here}: the float32 network")
            measure_mlp(stage, *pairs[0], found)
            options.progress(f"{here}: the int8 network")
            measure_cnn(stage, exact, found)
            options.progress(f"{here}: the digits")
            measure_digits(stage, *pairs[1], found)
            for peer in running:
                options.progress(f"{here}: {peer.name}")
                measure_peer(stage, peer, found)
    return build_rows(found)


if __name__ == "__main__":
    print(json.dumps(run(Options(progress=print)), indent=2))
