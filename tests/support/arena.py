"""All contracts in titanoboa with one staked node and one exact version, and disputes played move by move."""

from __future__ import annotations

from dataclasses import astuple, dataclass, field, replace
from typing import Any

import boa
from assay.commitments.identifiers import batch_id, keccak
from assay.commitments.receipts import receipt_digest, receipts_tree
from assay.commitments.signing import SigningKey
from assay.exact.game import MAX_MOVES, Move, Phase, State
from assay.exact.program import Program
from assay.types import Address, BatchKey, Domain, Hash32, Receipt

from tests.support.contracts import ZERO, deployer, events
from tests.support.small_programs import commitments_of

UNIT = 10**18
MIN_STAKE = 1_000 * UNIT
BOND = 10 * UNIT
SLASH = 400 * UNIT
PRICE = 3 * UNIT
MOVE_WINDOW = 600
DISPUTE_WINDOW = 3_600
THAW = DISPUTE_WINDOW + MAX_MOVES * MOVE_WINDOW
ESCROW_THAW = 7_200


@dataclass
class Dispute:
    """One dispute on the chain. `state` and `data` are what the last event said; `closed` the last of all."""

    number: int
    receipt: Receipt
    state: State
    data: bytes = b""
    closed: dict[str, Any] | None = None
    moves: list[tuple[Phase, bytes, State]] = field(default_factory=list)

    @property
    def node_won(self) -> bool:
        assert self.closed is not None, "the dispute is open"
        return bool(self.closed["node_won"])


