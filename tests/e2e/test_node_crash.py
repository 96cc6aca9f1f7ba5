"""`kill -9` of a real node amid paid traffic: no receipt lost or doubled, no gap, nobody pays twice."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from assay.commitments.receipts import receipt_from_json
from assay.commitments.signing import verify_signer
from assay.node.config import SettlementConfig
from assay.node.receipts.database import SqliteDatabase
from assay.node.receipts.log import ReceiptLog

from tests.support.nodes import Consumer, Network, NodeUnderTest, Published, local_network
from tests.support.onnx_models import linear_manifest, linear_model

pytestmark = pytest.mark.e2e

PRICE = 5
REQUESTS = 60
WINDOW = 60


@dataclass(eq=False)
class Traffic(threading.Thread):
    """One consumer's requests, one after another; what fails in transport is sent again byte for byte."""

    node: NodeUnderTest
    published: Published
    consumer: Consumer
    receipts: list[dict[str, Any]] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    retries: int = 0

    def __post_init__(self) -> None:
        super().__init__(daemon=True)

    def run(self) -> None:
        for n in range(1, REQUESTS + 1):
            voucher = self.consumer.voucher(self.node.operator, self.published.version_id, n * PRICE, n - 1)
            response = self._send([[float(n), 0.0, 0.0, 0.0]], voucher)
            if response.status_code != 200:
                self.refusals.append(response.text)
                return
            receipt = response.json()["parameters"]["receipt"]
            self.receipts.append(json.loads(receipt))

    def _send(self, rows: list[list[float]], voucher: dict[str, str]) -> httpx.Response:
        deadline = time.monotonic() + 180
        while True:
            try:
                response = self.node.infer(self.published, rows, **voucher)
            except httpx.TransportError:
                response = None
            if response is not None and response.status_code != 503:
                return response
            if time.monotonic() > deadline:
                raise TimeoutError("the node did not come back")
            self.retries += 1
            time.sleep(0.05)


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    with local_network(tmp_path, dispute_window=WINDOW) as made:
        yield made


def test_node__killed_three_times_in_paid_traffic__keeps_every_receipt_once(network: Network) -> None:
    node = network.add_node(settlement=SettlementConfig(poll_seconds=0.2, max_age_seconds=1))
    published = network.publish("linear", linear_model(), linear_manifest())
    node.offer(published, PRICE)
    consumers = [network.add_consumer((node.operator, REQUESTS * PRICE)) for _ in range(4)]
    streams = [Traffic(node, published, consumer) for consumer in consumers]
    node.start()
    try:
        for stream in streams:
            stream.start()
        for kill in range(1, 4):
            wait_for(lambda kill=kill: sum(len(s.receipts) for s in streams) >= kill * REQUESTS)  # type: ignore[misc]
            node.kill()
            node.start()
        for stream in streams:
            stream.join(180)
        assert [stream.refusals for stream in streams] == [[]] * len(streams)
        for stream in streams:
            check_stream(network, node, stream)
        assert sum(stream.retries for stream in streams) > 0
        settle_and_check(network, node, published, streams)
    finally:
        node.stop()


def check_stream(network: Network, node: NodeUnderTest, stream: Traffic) -> None:
    """The consumer holds sequences 1…n, each signed, each for its own input."""
    assert [receipt["sequence"] for receipt in stream.receipts] == list(range(1, REQUESTS + 1))
    assert len({receipt["input_hash"] for receipt in stream.receipts}) == REQUESTS
    for receipt in stream.receipts:
        signed = receipt_from_json(network.domain, receipt)
        verify_signer(bytes.fromhex(receipt["digest"][2:]), signed.signature, node.signer.address)
    log = ReceiptLog(SqliteDatabase(node.folder / "receipts.sqlite3"), network.domain, node.operator)
    try:
        wait_for(lambda: receipts_of(log, stream.consumer) >= REQUESTS)  # the journal is taken in by and by
        (state,) = log.channels_of(stream.consumer.address)
        assert (state.sequence, state.charged, state.amount) == (REQUESTS, REQUESTS * PRICE, REQUESTS * PRICE)
    finally:
        log.close()


def receipts_of(log: ReceiptLog, consumer: Consumer) -> int:
    return sum(state.sequence for state in log.channels_of(consumer.address))


def settle_and_check(
    network: Network, node: NodeUnderTest, published: Published, streams: list[Traffic]
) -> None:
    """Every base unit that was promised arrives, once."""
    settlement = network.settlement

    def settled() -> list[int]:
        return [
            settlement.channel(stream.consumer.address, node.operator, published.version_id).settled
            for stream in streams
        ]

    wait_for(lambda: settled() == [REQUESTS * PRICE] * len(streams))
    for stream in streams:
        assert settlement.escrow(stream.consumer.address, node.operator).balance == 0
    network.chain.increase_time(WINDOW)
    treasury = network.chain.accounts[0]

    def paid_out() -> int:
        return network.token.balance_of(node.operator) + settlement.claimable(treasury)  # type: ignore[arg-type]

    wait_for(lambda: paid_out() == len(streams) * REQUESTS * PRICE)


def wait_for(check: Any, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)
