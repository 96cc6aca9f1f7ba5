"""Real servers behind a real signing node: another Assay node (binary tensors), and MLServer (JSON)."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import httpx
import numpy as np
import pytest
from assay.commitments.receipts import receipt_from_json
from assay.commitments.signing import verify_signer
from assay.commitments.tensors import commit_tensors
from assay.node.config import SettlementConfig, VersionConfig, load_config
from assay.node.doctor import Doctor
from assay.node.observability.live import scrape
from assay.node.payments.chain_ledger import ChainLedger
from assay.node.startup import open_chain
from assay.node.status import fetch_status

from tests.support.exact_version import ExactVersion, exact_model, exact_version, row
from tests.support.executors import MlServer
from tests.support.nodes import Network, NodeUnderTest, Published, local_network

PRICE = 5
TERMS = {"disputes": True, "bond": 10, "slash_amount": 400, "dispute_window": 600}


@dataclass
class World:
    network: Network
    version: ExactVersion
    published: Published
    backing: NodeUnderTest
    """An Assay node that serves the version for nothing."""

    def signing(self, url: str, **settings: object) -> NodeUnderTest:
        """A node that sells the version and lets `url` run it."""
        node = self.network.add_node(settlement=SettlementConfig(poll_seconds=0.2))
        node.offer(self.published, PRICE)
        node.versions[0] = VersionConfig.model_validate(
            {**node.versions[0].model_dump(), "executor": url, "executor_connections": 2, **settings}
        )
        node.configure()
        return node

    def pay(self, node: NodeUnderTest, consumer: object, n: int) -> httpx.Response:
        """The n-th paid request of a consumer, of input row(n)."""
        voucher = consumer.voucher(node.operator, self.published.version_id, n * PRICE, n - 1)  # type: ignore[attr-defined]
        return node.infer(self.published, row(n).tolist(), datatype="UINT8", **voucher)

    def check(self, node: NodeUnderTest, response: httpx.Response, n: int) -> None:
        """A receipt for what the program gives for row(n), signed by the node."""
        assert response.status_code == 200, response.text
        document = response.json()
        true = self.version.run(row(n))
        assert document["outputs"][0]["data"] == true.reshape(-1).tolist()
        receipt = json.loads(document["parameters"]["receipt"])
        assert receipt["output_hash"] == "0x" + commit_tensors([true]).hex()
        signed = receipt_from_json(self.network.domain, receipt)
        verify_signer(bytes.fromhex(receipt["digest"][2:]), signed.signature, node.signer.address)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with local_network(tmp_path_factory.mktemp("executors"), **TERMS) as network:
        version = exact_version()
        published = network.publish_exact("exact", version)
        backing = network.add_node(settlement=SettlementConfig(poll_seconds=0.2))
        backing.offer(published, 0)
        with backing.running():
            yield World(network, version, published, backing)


@pytest.fixture(scope="module")
def server(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlServer]:
    made = MlServer(tmp_path_factory.mktemp("mlserver"), world.version.artifact)
    made.start()
    try:
        yield made
    finally:
        made.kill()


def wait_until(check: Callable[[], bool], seconds: float = 40.0) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def offers(node: NodeUnderTest) -> int:
    return len(httpx.get(f"{node.url}/v1/node", timeout=10).json()["offers"])


def refusal(world: World, node: NodeUnderTest) -> str:
    response = node.infer(world.published, row().tolist(), datatype="UINT8")
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) >= 1
    return str(response.json()["error"])


def test_assay_node_as_executor__paid_answers__are_signed_by_the_node_in_front(world: World) -> None:
    name = f"{world.published.publisher}/{world.published.name}"
    node = world.signing(world.backing.url, executor_model=name, executor_version="1", spot_check=1.0)
    consumer = world.network.add_consumer((node.operator, 100))
    with node.running():
        for n in range(1, 4):
            world.check(node, world.pay(node, consumer, n), n)
        findings = {finding.name: finding for finding in Doctor(node.folder).examine()}
        (checked,) = (finding for name, finding in findings.items() if name.startswith("executor of "))
        assert checked.ok
        assert "binary tensors, 2 self-test vectors right" in checked.detail
        assert findings["memory"].ok
        with open_chain(node.folder, load_config(node.folder))[0] as client:
            ledger = ChainLedger(client, world.network.deployment, node.operator)
            status = fetch_status(node.folder, load_config(node.folder), ledger)
        assert status["settles"] is True
        (told,) = status["versions"]
        assert (told["executor"]["url"], told["executor"]["up"]) == (world.backing.url, True)
        assert "another server runs it" in told["batching"]["reason"]
        config = httpx.get(f"{node.url}/v2/models/{world.published.name}/config", timeout=10).json()
        assert "another server runs it" in config["parameters"]["batching"]["string_value"]
        live = scrape(load_config(node.folder))
        assert live is not None
        assert live["assay_node_executor_up", told["model"]] == 1
        assert live["assay_node_executor_seconds_count", told["model"]] == 3
        assert live["assay_node_settles",] == 1
        assert live["assay_node_memory_budget_bytes",] > 1 << 20


@pytest.fixture(scope="module")
def front(world: World, server: MlServer) -> Iterator[NodeUnderTest]:
    """A node that lets MLServer run the version."""
    node = world.signing(server.url, executor_model=server.model)
    with node.running():
        yield node


def test_mlserver_as_executor__many_rows__come_back_whole(world: World, front: NodeUnderTest) -> None:
    """Over MLServer's JSON, in several packets."""
    consumer = world.network.add_consumer((front.operator, 100))
    rows = row(3, 200)
    voucher = consumer.voucher(front.operator, world.published.version_id, PRICE, 0)
    response = front.infer(world.published, rows.tolist(), datatype="UINT8", **voucher)
    assert response.status_code == 200, response.text
    found = np.array(response.json()["outputs"][0]["data"], np.int32).reshape(200, -1)
    assert (found == world.version.run(rows)).all()


def test_mlserver_as_executor__killed_and_swapped_amid_load__no_wrong_receipt_and_back_by_itself(
    world: World, server: MlServer, front: NodeUnderTest
) -> None:
    """First it is gone, then another model is in its place, then the right one."""
    consumer = world.network.add_consumer((front.operator, 100_000))
    good: list[int] = []
    refused: list[httpx.Response] = []
    stop = threading.Event()

    def load() -> None:
        n = 1
        while not stop.is_set():
            response = world.pay(front, consumer, n)
            if response.status_code == 200:
                world.check(front, response, n)
                good.append(n)
                n += 1
            else:
                refused.append(response)
                time.sleep(0.05)

    thread = threading.Thread(target=load)
    thread.start()
    try:
        wait_until(lambda: len(good) >= 30)
        server.kill()
        wait_until(lambda: len(refused) >= 5)
        before = len(good)
        assert "executor" in refusal(world, front)
        assert httpx.get(f"{front.url}/v2/health/ready", timeout=5).status_code == 200
        server.artifact = exact_model(seed=1)
        server.start()
        wait_until(lambda: "are not the version's" in refusal(world, front))
        assert (offers(front), len(good)) == (0, before)
        server.kill()
        server.artifact = world.version.artifact
        server.start()
        wait_until(lambda: len(good) >= before + 10)
    finally:
        stop.set()
        thread.join(60)
    assert {response.status_code for response in refused} == {503}
    assert good == list(range(1, len(good) + 1))
