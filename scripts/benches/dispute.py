"""Gas of whole disputes on a real Anvil with its newest hardfork (EIP-7623 prices calldata): every
transaction of both sides, base and calldata included, from `open` in a posted batch to the pay-out.

Three games each: a cheating node, pinned to one multiply-add of the kernel whose game costs most, that lets
the time pass at the last move; an honest node against a challenger who points at that same step; and against
one who points at a step with the most operands. The total is the largest. Reference: opML's whole game.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from assay.chain.client import ChainClient
from assay.chain.contracts import DisputeGame, ModelRegistry, NodeRegistry, Settlement, Token
from assay.chain.deployments import Deployment
from assay.chain.disputes import DisputeRecord, fold_events
from assay.chain.values import Call
from assay.commitments.identifiers import keccak, model_id, version_id
from assay.commitments.merkle import MerkleTree, depth_of
from assay.commitments.receipts import receipt_digest
from assay.commitments.signing import SigningKey
from assay.commitments.tensors import CHUNK_BYTES, ONNX_TO_NUMPY, commit_tensors
from assay.exact.dispute import element_width, segment_count
from assay.exact.game import LEVELS, Move, Phase, Side, State, challenge, defend
from assay.exact.lowering import lower
from assay.exact.program import Kernel, Program
from assay.exact.trace import Trace, run_trace
from assay.types import Address, Hash32, Receipt, SignedReceipt

from scripts.benches.resnet import build_resnet
from tests.support.anvil import Anvil, anvil
from tests.support.deploy import deploy, send_unlocked
from tests.support.game_players import Aiming
from tests.support.tampered_trace import TamperedTrace

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "scripts" / "models" / "digits-int8" / "model.onnx"
UNIT = 10**18
FIELDS = ("name", "value", "unit", "reference", "ratio")
BATCH = 1_024
"""Receipts in the disputed receipt's batch."""
OPML_GAS, OPML_TRANSACTIONS = 5_000_000, 42
"""opML's MIPS game over 2^20 steps: at least this much gas, in about so many transactions."""
CODE_LIMIT = 24_576
HARDFORK = "osaka"
"""Anvil's newest, which it runs by default."""
REFERENCES = {
    "dispute_gas_1gmac": OPML_GAS,
    "dispute_gas_digits": OPML_GAS,
    "dispute_transactions_1gmac": OPML_TRANSACTIONS,
    "dispute_transactions_digits": OPML_TRANSACTIONS,
    "dispute_last_step_gas": 350_000,  # this project's bound
}


@dataclass(frozen=True)
class Target:
    """One step of one element of one kernel."""

    kernel: int
    element: int
    step: int


@dataclass
class Game:
    """Gas of each transaction, by who sent it."""

    paid: dict[Side, list[tuple[str, int]]] = field(default_factory=lambda: {side: [] for side in Side})

    def of(self, side: Side) -> int:
        return sum(gas for _, gas in self.paid[side])

    @property
    def gas(self) -> int:
        return self.of(Side.NODE) + self.of(Side.CHALLENGER)

    @property
    def transactions(self) -> int:
        return sum(map(len, self.paid.values()))

    def one(self, function: str) -> int:
        return max(gas for sent in self.paid.values() for name, gas in sent if name == function)


Choose = Callable[[State, bytes], Move]


