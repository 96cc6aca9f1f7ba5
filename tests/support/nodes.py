"""A small network for node tests: a chain with contracts, a published model, a registered node, a funded
consumer.

with local_network(tmp_path) as network:
    node = network.add_node(); network.publish(node, "linear", linear_model(), linear_manifest(), price=5)
    with node.running(): node.client.get("/v1/node")
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from assay.chain.client import ChainClient
from assay.chain.contracts import ModelRegistry, NodeRegistry, Settlement, Token
from assay.chain.deployments import Deployment
from assay.chain.keys import create_keystore
from assay.chain.values import Call
from assay.commitments import identifiers
from assay.commitments.manifest import Manifest
from assay.commitments.receipts import voucher_digest
from assay.commitments.signing import SigningKey
from assay.node.config import NodeConfig, SettlementConfig, VersionConfig, write_config
from assay.types import ZERO_HASH, Address, Domain, Hash32, Voucher

from tests.support.anvil import Anvil, anvil
from tests.support.deploy import deploy, send_unlocked
from tests.support.exact_version import ExactVersion

PASSWORD = "correct horse"
STAKE = 1_000
ASSAY = (sys.executable, "-c", "from assay.cli import main; main()")
SCRYPT_N = 1 << 12
"""Cheap on purpose: these keys guard nothing."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


@dataclass
class Published:
    """A version on the chain whose files are in the network's hub folder."""

    version_id: Hash32
    publisher: Address
    name: str
    number: int

    @property
    def path(self) -> str:
        return f"/v2/models/{self.publisher}%2F{self.name}/versions/{self.number}"


@dataclass
class Consumer:
    """A funded account that signs vouchers."""

    network: Network
    key: SigningKey

    @property
    def address(self) -> Address:
        return self.key.address

    def fund(self, node: Address, amount: int) -> None:
        """Account 0 mints and pays it in."""
        token, settlement = self.network.token, self.network.settlement
        self.network.mint(self.network.chain.accounts[0], amount)
        self.network.send(token.approve(settlement.address, amount))
        self.network.send(settlement.fund(self.address, node, amount))

    def voucher(self, node: Address, version_id: Hash32, amount: int, count: int) -> dict[str, str]:
        """The `voucher_…` request parameters."""
        voucher = Voucher(self.address, node, version_id, amount, count)
        signature = self.key.sign(voucher_digest(self.network.domain, voucher))
        return {
            "voucher_consumer": self.address,
            "voucher_amount": str(amount),
            "voucher_count": str(count),
            "voucher_signature": "0x" + signature.hex(),
        }


