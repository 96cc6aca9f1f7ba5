"""The protocol's machine with the real dispute game in it: nobody else may hold, void, freeze or slash.

20 examples of 50 steps; `scripts/test --deep`: 500 of 100.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import astuple, replace
from typing import Any

import boa
import pytest
from assay.commitments.identifiers import batch_id, keccak
from assay.commitments.merkle import leaf_hash
from assay.commitments.receipts import receipt_digest
from assay.exact.game import Phase, Side, State, defend
from assay.types import Address, BatchKey, Hash32, Receipt
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule, run_state_machine_as_test

from tests.conftest import DEEP
from tests.contracts.stateful.model import Dispute
from tests.contracts.stateful.test_protocol import (
    AMOUNTS,
    CONSUMER,
    NODE,
    PROGRAM,
    VERSION,
    Protocol,
    World,
    fast_mode,
    world,
)
from tests.support.arena import Arena
from tests.support.contracts import deployer, events
from tests.support.game_players import point
from tests.support.market import DISPUTE_WINDOW, key
from tests.support.small_programs import PlainTrace, commitments_of

UNIT = 10**18
BOND, SLASH, MOVE_WINDOW = 10 * UNIT, 400 * UNIT, 600
TRACE = PlainTrace(PROGRAM, [bytes(range(6))])
HASHES = commitments_of(PROGRAM, TRACE)
DISPUTE = st.integers(0, 2**16)

__all__ = ["fast_mode", "world"]


class Disputed(Protocol):
    """Receipts are true (`TRACE`) or not; the node defends, falls silent, or the challenger does."""

    hold = release = void = slash = freeze = None  # type: ignore[assignment]

    def __init__(self, world: World) -> None:
        super().__init__(world)
        game = (world.token, world.models, world.nodes, world.settlement, deployer("StepVerifier").deploy())
        self.game = deployer("DisputeGame").deploy(
            *game, BOND, SLASH, MOVE_WINDOW, override_address=Address(world.dispute_game)
        )
        self.model.bond, self.model.slash_amount, self.model.move_window = BOND, SLASH, MOVE_WINDOW
        self.challenger = str(boa.env.generate_address("challenger"))
        world.token.mint(self.challenger, 10**30)
        world.token.approve(self.game, 2**255, sender=self.challenger)
        self.signers = [key(f"signer {number}") for number in range(len(world.operators))]
        for operator, signer in zip(world.operators, self.signers, strict=True):
            world.nodes.rotate_signer(signer.address, sender=operator)
        self.states: list[State] = []
        self.data: list[bytes] = []
        self.receipts: list[tuple[Receipt, Hash32 | None]] = []
        accounts = {self.challenger, world.treasury, *world.operators, *world.consumers}
        self.start = {account: world.token.balanceOf(account) for account in accounts}
        self.moved: Counter[str] = Counter()
        self.issued = 0

    def signed(self, receipt: Receipt) -> bytes:
        number = self.world.operators.index(receipt.node)
        return self.signers[number].sign(receipt_digest(self.world.domain, receipt))

    @rule(
        node=NODE, version=VERSION, consumer=CONSUMER, price=AMOUNTS, true=st.booleans(), posted=st.booleans()
    )
    def open_new(self, node: int, version: int, consumer: int, price: int, true: bool, posted: bool) -> None:
        """A receipt's dispute, in a batch of its own that a voucher pays for, or in none."""
        self.issued += 1
        hashes = HASHES if true else (HASHES[0], Hash32(keccak(b"wrong")))
        receipt = Receipt(
            Address(self.world.operators[node]),
            Address(self.world.consumers[consumer]),
            Hash32(self.world.versions[version]),
            *hashes,
            price,
            self.issued,
            self.model.now,
        )
        digest = receipt_digest(self.world.domain, receipt)
        root = None
        if posted:
            root = leaf_hash(digest)
            self.fund(consumer, node, price)
            if not self.post_root(receipt, root, consumer, price):
                return
        self.open(receipt, root)

    def post_root(self, receipt: Receipt, root: Hash32, consumer: int, price: int) -> bool:
        known = (receipt.node, receipt.version_id, root)
        posted = batch_id(BatchKey(*known))
        plain, wallet = self.draw_rows(receipt.node, receipt.version_id, [(consumer, price, 1, True)])
        expected = self.model.post(posted, known, [row for row, _ in (*plain, *wallet)])
        arguments = (*known, [row for _, row in plain], [row for _, row in wallet])
        self.call(expected, self.world.settlement.post_batch, *arguments, sender=receipt.node)
        return not isinstance(expected, str)

    def open(self, receipt: Receipt, root: Hash32 | None) -> None:
        digest = receipt_digest(self.world.domain, receipt)
        posted = batch_id(BatchKey(receipt.node, receipt.version_id, root)) if root else None
        start = self.model.batches[posted].posted_at if posted else receipt.executed_at
        deadline = self.model.now + MOVE_WINDOW
        dispute = Dispute(receipt.node, posted, digest, receipt.consumer, receipt.price, deadline)
        expected = self.model.open(receipt.version_id, dispute, start)
        arguments = (astuple(receipt), self.signed(receipt), root is not None, [], 0)
        self.call(expected, self.game.open, *arguments, sender=self.challenger)
        if expected is None:
            ((_, args),) = [event for event in events(self.game) if event[0] == "DisputeOpened"]
            self.states.append(Arena.state_of(args["state"]))
            self.data.append(b"")
            self.receipts.append((receipt, root))
            self.moved[self.challenger] -= BOND

    @precondition(lambda self: self.receipts)
    @rule(which=DISPUTE)
    def open_again(self, which: int) -> None:
        """Another dispute of a receipt: beside the first, or after it was decided."""
        self.open(*self.receipts[which % len(self.receipts)])

    @precondition(lambda self: any(dispute.is_open for dispute in self.model.disputes))
    @rule(which=DISPUTE, moves=st.integers(1, 4))
    def play(self, which: int, moves: int) -> None:
        """Whoever owes the moves plays them."""
        for _ in range(moves):
            self.play_one(which % len(self.states))

    def play_one(self, number: int) -> None:
        state, dispute = self.states[number], self.model.disputes[number]
        receipt = self.receipts[number][0]
        if not dispute.is_open:
            return
        is_node = state.side is Side.NODE
        move = defend(state, TRACE, receipt) if is_node else point(state, self.data[number], 2)
        assert move is not None
        expected: str | None = None
        if self.model.now > dispute.deadline:
            expected = "disputes: move is too late"
        elif state.phase is Phase.ASSERT and receipt.output_hash != HASHES[1]:
            expected = "steps: outputs are not the receipt's"
        function = getattr(self.game, move.function)
        sender = receipt.node if is_node else self.challenger
        self.call(expected, function, number + 1, state.row(), *move.arguments, sender=sender)
        if expected is None:
            self.note(number)

    def note(self, number: int) -> None:
        dispute = self.model.disputes[number]
        for name, args in events(self.game):
            if name == "Moved":
                self.states[number], self.data[number] = Arena.state_of(args["state"]), args["data"]
                dispute.deadline = self.model.now + MOVE_WINDOW
                dispute.owed_by_node = self.states[number].side is Side.NODE
            elif name == "DisputeClosed":
                assert args["node_won"]
                self.model.acquit(dispute)

    @precondition(lambda self: self.states)
    @rule(which=DISPUTE)
    def time_out(self, which: int) -> None:
        number = which % len(self.states)
        receipt = self.receipts[number][0]
        expected = self.model.time_out(self.model.disputes[number], self.challenger)
        arguments = (number + 1, self.states[number].row(), astuple(receipt))
        self.call(expected, self.game.claim_timeout, *arguments, sender=self.world.publisher)

    @rule(which=DISPUTE)
    def play_and_fall_silent(self, which: int) -> None:
        if self.states:
            self.play_one(which % len(self.states))
            self.wait(MOVE_WINDOW + 1)
            self.time_out(which)

    @rule(node=NODE, version=VERSION, consumer=CONSUMER, sequence=st.integers(10**6, 10**6 + 2))
    def equivocate(self, node: int, version: int, consumer: int, sequence: int) -> None:
        first, second = self.two_answers(node, version, consumer, sequence)
        fraud = ("equivocation", first.node, first.consumer, first.version_id, sequence)
        expected = self.model.punish(fraud, first.node, self.challenger)
        self.accuse(expected, self.game.prove_equivocation, first, second)

    @rule(node=NODE, version=VERSION, consumer=CONSUMER, question=st.integers(0, 2))
    def contradict(self, node: int, version: int, consumer: int, question: int) -> None:
        first, second = self.two_answers(node, version, consumer, 1)
        asked = Hash32(bytes([question]) * 32)
        first, second = replace(first, input_hash=asked), replace(second, input_hash=asked, sequence=2)
        expected: str | None = "disputes: version has no program"
        if self.model.terms[first.version_id][2]:
            fraud = ("contradiction", first.node, first.version_id, asked)
            expected = self.model.punish(fraud, first.node, self.challenger)
        self.accuse(expected, self.game.prove_contradiction, first, second)

    def two_answers(self, node: int, version: int, consumer: int, sequence: int) -> tuple[Receipt, Receipt]:
        parties = (Address(self.world.operators[node]), Address(self.world.consumers[consumer]))
        known = Hash32(self.world.versions[version])
        first = Receipt(*parties, known, *HASHES, 5, sequence, self.model.now)
        return first, replace(first, output_hash=Hash32(keccak(b"wrong")))

    def accuse(self, expected: Any, function: Any, first: Receipt, second: Receipt) -> None:
        arguments = (astuple(first), self.signed(first), astuple(second), self.signed(second))
        self.call(expected, function, *arguments, sender=self.challenger)

    @invariant()
    def game_holds_the_bonds(self) -> None:
        """Open ones and nothing else: all that was slashed has been paid out."""
        assert self.world.token.balanceOf(self.game) == self.model.bonds()

    @invariant()
    def open_disputes_freeze_and_hold(self) -> None:
        """Nothing withdrawable or collectable lies between a loss and its slash."""
        for dispute in self.model.disputes:
            if dispute.is_open:
                assert self.world.nodes.nodes(dispute.node).frozen > 0
                if dispute.batch_id is not None:
                    assert self.world.settlement.batches(dispute.batch_id).holds > 0

    @invariant()
    def challenger_has_its_rewards(self) -> None:
        has = self.world.token.balanceOf(self.challenger)
        assert (
            has
            == self.start[self.challenger] + self.moved[self.challenger] + self.model.rewards[self.challenger]
        )

    def everybody_leaves(self) -> None:
        self.wait(MOVE_WINDOW + DISPUTE_WINDOW)
        for number, dispute in enumerate(self.model.disputes):
            if dispute.is_open:
                self.time_out(number)
        assert self.world.token.balanceOf(self.game) == 0
        super().everybody_leaves()


@pytest.mark.usefixtures("fast_mode")
def test_disputes__any_calls_in_any_order__keep_the_invariants(world: World) -> None:
    run_state_machine_as_test(
        lambda: Disputed(world),
        settings=settings(
            max_examples=500 if DEEP else 20,
            stateful_step_count=100 if DEEP else 50,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
