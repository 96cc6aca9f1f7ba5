"""A chain with disputes, an exact model, and a node in the test's hands that answers, lies, posts and plays.

with watched_world(tmp_path) as world:
    wrong = world.node.answer(changes={3: 1}); world.node.post([world.node.answer(), wrong])
    with world.watch(tmp_path / "watch") as watch: ...
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from assay.chain.client import ChainClient
from assay.chain.deployments import Deployment
from assay.chain.disputes import DisputeRecord, fetch_disputes
from assay.chain.keys import create_keystore
from assay.chain.values import Call
from assay.commitments.identifiers import artifact_digest, batch_id, checksum_address, model_id, version_id
from assay.commitments.public_data import ReceiptData, named_tensors
from assay.commitments.receipts import receipt_digest, receipt_to_json, receipts_tree
from assay.commitments.signing import SigningKey
from assay.exact.evaluator import evaluate
from assay.exact.game import Side, defend
from assay.exact.lowering import lower
from assay.exact.program import Program
from assay.exact.trace import run_trace
from assay.hub.client import HubClient
from assay.types import Address, BatchKey, Hash32, Receipt, SignedReceipt
from assay.watch.contracts import Contracts
from assay.watch.setup import Watch, WatchOptions, open_watch
from onnx import TensorProto, helper

from tests.support.anvil import Anvil, anvil
from tests.support.batch_server import BatchServer, batch_server, body_of
from tests.support.deploy import UNIT, deploy, send_unlocked
from tests.support.onnx_models import build_model, tensor, value
from tests.support.tampered_trace import TamperedTrace

BOND, SLASH, MOVE_WINDOW, DISPUTE_WINDOW = 10 * UNIT, 1_000 * UNIT, 60, 3_600
PASSWORD = "correct horse"
INNER, OUTER = 100, 8


def exact_model(seed: int = 0) -> bytes:
    """`y = x · w` of uint8, quantised: `INNER` inputs to `OUTER` outputs a row; long reductions."""
    random = np.random.default_rng(seed)
    constants = {
        "x_scale": np.float32(0.05),
        "x_zero": np.uint8(3),
        "w": random.integers(-64, 64, (INNER, OUTER)).astype(np.int8),
        "w_scale": np.float32(0.02),
        "w_zero": np.int8(0),
        "y_scale": np.float32(0.5),
        "y_zero": np.uint8(128),
    }
    node = helper.make_node("QLinearMatMul", ["x", *constants], ["y"], "/dense")
    model = build_model(
        [node],
        [value("x", ["rows", INNER], TensorProto.UINT8)],
        [value("y", ["rows", OUTER], TensorProto.UINT8)],
        [tensor(name, array) for name, array in constants.items()],
    )
    return bytes(model.SerializeToString())


@dataclass(frozen=True)
class Answered:
    """A receipt, its tensors, and the outputs that were changed: element → value claimed."""

    signed: SignedReceipt
    data: ReceiptData
    digest: Hash32
    public: bool
    changes: Mapping[int, int]


@dataclass
class LyingNode:
    """Answers with its own hands. `silent_after`: moves that it plays of one dispute."""

    world: WatchedWorld
    operator: Address
    signer: SigningKey
    server: BatchServer
    answers: dict[Hash32, Answered] = field(default_factory=dict)
    sequence: int = 0
    silent_after: int = 1_000
    played: dict[int, int] = field(default_factory=dict)

    def forget(self) -> None:
        """Begin anew, as the chain does."""
        self.answers.clear()
        self.server.answers.clear()
        self.played.clear()
        self.sequence, self.silent_after = 0, 1_000

    def answer(
        self,
        inputs: np.ndarray[Any, Any] | None = None,
        *,
        changes: Mapping[int, int] | None = None,
        public: bool = True,
        version: Hash32 | None = None,
        **fields: Any,
    ) -> Answered:
        """A signed answer; `changes` are added to elements of the output, `fields` replace the receipt's."""
        program = self.world.program
        if inputs is None:
            inputs = np.random.default_rng(self.sequence).integers(0, 256, (2, INNER)).astype(np.uint8)
        (output,) = evaluate(program, [inputs])
        flat = output.copy().reshape(-1)
        for element, difference in (changes or {}).items():
            flat[element] = (int(flat[element]) + difference) % 256
        claimed = flat.reshape(output.shape)
        data = ReceiptData(named_tensors(["x"], [inputs]), named_tensors(["y"], [claimed]))
        self.sequence += 1
        receipt = Receipt(
            node=self.operator,
            consumer=self.world.consumer,
            version_id=version or self.world.version,
            input_hash=data.input_hash,
            output_hash=data.output_hash,
            price=10,
            sequence=self.sequence,
            executed_at=self.world.chain.timestamp(),
        )
        receipt = replace(receipt, **fields)
        digest = receipt_digest(self.world.contracts.domain, receipt)
        signed = SignedReceipt(receipt, self.signer.sign(digest))
        values = {element: int(flat[element]) for element in changes or {}}
        answered = Answered(signed, data, digest, public, values)
        self.answers[digest] = answered
        return answered

    def post(self, answers: Sequence[Answered], *, serve: bool = True, serve_data: bool = True) -> Hash32:
        """Post a batch; `serve` and `serve_data` False withhold it or its public data."""
        version = answers[0].signed.receipt.version_id
        key = BatchKey(self.operator, version, self.root(answers))
        settlement = self.world.contracts.settlement
        self.world.send(self.operator, settlement.post_batch(self.operator, version, key.receipts_root, []))
        for answer in answers:
            if answer.public and serve_data:
                self.serve_data(answer)
        if serve:
            self.publish(batch_id(key), answers)
        return batch_id(key)

    def root(self, answers: Sequence[Answered]) -> Hash32:
        return receipts_tree([answer.digest for answer in answers]).root

    def publish(self, identifier: Hash32, answers: Sequence[Answered]) -> None:
        """What it shows as that batch."""
        head = {
            "batch_id": "0x" + identifier.hex(),
            "node": self.operator,
            "version_id": "0x" + answers[0].signed.receipt.version_id.hex(),
            "receipts_root": "0x" + self.root(answers).hex(),
            "count": len(answers),
        }
        lines = [json.dumps(line) for line in (head, *map(self.line, answers))]
        self.server.publish("0x" + identifier.hex(), ("\n".join(lines) + "\n").encode())

    def line(self, answer: Answered) -> dict[str, Any]:
        """Its receipt object in a batch."""
        found = receipt_to_json(self.world.contracts.domain, answer.signed)
        return found | ({"public": True} if answer.public else {})

    def serve_data(self, answer: Answered, body: bytes | None = None) -> None:
        body = json.dumps(answer.data.to_json()).encode() if body is None else body
        self.server.answers[f"/v1/receipts/0x{answer.digest.hex()}/data"] = body_of(body)

    def play(self) -> int:
        """Every move that it owes, from a trace that ends in what it signed; how many it sent."""
        sent = 0
        for record in self.world.disputes().values():
            if record.node != self.operator or record.side is not Side.NODE:
                continue
            if self.played.get(record.dispute_id, 0) >= self.silent_after:
                continue
            answer = self.answers[Hash32(record.opened.digest)]
            move = defend(record.state, self._trace(answer), answer.signed.receipt)
            with contextlib.suppress(Exception):  # what the contract refuses of a liar is no move
                self.world.send(
                    self.operator, self.world.contracts.game.move(record.dispute_id, record.state, move)
                )
                sent += 1
            self.played[record.dispute_id] = self.played.get(record.dispute_id, 0) + 1
        return sent

    def _trace(self, answer: Answered) -> Any:
        trace = run_trace(self.world.program, [one.array for one in answer.data.inputs])
        if not answer.changes:
            return trace
        return TamperedTrace(trace, {self.world.program.outputs[0].kernel: answer.changes})