class Table:
    """A deployed system with one staked node, at which disputes are played."""

    def __init__(self, chain: Anvil, client: ChainClient, deployment: Deployment) -> None:
        self.chain, self.client, self.deployment = chain, client, deployment
        self.owner, self.operator, self.challenger = (Address(one) for one in chain.accounts[:3])
        parts = (client, deployment)
        self.models, self.nodes, self.settlement = (
            ModelRegistry(*parts),
            NodeRegistry(*parts),
            Settlement(*parts),
        )
        self.token, self.game = Token(*parts), DisputeGame(*parts)
        self.signer = SigningKey(keccak(b"bench signer"))
        self.sequence = 0
        for account, spender in ((self.operator, self.nodes.address), (self.challenger, self.game.address)):
            self.send(account, self.token.mint(account, 10**6 * UNIT))
            self.send(account, self.token.approve(spender, 2**256 - 1))
        self.send(self.operator, self.nodes.register(self.signer.address, "https://node.example:8443"))
        self.send(self.operator, self.nodes.stake(self.operator, 10**5 * UNIT))
        self.send(self.owner, self.models.register_model("network", "https://hub.example/card"))
        self.versions = 0

    def send(self, sender: Address, call: Call) -> dict[str, Any]:
        return send_unlocked(self.client, sender, call.to, call.data)

    def code_size(self, name: str) -> int:
        return len(self.client.get_code(self.deployment.address(name)))

    def publish(self, program: Program) -> Hash32:
        model = model_id(self.owner, "network")
        other = Hash32(b"\xaa" * 32)
        self.send(self.owner, self.models.publish_version(model, other, program.root, other, 500, "hub://a"))
        self.versions += 1
        return version_id(model, self.versions)

    def post(self, version: Hash32, trace: Any, outputs: list[Any]) -> tuple[SignedReceipt, tuple[Any, int]]:
        """The node's signed receipt and its proof in a posted batch of `BATCH` receipts."""
        self.sequence += 1
        receipt = Receipt(
            node=self.operator,
            consumer=self.owner,
            version_id=version,
            input_hash=commit_tensors(trace.inputs),
            output_hash=commit_tensors(outputs),
            price=UNIT // 100,
            sequence=self.sequence,
            executed_at=self.chain.timestamp(),
        )
        digest = receipt_digest(self.deployment.domain, receipt)
        place = BATCH // 3
        leaves = [digest if n == place else keccak(n.to_bytes(8, "big")) for n in range(BATCH)]
        tree = MerkleTree(leaves)
        self.send(self.operator, self.settlement.post_batch(self.operator, version, tree.root, []))
        return SignedReceipt(receipt, self.signer.sign(digest)), (tree.proof(place), place)

    def play(self, version: Hash32, trace: Any, outputs: list[Any], choose: Choose) -> Game:
        """A whole dispute; the node plays `trace`, the challenger what `choose` answers."""
        signed, proof = self.post(version, trace, outputs)
        game, record = Game(), None
        record = self.note(game, Side.CHALLENGER, "open", self.game.open(signed, proof), record)
        while record.is_open:
            state = record.state
            node_moves = state.side is Side.NODE
            move = defend(state, trace, signed.receipt) if node_moves else choose(state, record.data)
            side = Side.NODE if node_moves else Side.CHALLENGER
            if node_moves and state.phase is Phase.PROVE_STEP and isinstance(trace, TamperedTrace):
                self.chain.increase_time(self.game.move_window() + 1)
                call = self.game.claim_timeout(record.dispute_id, state, signed.receipt)
                record = self.note(game, Side.CHALLENGER, "claim_timeout", call, record)
            else:
                call = self.game.move(record.dispute_id, state, move)
                record = self.note(game, side, move.function, call, record)
        assert record.closing is not None
        assert record.closing.node_won == (not isinstance(trace, TamperedTrace))
        return game

    def note(
        self, game: Game, side: Side, name: str, call: Call, record: DisputeRecord | None
    ) -> DisputeRecord:
        sender = self.operator if side is Side.NODE else self.challenger
        mined = self.send(sender, call)
        game.paid[side].append((name, int(mined["gasUsed"], 16)))
        known = {} if record is None else {record.dispute_id: record}
        ((_, record),) = fold_events(self.game.decode_logs(mined["logs"]), known).items()
        return record


@contextmanager
def table() -> Iterator[Table]:
    with (
        tempfile.TemporaryDirectory() as folder,
        anvil(hardfork=HARDFORK) as chain,
        ChainClient(chain.url) as client,
    ):
        yield Table(chain, client, deploy(chain.url, Path(folder), disputes=True, bond=10 * UNIT))


