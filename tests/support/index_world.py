"""A chain with contracts, a publisher, node operators and consumers, for tests of what follows the chain.

with index_world(tmp_path) as world:
    version = world.publish("digits")
    node = world.add_node("http://127.0.0.1:1", {version: 10})
    batch = world.serve(node, version, world.consumer(1), 3)
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from assay.chain.client import ChainClient
from assay.chain.contracts import ModelRegistry, NodeRegistry, Settlement, Token
from assay.chain.deployments import Deployment
from assay.chain.dispute_game import DisputeGame
from assay.chain.disputes import DisputeRecord, fetch_disputes
from assay.chain.values import Call
from assay.commitments.identifiers import batch_id, checksum_address, keccak, model_id, version_id
from assay.commitments.receipts import receipt_digest, receipt_to_json, receipts_tree, voucher_digest
from assay.commitments.signing import SigningKey
from assay.types import (
    ZERO_HASH,
    Address,
    BatchKey,
    Hash32,
    Receipt,
    SignedReceipt,
    SignedVoucher,
    VersionStatus,
    Voucher,
)

from tests.support.anvil import Anvil, anvil
from tests.support.deploy import UNIT, deploy, send_unlocked
from tests.support.index_tables import close_databases

WINDOW = 60
MOVE_WINDOW = 300


@dataclass
class PostedBatch:
    """A batch and what its node publishes for it."""

    key: BatchKey
    receipts: list[SignedReceipt]
    lines: list[bytes]

    @property
    def batch_id(self) -> str:
        return "0x" + batch_id(self.key).hex()

    @property
    def body(self) -> bytes:
        return b"\n".join(self.lines) + b"\n"


@dataclass
class TestNode:
    __test__ = False
    operator: Address
    signer: SigningKey


@dataclass
class World:
    """Accounts of the chain: 0 deploys and pays for everybody, 1 publishes, 2… operate nodes."""

    chain: Anvil
    rpc: ChainClient
    deployment: Deployment
    issued: dict[tuple[str, str, bytes], int] = field(default_factory=dict)
    owed: dict[tuple[str, str, bytes], int] = field(default_factory=dict)
    batches: list[PostedBatch] = field(default_factory=list)
    _names: Any = field(default_factory=lambda: itertools.count(1))
    _operators: Any = field(default_factory=lambda: itertools.count(2))

    def __post_init__(self) -> None:
        self.accounts = [checksum_address(a) for a in self.rpc.request("eth_accounts")]
        self.models = ModelRegistry(self.rpc, self.deployment)
        self.nodes = NodeRegistry(self.rpc, self.deployment)
        self.settlement = Settlement(self.rpc, self.deployment)
        self.token = Token(self.rpc, self.deployment)
        bank = self.accounts[0]
        self.send(bank, self.token.mint(bank, 10**12 * UNIT))
        for contract in (self.nodes.address, self.settlement.address):
            self.send(bank, self.token.approve(contract, 2**255))

    def send(self, sender: Address, call: Call) -> dict[str, Any]:
        return send_unlocked(self.rpc, sender, call.to, call.data)

    def key(self, name: str) -> SigningKey:
        return SigningKey(keccak(name.encode()))

    def publish(
        self, name: str = "", program_root: Hash32 = ZERO_HASH, artifact: Hash32 | None = None
    ) -> Hash32:
        """A new model's first version."""
        name = name or f"model-{next(self._names)}"
        publisher = self.accounts[1]
        self.send(publisher, self.models.register_model(name, f"https://models.test/{name}"))
        model = model_id(publisher, name)
        artifact, manifest = artifact or keccak(name.encode()), keccak(b"manifest")
        call = self.models.publish_version(model, artifact, program_root, manifest, 500, "https://hub.test")
        self.send(publisher, call)
        return version_id(model, 1)

    def deprecate(self, version: Hash32) -> None:
        self.send(self.accounts[1], self.models.set_status(version, VersionStatus.DEPRECATED))

    def add_node(self, endpoint: str, offers: dict[Hash32, int], stake: int = 1_000 * UNIT) -> TestNode:
        operator = self.accounts[next(self._operators)]
        node = TestNode(operator, self.key(f"signer of {operator}"))
        self.send(operator, self.nodes.register(node.signer.address, endpoint))
        if stake:
            self.send(self.accounts[0], self.nodes.stake(operator, stake))
        for version, price in offers.items():
            self.send(operator, self.nodes.offer(version, price))
        return node

    def consumer(self, number: int) -> SigningKey:
        return self.key(f"consumer {number}")

    def fund(self, consumer: Address, node: Address, amount: int) -> None:
        self.send(self.accounts[0], self.settlement.fund(consumer, node, amount))

    def receipts(
        self, node: TestNode, version: Hash32, consumer: Address, count: int, price: int = 10
    ) -> list[SignedReceipt]:
        """The channel's next receipts, signed now."""
        channel = (node.operator, consumer, version)
        first = self.issued.get(channel, 0) + 1
        self.issued[channel] = first + count - 1
        self.owed[channel] = self.owed.get(channel, 0) + count * price
        return [self.receipt(node, version, consumer, first + i, price) for i in range(count)]

    def receipt(
        self, node: TestNode, version: Hash32, consumer: Address, sequence: int, price: int = 10
    ) -> SignedReceipt:
        seed = f"{node.operator} {consumer} {version.hex()} {sequence}".encode()
        receipt = Receipt(
            node.operator,
            consumer,
            version,
            keccak(seed),
            keccak(b"output of " + seed),
            price,
            sequence,
            self.chain.timestamp(),
        )
        return SignedReceipt(receipt, node.signer.sign(receipt_digest(self.deployment.domain, receipt)))

    def voucher(
        self, node: TestNode, version: Hash32, consumer: SigningKey, amount: int, count: int
    ) -> SignedVoucher:
        voucher = Voucher(consumer.address, node.operator, version, amount, count)
        return SignedVoucher(voucher, consumer.sign(voucher_digest(self.deployment.domain, voucher)))

    def batch(self, node: TestNode, version: Hash32, receipts: Sequence[SignedReceipt]) -> PostedBatch:
        """What the node would publish."""
        domain = self.deployment.domain
        root = receipts_tree([receipt_digest(domain, signed.receipt) for signed in receipts]).root
        key = BatchKey(node.operator, version, root)
        header = {
            "batch_id": "0x" + batch_id(key).hex(),
            "node": node.operator,
            "version_id": "0x" + version.hex(),
            "receipts_root": "0x" + root.hex(),
            "count": len(receipts),
        }
        objects = [header, *(receipt_to_json(domain, signed) for signed in receipts)]
        return PostedBatch(key, list(receipts), [json.dumps(item).encode() for item in objects])

    def post(
        self,
        node: TestNode,
        version: Hash32,
        receipts: Sequence[SignedReceipt],
        vouchers: Sequence[SignedVoucher],
    ) -> PostedBatch:
        batch = self.batch(node, version, receipts)
        call = self.settlement.post_batch(node.operator, version, batch.key.receipts_root, vouchers)
        self.send(node.operator, call)
        self.batches.append(batch)
        return batch

    def serve(
        self, node: TestNode, version: Hash32, consumer: SigningKey, count: int, price: int = 10
    ) -> PostedBatch:
        """Fund, answer `count` requests and post them, all acknowledged."""
        if price:
            self.fund(consumer.address, node.operator, count * price)
        receipts = self.receipts(node, version, consumer.address, count, price)
        channel = (node.operator, consumer.address, version)
        voucher = self.voucher(node, version, consumer, self.owed[channel], self.issued[channel])
        return self.post(node, version, receipts, [voucher])

    # --- disputes, in a world that has them ---

    @functools.cached_property
    def game(self) -> DisputeGame:
        game = DisputeGame(self.rpc, self.deployment)
        self.send(self.accounts[0], self.token.approve(game.address, 2**255))
        return game

    def open_dispute(self, signed: SignedReceipt, batch: PostedBatch | None = None) -> int:
        """By account 0; of the receipt in its batch, or in none. The dispute's number."""
        proof = None
        if batch is not None:
            domain, position = self.deployment.domain, batch.receipts.index(signed)
            tree = receipts_tree([receipt_digest(domain, one.receipt) for one in batch.receipts])
            proof = (tree.proof(position), position)
        self.send(self.accounts[0], self.game.open(signed, proof))
        return self.game.dispute_count()

    def dispute(self, number: int) -> DisputeRecord:
        return fetch_disputes(self.rpc, self.game, self.deployment.block)[number]

    def time_out(self, number: int) -> None:
        """Close a dispute against the side that owes its move."""
        record = self.dispute(number)
        self.chain.increase_time(MOVE_WINDOW + 1)
        self.send(self.accounts[0], self.game.claim_timeout(number, record.state, record.receipt))

    def finish(self) -> None:
        """Let the dispute window of everything posted so far pass."""
        self.chain.increase_time(WINDOW + 1)


@contextlib.contextmanager
def index_world(folder: Path, *, disputes: bool = False, **options: Any) -> Iterator[World]:
    """`disputes`: with the dispute game; else its place is taken by an account that tests speak for."""
    with anvil(**options) as chain, ChainClient(chain.url, attempts=2) as rpc:
        game: dict[str, Any] = {"dispute_game": "0x" + "77" * 20}
        if disputes:
            game = {"disputes": True, "move_window": MOVE_WINDOW, "bond": UNIT // 10, "slash_amount": UNIT}
        deployment = deploy(chain.url, folder / "deployments", dispute_window=WINDOW, min_stake=UNIT, **game)
        try:
            yield World(chain, rpc, deployment)
        finally:
            close_databases()
