"""The node beside the servers that people use, in one run: paid, signed and durable answers a second.

A real node process on a real chain (Anvil), its receipts on disk, pinned to one core; the load comes from a
process on another core, one row a request, over 16 connections and over 64. The references are `session.run`
of one row in a loop, what any server needs for such answers by the same libraries (`required`), the least
that a server in Python can do, and other servers of the same model, each alone on the node's core. All are
measured in turn, round after round, and each is given its best round.
"""

from __future__ import annotations

import contextlib
import json
import secrets
from collections import Counter
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from assay.commitments.signing import SigningKey

from scripts.benches import least, peers, required
from scripts.benches.load.cores import on_cores
from scripts.benches.load.drive import drive, responding
from scripts.benches.load.plan import Load, Plan
from scripts.benches.node_rows import Beside, Measured, build_rows
from scripts.benches.options import Options
from scripts.benches.required import ANSWER_BYTES
from scripts.benches.stage import PRICE, WARMUP, Offer, Other, Stage, build_stage
from scripts.benches.workloads import Workload, cnn, digits, measure_raw, mlp

CONNECTIONS = 16
MANY_CONNECTIONS = 64
OPEN_CONNECTIONS = 64
"""For arrivals at a fixed rate: more than are ever busy."""
SECONDS = 2.5
RAW_SECONDS = 1.0
TURNS = 2


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


@dataclass(frozen=True)
class Answering:
    """Who answers: the node, or, under their `prefix`, `others`, one for each of the offers."""

    free: Offer
    paid: Offer
    image: Offer
    prefix: str = ""
    others: tuple[Other, ...] = ()

    def load(self, stage: Stage, which: int, seconds: float, expected: float, **more: Any) -> Load:
        offer = (self.free, self.paid, self.image)[which]
        return stage.load(offer, seconds, expected, other=self.others[which] if self.others else None, **more)


FREE, PAID, IMAGE = 0, 1, 2


def measure_mlp(stage: Stage, server: Answering, raw: float, found: Measured) -> None:
    """Signed and paid, each over few connections and over many; paid at one connection; paid at half of what
    was just reached."""
    name = f"{server.prefix}mlp"
    signed = server.load(stage, FREE, SECONDS, 0)
    found.add(f"{name}_signed", signed)
    many = server.load(stage, FREE, SECONDS, 0, connections=MANY_CONNECTIONS)
    found.add(f"{name}_signed_64", many)
    load = server.load(stage, PAID, SECONDS, signed.rate)
    found.add(f"{name}_paid", load)
    found.add(f"{name}_paid_64", server.load(stage, PAID, SECONDS, many.rate, connections=MANY_CONNECTIONS))
    found.add(f"{name}_paid_1", server.load(stage, PAID, SECONDS / 2, raw, connections=1))
    half = load.rate / 2
    found.add(
        f"{name}_half", server.load(stage, PAID, SECONDS, half, connections=OPEN_CONNECTIONS, rate=half)
    )


def measure_cnn(stage: Stage, server: Answering, image: Workload, found: Measured) -> None:
    """In turn with raw: what is asked is a ratio near 1, and the machine's speed changes by the second."""
    raws, rates = [measure_reference(stage, image, found)], []
    for _ in range(TURNS):
        load = server.load(stage, IMAGE, SECONDS / TURNS, raws[-1] * 2)
        found.add(f"{server.prefix}cnn_paid", load)
        rates.append(load.rate)
        raws.append(measure_reference(stage, image, found))
    found.add_in_turn(f"{server.prefix}cnn_paid", Beside(fmean(rates), fmean(raws)))


def measure_digits(stage: Stage, free: Offer, paid: Offer, found: Measured) -> None:
    measure_reference(stage, paid.workload, found)
    signed = stage.load(free, SECONDS, 0)
    found.add("digits_signed", signed)
    found.add("digits_paid", stage.load(paid, SECONDS, signed.rate))


def measure_peer(stage: Stage, peer: peers.Running, found: Measured) -> None:
    with peer.awake():
        for suffix, connections in (("", CONNECTIONS), ("_64", MANY_CONNECTIONS), ("_1", 1)):
            load = drive(peer.plan(RAW_SECONDS, connections, WARMUP), stage.cores.client)
            for answer in load.last:
                peer.check(answer)
            found.add(f"{peer.name}{suffix}", load)


def start_least(stack: contextlib.ExitStack, stage: Stage, node: Answering) -> Answering:
    """One for each of the node's offers, on its core."""
    offers = [replace(offer, spent=Counter()) for offer in (node.free, node.paid, node.image)]
    others = []
    for offer in offers:
        key = SigningKey(secret := secrets.token_bytes(32))
        who = stage.payment(offer)
        spec = least.Least(replace(offer.workload), offer.price, who.domain, who.node, who.version_id, secret)
        port = stack.enter_context(least.started(spec, stage.cores.server))
        others.append(Other(port, key.address))
    free, paid, image = offers
    return Answering(free, paid, image, "least_", tuple(others))


def request_bytes(stage: Stage, offer: Offer) -> int:
    """Of one for the offer, with its voucher if it has a price."""
    parameters = stage.payment(offer).sign(SigningKey.generate(), 1_000) if offer.price else {}
    return sum(map(len, offer.infer.render(parameters)))


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
        node = Answering(*pairs[0], exact)
        lean = start_least(stack, stage, node)
        free, paid, large = (request_bytes(stage, offer) for offer in (node.free, node.paid, node.image))
        for i in range(options.rounds):
            here = f"round {i + 1} of {options.rounds}"
            options.progress(f"{here}: what the generator reaches")
            measure_ceiling(stage, pairs[0][0], found)
            options.progress(f"{here}: the float32 network")
            raw = measure_reference(stage, network, found)
            required.measure_mlp(network, PRICE, (free, paid), stage.cores, found)
            for server in (node, lean):
                measure_mlp(stage, server, raw, found)
            options.progress(f"{here}: the int8 network")
            required.measure_cnn(image, PRICE, large, stage.cores, found)
            for server in (node, lean):
                measure_cnn(stage, server, image, found)
            options.progress(f"{here}: the digits")
            measure_digits(stage, *pairs[1], found)
            for peer in running:
                options.progress(f"{here}: {peer.name}")
                measure_peer(stage, peer, found)
    return build_rows(found)


if __name__ == "__main__":
    print(json.dumps(run(Options(progress=print)), indent=2))
