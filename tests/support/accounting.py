"""Consumers at random and what may happen to the node that they pay: prices that change, a version revoked,
kills, reorgs, escrow that thaws.

    world = World(network, seed); world.start(); world.round(0); world.finish()
"""

from __future__ import annotations

import json
import random
import sqlite3
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
from assay.commitments.receipts import receipt_from_json
from assay.commitments.signing import verify_signer
from assay.node.config import SettlementConfig
from assay.types import Hash32, VersionStatus

from tests.support.nodes import ASSAY, Consumer, Network, Published
from tests.support.onnx_models import linear_manifest, linear_model

WINDOW = 30


@dataclass(eq=False)
class Stream:
    """One consumer's requests to one version, and the receipts it has for them, by sequence."""

    world: World
    consumer: Consumer
    published: Published
    rng: random.Random
    receipts: dict[int, dict[str, Any]] = field(default_factory=dict)
    answered: list[tuple[list[list[float]], dict[str, str], str]] = field(default_factory=list)
    amount: int = 0
    count: int = 0
    refused: list[str] = field(default_factory=list)

    @property
    def charged(self) -> int:
        return sum(int(receipt["price"]) for receipt in self.receipts.values())

    def ask(self) -> None:
        """A new request, or one that was answered before, byte for byte."""
        if self.answered and self.rng.random() < 0.15:
            rows, voucher, receipt = self.rng.choice(self.answered)
            reply = self._send(rows, voucher)
            if reply.status_code == 200:
                assert reply.json()["parameters"]["receipt"] == receipt
            return
        price = self.world.prices[self.published.version_id]
        amount = max(self.charged + price, self.amount + 1) + self.rng.choice((0, 0, 0, 3))
        amount -= self.rng.choice((0, 0, 0, 0, price))
        count = self.rng.randint(min(self.count, len(self.receipts)), len(self.receipts))
        rows = [[self.rng.random() for _ in range(4)]]
        voucher = self.consumer.voucher(
            self.world.node.operator, self.published.version_id, max(amount, 0), count
        )
        reply = self._send(rows, voucher)
        if reply.status_code == 200:
            self._keep(rows, voucher, reply.json()["parameters"]["receipt"])
        else:
            self.refused.append(reply.json()["code"])
        if reply.status_code == 200 and amount > self.amount:
            self.amount, self.count = amount, count

    def _keep(self, rows: list[list[float]], voucher: dict[str, str], text: str) -> None:
        receipt = json.loads(text)
        assert receipt["sequence"] not in self.receipts
        signed = receipt_from_json(self.world.network.domain, receipt)
        signer = self.world.node.signer.address
        verify_signer(bytes.fromhex(receipt["digest"][2:]), signed.signature, signer)
        self.receipts[receipt["sequence"]] = receipt
        self.answered.append((rows, voucher, text))

    def _post(self, rows: list[list[float]], voucher: dict[str, str]) -> httpx.Response:
        """As JSON, or as a binary tensor, which takes another way through the node."""
        if rows[0][0] < 0.3:
            return self.world.node.infer(self.published, rows, **voucher)
        data = np.array(rows, np.float32).tobytes()
        tensor: dict[str, Any] = {"name": "x", "datatype": "FP32", "shape": [1, 4]}
        tensor["parameters"] = {"binary_data_size": len(data)}
        head = json.dumps({"inputs": [tensor], "parameters": voucher}).encode()
        headers = {"Inference-Header-Content-Length": str(len(head))}
        url = f"{self.world.node.url}{self.published.path}/infer"
        return httpx.post(url, content=head + data, headers=headers, timeout=30.0)

    def _send(self, rows: list[list[float]], voucher: dict[str, str]) -> httpx.Response:
        deadline = time.monotonic() + 60
        while True:
            try:
                reply = self._post(rows, voucher)
            except httpx.TransportError:
                reply = None
            if reply is not None and reply.status_code != 503:
                return reply
            assert time.monotonic() < deadline, "the node did not come back" if reply is None else reply.text
            time.sleep(0.05)