@dataclass
class WatchedWorld:
    """Accounts: 0 deploys and pays, 1 publishes, 2 operates the node."""

    chain: Anvil
    contracts: Contracts
    folder: Path
    program: Program
    version: Hash32
    consumer: Address
    hub: Path
    accounts: list[Address]
    node: LyingNode = field(init=False)

    def send(self, sender: Address, call: Call) -> dict[str, Any]:
        return send_unlocked(self.contracts.client, sender, call.to, call.data)

    def disputes(self) -> dict[int, DisputeRecord]:
        return fetch_disputes(self.contracts.client, self.contracts.game, self.contracts.deployment.block)

    def keystore(self, name: str, *, tokens: int = 100 * BOND, ether: int = 10) -> Path:
        """A funded account's keystore."""
        path = self.folder / f"{name}.json"
        key = create_keystore(path, PASSWORD, scrypt_n=1 << 12)
        self.fund(key.address, tokens, ether)
        return path

    def fund(self, account: Address, tokens: int, ether: int = 10) -> None:
        self.chain.set_balance(account, ether * 10**18)
        if tokens:
            self.send(self.accounts[0], self.contracts.token.mint(account, tokens))

    def options(self, folder: Path, **changes: Any) -> WatchOptions:
        options = WatchOptions(
            rpc_urls=[self.chain.url],
            deployments=self.folder / "deployments",
            data=folder,
            hub_url=str(self.hub),
            rate=1.0,
            poll=0.05,
            timeout=5.0,
        )
        return replace(options, **changes)

    @contextlib.contextmanager
    def watch(self, folder: Path, key: SigningKey | None, **changes: Any) -> Iterator[Watch]:
        with open_watch(self.options(folder, **changes), key) as watch:
            yield watch

    def watcher_key(self, seed: int = 1, tokens: int = 100 * BOND) -> SigningKey:
        key = SigningKey(bytes([seed]) * 32)
        self.fund(key.address, tokens)
        return key

    def play_to_end(
        self, step: Callable[[], None], rounds: int = 80, *, challenger: Address | None = None
    ) -> None:
        """`step` of the watcher and the node's moves by turns, time-outs let pass, until all is closed; with
        `challenger`, all of its disputes.
        """
        for _ in range(rounds):
            step()
            self.node.play()
            records = [r for r in self.disputes().values() if challenger in (None, r.challenger)]
            if records and not any(record.is_open for record in records):
                step()
                return
            if any(record.is_open and record.side is not Side.CHALLENGER for record in records):
                self.chain.increase_time(MOVE_WINDOW + 1)  # the node has played all that it can
        raise AssertionError(f"disputes do not end: {[r.state for r in self.disputes().values()]}")


