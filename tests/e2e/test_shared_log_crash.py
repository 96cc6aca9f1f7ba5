"""Three processes of one node on one PostgreSQL log, `kill -9` at random amid paid traffic that is spread
over them, the server's side of their connections ended in between: nothing lost, nothing doubled, the money
right."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from assay.commitments.receipts import receipt_from_json
from assay.commitments.signing import verify_signer
from assay.node.config import LimitsConfig, SettlementConfig
from assay.node.receipts.postgresql import PostgresDatabase
from assay.node.receipts.rows import RECEIPT, receipt_of_row
from assay.types import Address, Hash32, SignedReceipt

from tests.conftest import DEEP
from tests.support.nodes import Consumer, Network, NodeUnderTest, Published, local_network
from tests.support.onnx_models import linear_manifest, linear_model
from tests.support.postgresql import Cluster
from tests.support.replicas import share_log, start_all

pytestmark = pytest.mark.e2e

PRICE = 5
PROCESSES = 3
WINDOW = 60
KILLS = 24 if DEEP else 3
REQUESTS = 4_000 if DEEP else 120
"""Of each consumer at least; they go on until the last process is back."""
MOST = 40 * REQUESTS
IN_FLIGHT = 3
SEED = 20_261_122


@dataclass(eq=False)
class Stream(threading.Thread):
    """One consumer, one connection of several: each request goes to any of the processes; what gets no
    answer is sent again, with its voucher, to any."""

    nodes: list[NodeUnderTest]
    published: Published
    consumer: Consumer
    enough: threading.Event
    seed: int
    lanes: int = 1
    receipts: dict[int, dict[str, Any]] = field(default_factory=dict)
    refusals: list[str] = field(default_factory=list)
    retries: int = 0
    asked: int = 0

    def __post_init__(self) -> None:
        super().__init__(daemon=True)
        self._lock = threading.Lock()

    @property
    def promised(self) -> int:
        return self.asked * PRICE

    def run(self) -> None:
        lanes = [threading.Thread(target=self._lane, args=(n,), daemon=True) for n in range(self.lanes)]
        for lane in lanes:
            lane.start()
        for lane in lanes:
            lane.join()

    def _lane(self, number: int) -> None:
        dice = random.Random(f"{self.seed}-{number}")
        with httpx.Client(timeout=20, trust_env=False) as client:
            while not self.refusals and self.asked < MOST:
                with self._lock:
                    if self.enough.is_set() and self.asked >= REQUESTS:
                        return
                    self.asked += 1
                    n, voucher = self.asked, self._voucher(self.asked)
                answer = self._ask(client, dice, {"data": [float(n), 0.0, 0.0, 0.0]}, voucher)
                with self._lock:
                    if answer.status_code != 200:
                        self.refusals.append(answer.text)
                        return
                    self.receipts[n] = json.loads(answer.json()["parameters"]["receipt"])

    def _voucher(self, n: int) -> dict[str, str]:
        node = self.nodes[0].operator
        return self.consumer.voucher(node, self.published.version_id, n * PRICE, len(self.receipts))

    def _ask(
        self, client: httpx.Client, dice: random.Random, tensor: dict[str, Any], voucher: dict[str, str]
    ) -> httpx.Response:
        body = {
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], **tensor}],
            "parameters": voucher,
        }
        deadline = time.monotonic() + 90
        while True:
            url = f"{dice.choice(self.nodes).url}{self.published.path}/infer"
            try:
                answer = client.post(url, json=body)
                if answer.status_code != 503:
                    return answer
            except httpx.TransportError:
                pass
            if time.monotonic() > deadline:
                raise TimeoutError("no process of the node answers")
            self.retries += 1
            time.sleep(0.02)


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    with local_network(tmp_path, dispute_window=WINDOW) as made:
        yield made


def test_node__three_processes_killed_at_random__lose_nothing_and_double_nothing(
    network: Network, postgresql: Cluster
) -> None:
    node = network.add_node()
    published = network.publish("linear", linear_model(), linear_manifest())
    node.offer(published, PRICE)
    url = postgresql.new_database()
    nodes = share_log(
        node,
        url,
        PROCESSES,
        settlement=SettlementConfig(poll_seconds=0.2, max_age_seconds=2, max_receipts=100),
        limits=LimitsConfig(max_unacknowledged=1_000),
    )
    enough = threading.Event()
    streams = [
        Stream(nodes, published, network.add_consumer((node.operator, MOST * PRICE)), enough, SEED + n, lanes)
        for n, lanes in enumerate((1, 1, IN_FLIGHT))
    ]
    try:
        start_all(nodes)
        for stream in streams:
            stream.start()
        torment(nodes, postgresql, url, lambda: sum(len(stream.receipts) for stream in streams))
        enough.set()
        for stream in streams:
            stream.join(120)
        assert [stream.refusals for stream in streams] == [[]] * len(streams)
        assert sum(stream.retries for stream in streams) > 0
        log = read_log(url, node)
        for stream in streams:
            check_stream(network, node, stream, log)
        settle_and_check(network, node, published, streams)
    finally:
        for one in nodes:
            if one.process is not None:
                one.stop()
        postgresql.drop_database(url)


def torment(nodes: list[NodeUnderTest], server: Cluster, url: str, count: Callable[[], int]) -> None:
    """Kill one process after another, at random, at least one serves; each is started again at once."""
    dice = random.Random(SEED)
    order = [dice.randrange(len(nodes)) for _ in range(KILLS - len(nodes))] + list(range(len(nodes)))
    dice.shuffle(order)
    starting: list[threading.Thread] = []
    for turn, number in enumerate(order):
        before = count()
        wait_for(lambda before=before: count() > before + dice.randrange(5, 40))
        if turn % 2:
            server.terminate_backends(url, f"random() < {dice.uniform(0.3, 1):.2f}")
        while len(starting) > len(nodes) - 2:
            starting.pop(0).join()
        nodes[number].kill()
        starting.append(threading.Thread(target=nodes[number].start))
        starting[-1].start()
    for thread in starting:
        thread.join()


def read_log(url: str, node: NodeUnderTest) -> list[tuple[Hash32, SignedReceipt]]:
    """Every receipt in the log, with its digest."""
    query = f"SELECT {RECEIPT} FROM receipts r JOIN channels c ON c.id = r.channel ORDER BY r.id"
    with closing(PostgresDatabase(url).connect()) as connection:
        logged = [receipt_of_row(node.operator, row) for row in connection.execute(query)]
    return [(one.digest, one.signed) for one in logged]


def check_stream(
    network: Network, node: NodeUnderTest, stream: Stream, log: list[tuple[Hash32, SignedReceipt]]
) -> None:
    """The log has 1…n of the channel, each once; the consumer holds those very receipts, each for its
    input."""
    mine = {digest: signed for digest, signed in log if signed.receipt.consumer == stream.consumer.address}
    assert sorted(signed.receipt.sequence for signed in mine.values()) == list(range(1, stream.asked + 1))
    assert len(stream.receipts) == stream.asked
    assert len({receipt["input_hash"] for receipt in stream.receipts.values()}) == stream.asked
    for receipt in stream.receipts.values():
        digest = Hash32(bytes.fromhex(receipt["digest"][2:]))
        assert receipt_from_json(network.domain, receipt) == mine[digest]
        verify_signer(digest, mine[digest].signature, node.signer.address)


def settle_and_check(
    network: Network, node: NodeUnderTest, published: Published, streams: list[Stream]
) -> None:
    """Each consumer pays what it promised, once; each batch is posted once; all of it arrives."""
    settlement = network.settlement

    def settled() -> list[int]:
        consumers = [stream.consumer.address for stream in streams]
        return [settlement.channel(one, node.operator, published.version_id).settled for one in consumers]

    wait_for(lambda: settled() == [stream.promised for stream in streams])
    for stream in streams:
        left = settlement.escrow(stream.consumer.address, node.operator).balance
        assert left == MOST * PRICE - stream.promised
    head = network.client.block_number()
    logs = network.client.get_logs(network.deployment.block, head, [settlement.address])
    events = settlement.decode_logs(logs)
    posted = [event.args["batch_id"] for event in events if event.name == "BatchPosted"]
    assert len(posted) == len(set(posted)) > 1
    amounts = [event.args["amount"] for event in events if event.name == "BatchPosted"]
    assert sum(amounts) == sum(stream.promised for stream in streams)
    network.chain.increase_time(WINDOW)

    def paid_out() -> int:
        treasury = Address(network.chain.accounts[0])
        return network.token.balance_of(node.operator) + settlement.claimable(treasury)

    wait_for(lambda: paid_out() == sum(stream.promised for stream in streams))


def wait_for(check: Any, seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