class World:
    """A node with two versions and three consumers, and what may happen to it."""

    def __init__(self, network: Network, seed: int) -> None:
        self.network, self.rng = network, random.Random(seed)
        settlement = SettlementConfig(poll_seconds=0.1, max_age_seconds=1, max_receipts=25)
        self.node = network.add_node(settlement=settlement)
        self.prices: dict[Hash32, int] = {}
        self.versions = [network.publish("linear", linear_model(), linear_manifest()) for _ in range(2)]
        for published in self.versions:
            self.change_price(published)
        self.consumers = [network.add_consumer((self.node.operator, 200)) for _ in range(3)]
        self.streams = [
            Stream(self, consumer, published, random.Random(self.rng.random()))
            for consumer in self.consumers
            for published in self.versions
        ]

    # What happens

    def change_price(self, published: Published) -> None:
        price = self.rng.randint(1, 9)
        self.node.offer(published, price)
        self.prices[published.version_id] = price

    def revoke(self) -> None:
        one = self.versions[-1]
        self.network.send(self.network.models.set_status(one.version_id, VersionStatus.REVOKED))

    def fund(self, consumer: Consumer, amount: int) -> None:
        consumer.fund(self.node.operator, amount)

    def traffic(self, meanwhile: Callable[[], None] | None = None) -> None:
        """Every consumer asks a few times, all at once."""

        def ask(streams: list[Stream]) -> None:
            for _ in range(6):
                self.one_of(streams).ask()

        groups = [[s for s in self.streams if s.consumer is consumer] for consumer in self.consumers]
        with ThreadPoolExecutor(len(groups)) as pool:
            running = [pool.submit(ask, group) for group in groups]
            if meanwhile is not None:
                time.sleep(0.02)
                meanwhile()
            for one in running:
                one.result()

    @staticmethod
    def one_of(streams: list[Stream]) -> Stream:
        return streams[0].rng.choice(streams)

    def restart(self, end: Callable[[], object]) -> None:
        end()
        self.start()

    def start(self) -> None:
        found = [self.network.models.version(one.version_id).status for one in self.versions]
        self.node.start(offers=sum(status is not VersionStatus.REVOKED for status in found))

    def reorg(self) -> None:
        """What follows is undone on the chain, not in the node's files."""
        snapshot = self.network.chain.snapshot()
        self.traffic()
        self.fund(self.rng.choice(self.consumers), 5)
        time.sleep(self.rng.choice((0.2, 1.5)))
        self.network.chain.increase_time(self.rng.choice((1, WINDOW)))
        time.sleep(0.5)
        self.network.chain.revert(snapshot)

    def thaw(self) -> None:
        """A consumer begins to take its escrow out, and thinks better of it, or not."""
        consumer, settlement = self.rng.choice(self.consumers), self.network.settlement
        balance = settlement.escrow(consumer.address, self.node.operator).balance
        self.network.chain.set_balance(consumer.address, 10**18)
        self.network.chain.request("anvil_impersonateAccount", consumer.address)
        if balance:
            amount = self.rng.randint(1, balance)
            self.network.send_as(consumer.address, settlement.begin_thaw(self.node.operator, amount))
        self.traffic()
        if self.rng.random() < 0.5 and balance:
            self.network.send_as(consumer.address, settlement.cancel_thaw(self.node.operator))

    def round(self, number: int) -> None:
        events: list[Callable[[], None]] = [
            self.reorg,
            lambda: self.traffic(lambda: self.restart(self.node.kill)),
            lambda: self.traffic(lambda: self.change_price(self.rng.choice(self.versions[:-1]))),
            self.thaw,
            lambda: self.traffic(lambda: self.restart(self.node.stop)),
            lambda: self.fund(self.rng.choice(self.consumers), self.rng.randint(1, 60)),
            lambda: self.network.chain.increase_time(WINDOW),
        ]
        (events[number] if number < 4 else self.rng.choice(events))()
        if number == 2:
            self.traffic(self.revoke)

    # How it ends

    def finish(self) -> None:
        """All that can be paid is paid, collected and claimed."""
        for consumer in self.consumers:
            self.fund(consumer, 500)
        for stream in self.streams:
            for _ in range(3):
                stream.ask()
        time.sleep(1.2)
        for _ in range(2):
            self.network.chain.mine(64)
            self.restart(self.node.stop)
            deadline = time.monotonic() + 20
            while not self.is_settled() and time.monotonic() < deadline:
                self.network.chain.increase_time(WINDOW)
                time.sleep(0.3)
        assert self.node.stop() == 0

    def is_settled(self) -> bool:
        with closing(sqlite3.connect(self.node.folder / "receipts.sqlite3", timeout=30)) as db:
            (open_,) = db.execute("SELECT count(*) FROM channels WHERE sequence > closed").fetchone()
            (moving,) = db.execute("SELECT count(*) FROM batches WHERE state <> 'collected'").fetchone()
        claimable = self.network.settlement.claimable(self.node.operator)
        return (open_, moving, claimable) == (0, 0, 0)

    def profit(self, *options: str) -> list[dict[str, Any]]:
        line = [*ASSAY, "node", "profit", "--data", str(self.node.folder), "--json", *options]
        done = subprocess.run(line, capture_output=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return list(json.loads(done.stdout)["days" if options else "versions"])