@contextlib.contextmanager
def watched_world(folder: Path, **deployment: Any) -> Iterator[WatchedWorld]:
    options: dict[str, Any] = {
        "disputes": True,
        "bond": BOND,
        "slash_amount": SLASH,
        "move_window": MOVE_WINDOW,
        "min_stake": SLASH,
        "dispute_window": DISPUTE_WINDOW,
        **deployment,
    }
    with anvil() as chain:
        found: Deployment = deploy(chain.url, folder / "deployments", **options)
        with ChainClient(chain.url) as client, batch_server() as server:
            contracts = Contracts.of(client, found)
            accounts = [checksum_address(account) for account in client.request("eth_accounts")]
            world = _populate(chain, contracts, folder, accounts)
            world.node = add_node(world, accounts[2], server)
            yield world


def _populate(chain: Anvil, contracts: Contracts, folder: Path, accounts: list[Address]) -> WatchedWorld:
    artifact = exact_model()
    program = lower(artifact)
    hub = folder / "hub"
    with HubClient(hub) as store:
        store.put(artifact)
    world = WatchedWorld(chain, contracts, folder, program, Hash32(bytes(32)), accounts[5], hub, accounts)
    world.version = publish(world, "dense", artifact, program.root)
    return world


def publish(world: WatchedWorld, name: str, artifact: bytes, program_root: Hash32) -> Hash32:
    """A new model's first version; the artifact is not put into the hub."""
    publisher, models = world.accounts[1], world.contracts.models
    world.send(publisher, models.register_model(name, ""))
    model = model_id(publisher, name)
    call = models.publish_version(model, artifact_digest(artifact), program_root, Hash32(b"\x01" * 32), 0, "")
    world.send(publisher, call)
    return version_id(model, 1)


def add_node(world: WatchedWorld, operator: Address, server: BatchServer) -> LyingNode:
    """Registered and staked with three slashes."""
    signer = SigningKey(b"\x77" * 31 + bytes([len(operator) + world.accounts.index(operator)]))
    contracts, stake = world.contracts, 3 * SLASH
    world.send(operator, contracts.nodes.register(signer.address, server.url))
    world.fund(operator, stake, ether=100)
    world.send(operator, contracts.token.approve(contracts.nodes.address, stake))
    world.send(operator, contracts.nodes.stake(operator, stake))
    return LyingNode(world, operator, signer, server)