@dataclass
class NodeUnderTest:
    """A registered node with its folder; `start` runs `assay node run` as a process of its own."""

    network: Network
    folder: Path
    operator: Address
    signer: SigningKey
    port: int
    versions: list[VersionConfig] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def configure(self, **options: Any) -> None:
        """Write node.toml; `options` are fields of `NodeConfig`."""
        self.options.update(options)
        write_config(
            self.folder,
            NodeConfig(
                operator=self.operator,
                endpoint=self.url,
                port=self.port,
                rpc_urls=[self.network.chain.url],
                chain_id=self.network.chain.chain_id,
                deployments=str(self.network.deployments),
                hub_url=self.network.hub_url,
                versions=self.versions,
                **self.options,
            ),
        )

    def offer(self, published: Published, price: int) -> None:
        self.network.send_as(self.operator, self.network.nodes.offer(published.version_id, price))
        known = (published.publisher, published.name, published.number)
        if not any((v.publisher, v.name, v.number) == known for v in self.versions):
            self.versions.append(
                VersionConfig(
                    publisher=published.publisher, name=published.name, number=published.number, price=price
                )
            )
        self.configure()

    def start(self, wait_seconds: float = 240.0, *, offers: int | None = None) -> None:
        """Start and wait until every version is loaded, or so many of them."""
        log = (self.folder / "node.log").open("ab")
        with log:
            self.process = subprocess.Popen(
                [*ASSAY, "node", "run", "--data", str(self.folder)],
                stdout=log,
                stderr=log,
                env={**os.environ, "ASSAY_LOG_JSON": "1"},
                process_group=0,  # a terminal's Ctrl-C is for who started it, and stops it in order
            )
        deadline = time.monotonic() + wait_seconds
        while not self._is_ready(len(self.versions) if offers is None else offers):
            if self.process.poll() is not None or time.monotonic() > deadline:
                text = (self.folder / "node.log").read_text()
                self.stop()
                raise RuntimeError(f"the node did not become ready:\n{text[-4000:]}")
            time.sleep(0.05)

    def _is_ready(self, offers: int) -> bool:
        try:
            answer = httpx.get(f"{self.url}/v1/node", timeout=5.0)
        except httpx.TransportError:
            return False
        return answer.status_code == 200 and len(answer.json()["offers"]) == offers

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def stop(self) -> int:
        """SIGTERM; its exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()
        return int(self.process.returncode)

    @contextlib.contextmanager
    def running(self) -> Iterator[NodeUnderTest]:
        self.start()
        try:
            yield self
        finally:
            self.stop()

    def infer(
        self,
        published: Published,
        rows: Sequence[Sequence[float]],
        *,
        datatype: str = "FP32",
        **parameters: Any,
    ) -> httpx.Response:
        """One JSON inference of input `x`."""
        data = [number for row in rows for number in row]
        body = {
            "inputs": [{"name": "x", "datatype": datatype, "shape": [len(rows), len(rows[0])], "data": data}],
            "parameters": parameters,
        }
        return httpx.post(f"{self.url}{published.path}/infer", json=body, timeout=30.0)


@dataclass
class Network:
    """Account 0 deploys, publishes and pays; accounts 1… are operators."""

    chain: Anvil
    client: ChainClient
    deployment: Deployment
    folder: Path
    operators: int = 0

    def __post_init__(self) -> None:
        self.models = ModelRegistry(self.client, self.deployment)
        self.nodes = NodeRegistry(self.client, self.deployment)
        self.settlement = Settlement(self.client, self.deployment)
        self.token = Token(self.client, self.deployment)

    @property
    def domain(self) -> Domain:
        return self.deployment.domain

    @property
    def deployments(self) -> Path:
        return self.folder / "deployments"

    @property
    def hub_url(self) -> str:
        return f"file://{self.folder / 'hub'}"

    def send_as(self, sender: str, call: Call) -> None:
        assert call.to is not None
        send_unlocked(self.client, sender, call.to, call.data)

    def send(self, call: Call) -> None:
        self.send_as(self.chain.accounts[0], call)

    def mint(self, account: str, amount: int) -> None:
        self.send(self.token.mint(Address(account), amount))

    def store(self, data: bytes) -> Hash32:
        """Put bytes into the hub folder."""
        digest = identifiers.artifact_digest(data)
        hub = self.folder / "hub"
        hub.mkdir(exist_ok=True)
        (hub / digest.hex()).write_bytes(data)
        return digest

    def publish(
        self, name: str, artifact: bytes, manifest: Manifest, program_root: Hash32 = ZERO_HASH
    ) -> Published:
        """A new version of the model `name` by account 0."""
        publisher = Address(self.chain.accounts[0])
        model_id = identifiers.model_id(publisher, name)
        if not self.models.model(model_id).exists:
            self.send(self.models.register_model(name, ""))
        raw = manifest.to_bytes()
        self.send(
            self.models.publish_version(
                model_id, self.store(artifact), program_root, self.store(raw), 1_000, ""
            )
        )
        number = self.models.model(model_id).version_count
        return Published(identifiers.version_id(model_id, number), publisher, name, number)

    def publish_exact(
        self, name: str, version: ExactVersion, program_root: Hash32 | None = None
    ) -> Published:
        """A version that claims its program's root, or another."""
        self.store(version.self_test)
        return self.publish(name, version.artifact, version.manifest, program_root or version.program.root)

    def add_node(self, **options: Any) -> NodeUnderTest:
        """Register and stake the next operator's node; nothing is offered yet."""
        self.operators += 1
        operator = Address(self.chain.accounts[self.operators])
        folder = self.folder / f"node{self.operators}"
        signer = create_keystore(folder / "signer.json", PASSWORD, scrypt_n=SCRYPT_N)
        (folder / "signer.password").write_text(PASSWORD)
        self.chain.set_balance(signer.address, 10**18)
        port = free_port()
        self.send_as(operator, self.nodes.register(signer.address, f"http://127.0.0.1:{port}"))
        self.mint(operator, STAKE)
        self.send_as(operator, self.token.approve(self.nodes.address, STAKE))
        self.send_as(operator, self.nodes.stake(operator, STAKE))
        node = NodeUnderTest(self, folder, operator, signer, port)
        options.setdefault("settlement", SettlementConfig(poll_seconds=0.2))
        node.configure(**options)
        return node

    def add_consumer(self, *funds: tuple[Address, int]) -> Consumer:
        consumer = Consumer(self, SigningKey.generate())
        for node, amount in funds:
            consumer.fund(node, amount)
        return consumer


@contextlib.contextmanager
def local_network(folder: Path, **deployment: Any) -> Iterator[Network]:
    """A fresh Anvil with the contracts deployed; `deployment` goes to `deploy`."""
    deployment.setdefault("min_stake", STAKE)
    with anvil() as chain:
        found = deploy(chain.url, folder / "deployments", **deployment)
        with ChainClient(chain.url) as client:
            yield Network(chain, client, found, folder)


def sequences(receipts: Sequence[dict[str, Any]]) -> list[int]:
    return sorted(receipt["sequence"] for receipt in receipts)
