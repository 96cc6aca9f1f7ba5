"""Events per second that the index takes from a real Anvil into SQLite, against only fetching and decoding
them with web3.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

from assay.chain.client import ChainClient
from assay.chain.deployments import CONTRACTS, Deployment
from assay.chain.values import Call
from assay.commitments.identifiers import keccak
from assay.db.engine import open_engine, upgrade
from assay.index.fetch import Fetcher
from assay.index.follower import Follower, Outcome
from assay.types import Address, Hash32
from eth_utils.abi import event_abi_to_log_topic
from web3 import HTTPProvider, Web3
from web3._utils.events import get_event_data

from tests.support.index_world import World, index_world

ROUNDS = 20
PER_ROUND = {"offers": 150, "funds": 100, "batches": 25}
WINDOW = 2_000
"""Blocks in one eth_getLogs, for both sides."""


def send_all(rpc: ChainClient, calls: list[tuple[Address, Call]]) -> None:
    """Into one block, from unlocked accounts."""
    rpc.batch(
        [
            (
                "eth_sendTransaction",
                [{"from": sender, "to": call.to, "data": "0x" + call.data.hex(), "gas": hex(300_000)}],
            )
            for sender, call in calls
        ]
    )


def write_events(world: World) -> int:
    """Offers, deposits and batches of two vouchers, in blocks of one kind each; returns how many events
    they log.
    """
    version = world.publish()
    node = world.add_node("http://127.0.0.1:9", {version: 1})
    consumers = [world.consumer(number) for number in range(2)]
    for consumer in consumers:
        world.fund(consumer.address, node.operator, 10**9)
    bank, paid = world.accounts[0], 0
    world.chain.request("evm_setBlockGasLimit", hex(10**9))
    world.chain.set_automine(False)
    for turn in range(ROUNDS):
        offers = [world.nodes.offer(keccak(b"%d %d" % (turn, i)), i) for i in range(PER_ROUND["offers"])]
        funds = [
            world.settlement.fund(consumers[i % 2].address, node.operator, 1 + i)
            for i in range(PER_ROUND["funds"])
        ]
        batches = []
        for i in range(PER_ROUND["batches"]):
            paid += 1
            vouchers = [world.voucher(node, version, consumer, paid, paid) for consumer in consumers]
            root = Hash32(keccak(b"root %d %d" % (turn, i)))
            batches.append(world.settlement.post_batch(node.operator, version, root, vouchers))
        for sender, calls in ((node.operator, offers), (bank, funds), (node.operator, batches)):
            send_all(world.rpc, [(sender, call) for call in calls])
            world.chain.mine()
    world.chain.set_automine(True)
    return ROUNDS * sum(PER_ROUND.values())


def index_seconds(world: World, folder: Path) -> tuple[float, int]:
    """From nothing to the head: (seconds, events)."""
    engine = open_engine(f"sqlite:///{folder / 'bench.sqlite3'}")
    upgrade(engine)
    fetcher = Fetcher.of(world.rpc, world.deployment)
    follower = Follower(engine, fetcher, world.deployment, max_range=WINDOW)
    started, events = time.perf_counter(), 0
    follower.prepare()
    while (step := follower.step()).outcome is Outcome.ADVANCED:
        events += step.events
    elapsed = time.perf_counter() - started
    engine.dispose()
    return elapsed, events


def web3_seconds(url: str, deployment: Deployment, head: int) -> tuple[float, int]:
    """`eth_getLogs` and decoding, nothing kept: (seconds, events)."""
    web3 = Web3(HTTPProvider(url))
    abis = {}
    for name in CONTRACTS:
        for entry in deployment.abi(name):
            if entry["type"] == "event":
                abis[deployment.addresses[name], bytes(event_abi_to_log_topic(entry))] = entry  # type: ignore[arg-type]
    started, events = time.perf_counter(), 0
    for first in range(deployment.block, head + 1, WINDOW):
        logs = web3.eth.get_logs(
            {
                "fromBlock": first,
                "toBlock": min(head, first + WINDOW - 1),
                "address": [Web3.to_checksum_address(deployment.addresses[name]) for name in CONTRACTS],
            }
        )
        for log in logs:
            get_event_data(web3.codec, abis[Address(log["address"]), bytes(log["topics"][0])], log)
            events += 1
    return time.perf_counter() - started, events


def run() -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as name, index_world(Path(name)) as world:
        written = write_events(world)
        head = world.chain.block_number()
        ours, ours_seen = index_seconds(world, Path(name))
        theirs, theirs_seen = web3_seconds(world.chain.url, world.deployment, head)
    if ours_seen != theirs_seen or ours_seen < written:
        raise RuntimeError(f"{written} events written, index took {ours_seen}, web3 {theirs_seen}")
    value, reference = ours_seen / ours, theirs_seen / theirs
    return [
        {
            "name": "index_events_per_second",
            "value": round(value),
            "unit": "events/s",
            "reference": round(reference),
            "ratio": round(value / reference, 3),
        }
    ]


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
