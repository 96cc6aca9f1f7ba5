"""A small network of real processes for tests: Anvil, contracts, a folder as hub, nodes that can be killed.

with running_stack(tmp_path, nodes=2) as stack:
    client = stack.client(tmp_path / "client")
    client.infer(stack.model, np.ones((1, 4), np.float32))
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
from assay.chain.client import ChainClient
from assay.chain.contracts import ModelRegistry, NodeRegistry, Settlement, Token
from assay.chain.deployments import Deployment
from assay.chain.keys import create_keystore
from assay.chain.values import Call
from assay.client import Client
from assay.commitments.identifiers import artifact_digest, model_id, version_id
from assay.commitments.manifest import Manifest
from assay.commitments.signing import SigningKey
from assay.node.config import NodeConfig, write_config
from assay.types import ZERO_HASH, Address, Hash32

from tests.support.anvil import Anvil, anvil
from tests.support.deploy import UNIT, deploy, send_unlocked
from tests.support.onnx_models import linear_manifest, linear_model

PRICE = UNIT // 100
START_SECONDS = 60.0
RUN_NODE = (
    "import sys; from pathlib import Path; from assay.node.config import load_config;"
    "from assay.node.process import NodeProcess; folder = Path(sys.argv[1]);"
    "NodeProcess(folder, load_config(folder)).run()"
)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@dataclass
class RunningNode:
    """A node's process. `address` is the operator's."""

    address: Address
    signer: SigningKey
    folder: Path
    endpoint: str
    model: str
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when the node is ready."""
        log = (self.folder / "node.log").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-c", RUN_NODE, str(self.folder)], stdout=log, stderr=log
        )
        log.close()
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            with contextlib.suppress(httpx.HTTPError):
                url = f"{self.endpoint}/v2/models/{quote(self.model, safe='')}/versions/1/ready"
                if httpx.get(url, timeout=2).status_code == 200:
                    return
            time.sleep(0.05)
        raise RuntimeError(f"node {self.address} did not start:\n{(self.folder / 'node.log').read_text()}")

    def kill(self) -> None:
        """SIGKILL, as a power cut would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            self.process = None

    def pause(self) -> None:
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGCONT)


@dataclass
class Stack:
    """Accounts of the chain: 0 deploys, 1 publishes, 2… operate nodes, 9 consumes."""

    chain: Anvil
    rpc: ChainClient
    deployment: Deployment
    folder: Path
    hub: Path
    version_id: Hash32 = ZERO_HASH
    model: str = ""
    nodes: list[RunningNode] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.models = ModelRegistry(self.rpc, self.deployment)
        self.registry = NodeRegistry(self.rpc, self.deployment)
        self.settlement = Settlement(self.rpc, self.deployment)
        self.token = Token(self.rpc, self.deployment)

    @property
    def consumer(self) -> SigningKey:
        return SigningKey(bytes.fromhex(self.chain.keys[9]))

    @property
    def publisher(self) -> Address:
        return Address(self.chain.accounts[1])

    def send(self, sender: str, call: Call) -> dict[str, Any]:
        return send_unlocked(self.rpc, sender, call.to, call.data)

    def mint(self, account: str, amount: int) -> None:
        self.send(self.chain.accounts[0], self.token.mint(Address(account), amount))

    def store(self, content: bytes) -> Hash32:
        """Put a blob into the hub folder."""
        digest = artifact_digest(content)
        (self.hub / digest.hex()).write_bytes(content)
        return digest

    def publish(self, name: str, artifact: bytes, manifest: Manifest) -> tuple[str, Hash32]:
        """Register the model and publish version 1: (`publisher/name`, version id)."""
        identifier = model_id(self.publisher, name)
        self.send(self.publisher, self.models.register_model(name, ""))
        digests = self.store(artifact), self.store(manifest.to_bytes())
        call = self.models.publish_version(identifier, digests[0], ZERO_HASH, digests[1], 500, "")
        self.send(self.publisher, call)
        return f"{self.publisher}/{name}", version_id(identifier, 1)

    def register(
        self, operator: str, signer: Address, endpoint: str, price: int, version_id: Hash32 | None = None
    ) -> None:
        """Register, stake and offer, as `assay node init` does."""
        stake = 1_000 * UNIT
        self.mint(operator, stake)
        for call in (
            self.registry.register(signer, endpoint),
            self.token.approve(self.registry.address, stake),
            self.registry.stake(Address(operator), stake),
            self.registry.offer(version_id or self.version_id, price),
        ):
            self.send(operator, call)

    def add_node(self, price: int = PRICE, **settlement: Any) -> RunningNode:
        """Register, stake, offer and start one more node."""
        operator = Address(self.chain.accounts[2 + len(self.nodes)])
        folder = self.folder / f"node{len(self.nodes)}"
        signer = create_keystore(folder / "signer.json", "test", scrypt_n=2)
        (folder / "signer.password").write_text("test\n")
        self.chain.set_balance(signer.address, UNIT)
        port = free_port()
        endpoint = f"http://127.0.0.1:{port}"
        self.register(operator, signer.address, endpoint, price)
        publisher, _, name = self.model.partition("/")
        config = NodeConfig.model_validate(
            {
                "operator": operator,
                "endpoint": endpoint,
                "port": port,
                "rpc_urls": [self.chain.url],
                "chain_id": self.chain.chain_id,
                "deployments": str(self.deployment.folder.parent),
                "hub_url": f"file://{self.hub}",
                "versions": [{"publisher": publisher, "name": name, "number": 1, "price": price}],
                "settlement": {"poll_seconds": 0.2, "max_age_seconds": 3600.0} | settlement,
            }
        )
        write_config(folder, config)
        node = RunningNode(operator, signer, folder, endpoint, self.model)
        self.nodes.append(node)
        node.start()
        return node

    def new_consumer(self, tokens: int = 10 * UNIT) -> SigningKey:
        """A fresh account with coins for gas and tokens."""
        key = SigningKey.generate()
        self.chain.set_balance(key.address, UNIT)
        if tokens:
            self.mint(key.address, tokens)
        return key

    def client(self, data: Path, **options: Any) -> Client:
        """A client of the consumer on this chain."""
        given: dict[str, Any] = {
            "key": self.consumer,
            "rpc_urls": [self.chain.url],
            "deployments": self.deployment.folder.parent,
            "data": data,
        }
        return Client(**(given | options))


@contextlib.contextmanager
def running_stack(folder: Path, *, nodes: int = 1, tokens: int = 100 * UNIT, **terms: Any) -> Iterator[Stack]:
    """A chain with contracts, one published linear model of 4 inputs, and `nodes` nodes; all ended on
    leaving.
    """
    with anvil() as chain, ChainClient(chain.url) as rpc:
        deployment = deploy(chain.url, folder / "deployments", **terms)
        hub = folder / "hub"
        hub.mkdir()
        stack = Stack(chain, rpc, deployment, folder, hub)
        try:
            stack.model, stack.version_id = stack.publish("linear", linear_model(), linear_manifest())
            if tokens:
                stack.mint(stack.consumer.address, tokens)
            for _ in range(nodes):
                stack.add_node()
            yield stack
        finally:
            for node in stack.nodes:
                node.kill()