def burden(kernel: Kernel, rows: int) -> int:
    """About what the tensor's and the reduction's moves cost, to find the kernel whose game costs most."""
    width = element_width(kernel.dtype)
    size = rows * kernel.elements * width
    levels = depth_of(max(-(-size // CHUNK_BYTES), 1))
    moves, revealed = 2 * -(-levels // LEVELS) + (levels > 0), 2 * min(size, CHUNK_BYTES)
    steps = kernel.steps
    while steps > 1:
        moves, revealed = moves + 2, revealed + 2 * width * segment_count(steps)
        steps = -(-steps // segment_count(steps))
    return 45_000 * moves + 24 * revealed


def longest(program: Program, trace: Trace) -> Target:
    """In the middle of the tensor and two thirds down the reduction of the kernel whose game costs most."""
    kernels = program.kernels
    kernel = max(range(len(kernels)), key=lambda k: burden(kernels[k], trace.rows))
    one = kernels[kernel]
    return Target(kernel, trace.rows * one.elements // 2, one.steps * 2 // 3)


def widest(program: Program, trace: Trace) -> Target:
    """A step of the kernel that opens most operands; of these the longest record."""
    kernels = program.kernels
    kernel = max(range(len(kernels)), key=lambda k: (len(kernels[k].operands), len(program.records[1 + k])))
    return Target(kernel, trace.rows * kernels[kernel].elements // 2, kernels[kernel].steps // 2)


def aim(target: Target) -> Choose:
    """A challenger who points at the target, whatever is true."""
    aiming = Aiming(target.kernel, target.element, target.step)

    def choose(state: State, data: bytes) -> Move:
        move = aiming.play(state, data)
        assert move is not None
        return move

    return choose


def tell(trace: Trace) -> Choose:
    """The honest challenger."""

    def choose(state: State, data: bytes) -> Move:
        move = challenge(state, data, trace)
        assert isinstance(move, Move)
        return move

    return choose


def lying(trace: Trace, target: Target) -> tuple[TamperedTrace, list[Any]]:
    """A node that is wrong at the target and in its first output, and the outputs that it gave."""
    program = trace.program
    output = program.outputs[0].kernel
    changes: dict[int, dict[int, int]] = {}
    for kernel, element in ((target.kernel, target.element), (output, 0)):
        total = program.kernels[kernel].steps
        value = trace.accumulators(kernel, element, [total])[0]
        changes.setdefault(kernel, {})[element] = value ^ 1
    lie = TamperedTrace(trace, changes, lie_from=target.step + 1)
    outputs = []
    for one, honest in zip(program.outputs, trace.outputs, strict=True):
        given = np.frombuffer(lie.tensor(one.kernel), ONNX_TO_NUMPY[one.dtype])
        outputs.append(given.reshape(honest.shape))
    return lie, outputs


@dataclass(frozen=True)
class Measured:
    """Of one network: the two games, and the defence of the step that opens most."""

    beaten: Game
    defended: Game
    widest: Game

    @property
    def gas(self) -> int:
        return max(game.gas for game in (self.beaten, self.defended, self.widest))

    @property
    def transactions(self) -> int:
        return max(game.transactions for game in (self.beaten, self.defended, self.widest))

    @property
    def last_step(self) -> int:
        return max(game.one("prove_step") for game in (self.defended, self.widest))


def measure(at: Table, program: Program, inputs: list[Any]) -> Measured:
    trace = run_trace(program, inputs)
    version = at.publish(program)
    target = longest(program, trace)
    lie, outputs = lying(trace, target)
    honest = list(trace.outputs)
    return Measured(
        widest=at.play(version, trace, honest, aim(widest(program, trace))),
        defended=at.play(version, trace, honest, aim(target)),
        beaten=at.play(version, lie, outputs, tell(trace)),
    )


def random_inputs(program: Program, rows: int = 1) -> list[Any]:
    """Seeded; floats between 0 and 1."""
    rng = np.random.default_rng(7)
    found = []
    for one in program.inputs:
        dtype, shape = ONNX_TO_NUMPY[one.dtype], ((rows,) if program.batched else ()) + one.dims
        values = rng.random(shape) if dtype.kind == "f" else rng.integers(0, 100, shape)
        found.append(np.ascontiguousarray(values.astype(dtype)))
    return found


def rows_of(name: str, measured: Measured) -> dict[str, float]:
    return {
        f"dispute_gas_{name}": measured.gas,
        f"dispute_transactions_{name}": measured.transactions,
        f"dispute_defence_gas_{name}": max(measured.defended.of(Side.NODE), measured.widest.of(Side.NODE)),
        f"dispute_attack_gas_{name}": measured.beaten.of(Side.CHALLENGER),
        f"dispute_open_gas_{name}": measured.beaten.one("open"),
    }


def run() -> list[dict[str, Any]]:
    """Rows {name, value, unit, reference, ratio}."""
    found: dict[str, float] = {}
    last_steps = []
    for name, artifact in (("digits", DIGITS.read_bytes()), ("1gmac", build_resnet())):
        program = lower(artifact)
        with table() as at:
            measured = measure(at, program, random_inputs(program))
            sizes = {one: at.code_size(one) for one in ("DisputeGame", "StepVerifier")}
        found |= rows_of(name, measured)
        last_steps.append(measured.last_step)
    found["dispute_last_step_gas"] = max(last_steps)
    rows = [build_row(name, value, _unit(name)) for name, value in found.items()]
    return rows + [build_row(f"code_{name}", size, "bytes", CODE_LIMIT) for name, size in sizes.items()]


def _unit(name: str) -> str:
    return "transactions" if "transactions" in name else "gas"


def build_row(name: str, value: float, unit: str, reference: float | None = None) -> dict[str, Any]:
    reference = reference or REFERENCES.get(name)
    ratio = round(value / reference, 4) if reference else None
    return dict(zip(FIELDS, (name, value, unit, reference, ratio), strict=True))


if __name__ == "__main__":
    for row in run():
        print(row)