@dataclass
class Arena:
    """`publish` a program, `receipt` its answers, `open` and `play`."""

    token: Any
    models: Any
    nodes: Any
    settlement: Any
    verifier: Any
    game: Any
    owner: str
    publisher: str
    operator: str
    signer: SigningKey
    consumer: str
    treasury: str
    challenger: str
    stranger: str

    @classmethod
    def build(cls, **overrides: Any) -> Arena:
        """`overrides`: token (a contract), thaw_period, game (a dictionary of its arguments)."""
        actors = {
            name: str(boa.env.generate_address(name))
            for name in ("owner", "publisher", "operator", "consumer", "treasury", "challenger", "stranger")
        }
        token = overrides.get("token") or deployer("MockToken").deploy("Test Token", "TEST")
        address = boa.env.generate_address("DisputeGame")
        models = deployer("ModelRegistry").deploy(actors["owner"])
        thaw = overrides.get("thaw_period", THAW)
        nodes = deployer("NodeRegistry").deploy(token, address, actors["owner"], MIN_STAKE, thaw)
        parties = (token, models, nodes, address, actors["owner"], actors["treasury"])
        settlement = deployer("Settlement").deploy(*parties, 250, DISPUTE_WINDOW, ESCROW_THAW)
        verifier = deployer("StepVerifier").deploy()
        terms = {
            "token": token,
            "models": models,
            "nodes": nodes,
            "settlement": settlement,
            "verifier": verifier,
            "bond": BOND,
            "slash_amount": SLASH,
            "move_window": MOVE_WINDOW,
        } | overrides.get("game", {})
        game = deployer("DisputeGame").deploy(*terms.values(), override_address=address)
        signer = SigningKey(keccak(b"signer"))
        arena = cls(token, models, nodes, settlement, verifier, game, signer=signer, **actors)
        nodes.register(signer.address, "https://node.example", sender=arena.operator)
        arena.stake(MIN_STAKE)
        models.register_model("m", "", sender=arena.publisher)
        return arena

    @property
    def domain(self) -> Domain:
        return Domain(self.settlement.eip712Domain()[3], Address(str(self.settlement.address)))

    def give(self, account: str, amount: int, spender: Any) -> None:
        """Mints and approves."""
        self.token.mint(account, amount)
        self.token.approve(spender, amount, sender=account)

    def stake(self, amount: int) -> None:
        self.give(self.operator, amount, self.nodes)
        self.nodes.stake(self.operator, amount, sender=self.operator)

    def publish(self, program: Program | None) -> Hash32:
        """A version with this program; None: with none."""
        root = program.root if program else bytes(32)
        model_id = self.models.model_id_of(self.publisher, "m")
        content = (b"\xaa" * 32, root, b"\xcc" * 32, 500, "uri")
        return Hash32(self.models.publish_version(model_id, *content, sender=self.publisher))

    def receipt(self, version_id: Hash32, trace: Any = None, **changes: Any) -> Receipt:
        """What the node states about a trace's inputs and outputs."""
        hashes = (
            commitments_of(trace.program, trace) if trace else (Hash32(b"\x01" * 32), Hash32(b"\x02" * 32))
        )
        made = Receipt(
            node=Address(self.operator),
            consumer=Address(self.consumer),
            version_id=version_id,
            input_hash=hashes[0],
            output_hash=hashes[1],
            price=PRICE,
            sequence=1,
            executed_at=boa.env.timestamp,
        )
        return replace(made, **changes)

    def digest(self, receipt: Receipt) -> Hash32:
        return receipt_digest(self.domain, receipt)

    def sign(self, receipt: Receipt, key: SigningKey | None = None) -> bytes:
        return (key or self.signer).sign(self.digest(receipt))

    def post(self, *receipts: Receipt, rows: Any = ()) -> tuple[Hash32, Any]:
        """A posted batch of these receipts: its id and its tree."""
        tree = receipts_tree([self.digest(receipt) for receipt in receipts])
        version_id = receipts[0].version_id
        self.settlement.post_batch(self.operator, version_id, tree.root, list(rows), [], sender=self.operator)
        return batch_id(BatchKey(Address(self.operator), version_id, tree.root)), tree

    def open(self, receipt: Receipt, *, tree: Any = None, by: str | None = None, **changes: Any) -> Dispute:
        """Opens a dispute; with `tree`, as a receipt of that batch (at `index`, by default where it is)."""
        by = by or self.challenger
        self.give(by, changes.get("bond", self.game.bond()), self.game)
        index, siblings = changes.get("index", 0), []
        if tree is not None:
            place = self._place(tree, receipt)
            index, siblings = changes.get("index", place), tree.proof(place)
        signature = changes.get("signature", self.sign(receipt))
        number = self.game.open(astuple(receipt), signature, tree is not None, siblings, index, sender=by)
        ((_, opened),) = [event for event in events(self.game) if event[0] == "DisputeOpened"]
        return Dispute(number, receipt, self.state_of(opened["state"]))

    def _place(self, tree: Any, receipt: Receipt) -> int:
        digest = self.digest(receipt)
        leaves = [tree.node(0, place) for place in range(tree.leaf_count)]
        return leaves.index(receipts_tree([digest]).root)

    def move(self, dispute: Dispute, move: Move, *, by: str) -> None:
        """Plays a move and takes its event over."""
        getattr(self.game, move.function)(dispute.number, dispute.state.row(), *move.arguments, sender=by)
        for name, args in events(self.game):
            if name == "Moved":
                dispute.state, dispute.data = self.state_of(args["state"]), args["data"]
                dispute.moves.append((Phase(args["move"]), args["data"], dispute.state))
            elif name == "DisputeClosed":
                dispute.closed = args

    def claim_timeout(self, dispute: Dispute, *, by: str | None = None) -> None:
        """Lets the move's time pass and closes the dispute."""
        boa.env.timestamp = max(boa.env.timestamp, dispute.state.deadline + 1)
        self.close(dispute, by=by)

    def close(self, dispute: Dispute, *, by: str | None = None) -> None:
        self.game.claim_timeout(
            dispute.number, dispute.state.row(), astuple(dispute.receipt), sender=by or self.stranger
        )
        ((_, dispute.closed),) = [event for event in events(self.game) if event[0] == "DisputeClosed"]

    @staticmethod
    def state_of(row: Any) -> State:
        plain = [str(value) if type(value).__name__ == "Address" else value for value in row]
        return State.from_row(tuple(plain))

    def balance(self, account: str) -> int:
        return int(self.token.balanceOf(account))

    def __post_init__(self) -> None:
        assert self.operator != ZERO
