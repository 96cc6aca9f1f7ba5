"""All three contracts and the token under random calls, held to `Model` and to design.md's invariants.

100 examples of 50 steps; `scripts/test --deep`: 1,000 of 100.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import boa
import pytest
from assay.commitments.identifiers import batch_id
from assay.commitments.receipts import receipt_digest, voucher_digest
from assay.commitments.signing import SigningKey, compact
from assay.types import Address, BatchKey, Domain, Hash32, Receipt, Voucher
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.conftest import DEEP
from tests.contracts.conftest import MIN_STAKE, THAW_PERIOD
from tests.contracts.stateful.model import Model, Row
from tests.support.contracts import deployer, events, fields
from tests.support.market import DISPUTE_WINDOW, ESCROW_THAW, key
from tests.support.small_programs import single

PROGRAM = single(random.Random(0))
ROYALTIES = (500, 0, 5_000)
"""Of the versions; the one without a royalty has no program either."""
WINDOWS = (1, DISPUTE_WINDOW - 1, DISPUTE_WINDOW, ESCROW_THAW, THAW_PERIOD)
AMOUNTS = st.one_of(st.integers(1, 50), st.integers(1, 10**24))


@dataclass(frozen=True)
class World:
    """What every example starts from."""

    token: Any
    models: Any
    nodes: Any
    settlement: Any
    owner: str
    dispute_game: str
    treasury: str
    publisher: str
    operators: tuple[str, ...]
    versions: tuple[bytes, ...]
    terms: dict[bytes, tuple[str, int, bool]]
    keys: tuple[SigningKey, ...]
    wallet: str
    wallet_key: SigningKey
    domain: Domain

    @property
    def consumers(self) -> tuple[str, ...]:
        return (*(key.address for key in self.keys), self.wallet)


@pytest.fixture
def world(
    token: Any, models: Any, nodes: Any, owner: str, dispute_game: str, treasury: str, publisher: str
) -> World:
    settlement = deployer("Settlement").deploy(
        token, models, nodes, dispute_game, owner, treasury, 250, DISPUTE_WINDOW, ESCROW_THAW
    )
    operators = tuple(str(boa.env.generate_address(f"operator {i}")) for i in range(2))
    for i, operator in enumerate(operators):
        nodes.register(boa.env.generate_address(f"signer {i}"), "https://node", sender=operator)
        token.mint(operator, 10**30)
        token.approve(nodes, 2**255, sender=operator)
        nodes.stake(operator, 2 * MIN_STAKE, sender=operator)
    model_id = models.register_model("m", "", sender=publisher)
    terms = {}
    for royalty_bps in ROYALTIES:
        root = PROGRAM.root if royalty_bps else bytes(32)
        content = (b"\xaa" * 32, root, b"\xcc" * 32, royalty_bps, "uri")
        version = models.publish_version(model_id, *content, sender=publisher)
        terms[version] = (publisher, royalty_bps, royalty_bps != 0)
    wallet_key = key("wallet")
    wallet = str(deployer("MockWallet").deploy(wallet_key.address).address)
    keys = tuple(key(name) for name in ("alice", "bob", "carol"))
    domain = Domain(settlement.eip712Domain()[3], Address(str(settlement.address)))
    return World(
        token=token,
        models=models,
        nodes=nodes,
        settlement=settlement,
        owner=owner,
        dispute_game=dispute_game,
        treasury=treasury,
        publisher=publisher,
        operators=operators,
        versions=tuple(terms),
        terms=terms,
        keys=keys,
        wallet=wallet,
        wallet_key=wallet_key,
        domain=domain,
    )


CONSUMER = st.integers(0, 3)
NODE = st.integers(0, 1)
VERSION = st.integers(0, 2)
BATCH = st.integers(0, 2**16)
ROWS = st.lists(
    st.tuples(
        CONSUMER,
        st.one_of(st.integers(0, 60), st.integers(-5, 10**24), st.just(2**100)),
        st.one_of(st.integers(0, 4), st.integers(-2, 2**32), st.just(2**33)),
        st.sampled_from([True] * 9 + [False]),
    ),
    max_size=6,
)


class Protocol(RuleBasedStateMachine):
    """Rules make one call each and compare its outcome; invariants compare the money."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self._anchor: Any = boa.env.anchor()
        self._anchor.__enter__()
        self.model = Model(
            window=DISPUTE_WINDOW,
            escrow_thaw=ESCROW_THAW,
            stake_thaw=THAW_PERIOD,
            min_stake=MIN_STAKE,
            treasury=world.treasury,
            terms=world.terms,
            now=boa.env.timestamp,
            fee_bps=250,
        )
        for operator in world.operators:
            self.model.stake(operator, 2 * MIN_STAKE)
        self.payer = str(boa.env.generate_address("payer"))
        world.token.mint(self.payer, 10**40)
        world.token.approve(world.settlement, 2**255, sender=self.payer)
        self.roots = 0
        self.collections: Counter[bytes] = Counter()
        self.versions_before = [fields(world.models.versions(v)) for v in world.versions]
        self.channels_before: dict[Any, tuple[int, int]] = {}

    def call(self, expected: Any, function: Any, *arguments: Any, sender: str) -> Any:
        """Calls; a string is the reason that it must fail for, an int what it must return."""
        if isinstance(expected, str):
            with boa.reverts(expected):
                function(*arguments, sender=sender)
            return None
        answer = function(*arguments, sender=sender)
        if isinstance(expected, int):
            assert answer == expected
        return answer

    def pick(self, index: int) -> bytes:
        return list(self.model.batches)[index % len(self.model.batches)]

    def pair(self, consumer: int, node: int) -> tuple[str, str]:
        return self.world.consumers[consumer], self.world.operators[node]

    # escrow

    @rule(consumer=CONSUMER, node=NODE, amount=AMOUNTS)
    def fund(self, consumer: int, node: int, amount: int) -> None:
        pair = self.pair(consumer, node)
        self.model.fund(pair, amount)
        self.call(None, self.world.settlement.fund, *pair, amount, sender=self.payer)

    @rule(consumer=CONSUMER, node=NODE, share=st.integers(0, 11))
    def begin_thaw(self, consumer: int, node: int, share: int) -> None:
        pair = self.pair(consumer, node)
        amount = self.model.escrow[pair] * share // 10
        self.call(
            self.model.begin_thaw(pair, amount),
            self.world.settlement.begin_thaw,
            pair[1],
            amount,
            sender=pair[0],
        )

    @rule(consumer=CONSUMER, node=NODE)
    def cancel_thaw(self, consumer: int, node: int) -> None:
        pair = self.pair(consumer, node)
        expected = self.model.cancel_thaw(pair)
        self.call(expected, self.world.settlement.cancel_thaw, pair[1], sender=pair[0])

    @rule(consumer=CONSUMER, node=NODE)
    def withdraw(self, consumer: int, node: int) -> None:
        pair = self.pair(consumer, node)
        self.call(self.model.withdraw(pair), self.world.settlement.withdraw, pair[1], sender=pair[0])

    # batches

    @rule(node=NODE, drafts=st.lists(st.tuples(VERSION, ROWS), min_size=1, max_size=4))
    def post_batches(self, node: int, drafts: list[tuple[int, Any]]) -> None:
        for version, rows in drafts:
            self.post_batch(node, version, rows)

    @rule(consumer=CONSUMER, node=NODE, versions=st.lists(VERSION, min_size=2, max_size=5), amount=AMOUNTS)
    def buy_from_several_versions(self, consumer: int, node: int, versions: list[int], amount: int) -> None:
        self.fund(consumer, node, amount)
        for version in versions:
            self.post_batch(node, version, [(consumer, amount // 3, 1, True)])

    def post_batch(self, node: int, version: int, drafts: list[tuple[int, int, int, bool]]) -> None:
        self.roots += 1
        known = (self.world.operators[node], self.world.versions[version], self.roots.to_bytes(32, "big"))
        posted = batch_id(BatchKey(Address(known[0]), Hash32(known[1]), Hash32(known[2])))
        plain, wallet = self.draw_rows(known[0], known[1], drafts)
        rows = [row for row, _ in (*plain, *wallet)]
        expected = self.model.post(posted, known, rows)
        arguments = (*known, [row for _, row in plain], [row for _, row in wallet])
        self.call(expected, self.world.settlement.post_batch, *arguments, sender=known[0])
        if not isinstance(expected, str):
            logged = events(self.world.settlement)
            skipped = [found["reason"] for name, found in logged if name == "VoucherSkipped"]
            assert skipped == [reason for reason in expected if reason]

    def draw_rows(self, node: str, version: bytes, drafts: Any) -> tuple[list[Any], list[Any]]:
        """(model's row, contract's row) for EOAs and for the wallet, growing each channel by the drafts."""
        plain, wallet, heads = [], [], {}
        for consumer, more, count_more, valid in drafts:
            account = self.world.consumers[consumer]
            head = heads.get(account) or self.model.channels[account, node, version]
            amount, count = max(head[0] + more, 0), max(head[1] + count_more, 0)
            heads[account] = (amount, count)
            row = Row(account, amount, count, valid)
            voucher = Voucher(Address(account), Address(node), Hash32(version), amount, count)
            digest = voucher_digest(self.world.domain, voucher)
            honest = self.world.wallet_key if account == self.world.wallet else self.world.keys[consumer]
            signature = (honest if valid else key("mallory")).sign(digest)
            if account == self.world.wallet:
                wallet.append((row, (account, amount, count, signature)))
            else:
                plain.append((row, (account, amount, count, *compact(signature))))
        return plain, wallet

    @precondition(lambda self: self.model.batches)
    @rule(batch=BATCH)
    def collect(self, batch: int) -> None:
        posted = self.pick(batch)
        expected = self.model.collect(posted)
        self.call(
            expected,
            self.world.settlement.collect,
            [self.model.batches[posted].key],
            sender=self.world.publisher,
        )
        self.collections[posted] += isinstance(expected, int)

    @rule(account=st.integers(0, 3))
    def claim(self, account: int) -> None:
        chosen = (*self.world.operators, self.world.treasury, self.world.publisher)[account]
        self.call(self.model.claim(chosen), self.world.settlement.claim, chosen, sender=chosen)

    # disputes

    @precondition(lambda self: self.model.batches)
    @rule(batch=BATCH)
    def hold(self, batch: int) -> None:
        posted = self.pick(batch)
        expected = self.model.hold(posted)
        self.call(expected, self.world.settlement.hold, posted, sender=self.world.dispute_game)

    @precondition(lambda self: self.model.batches)
    @rule(batch=BATCH)
    def release(self, batch: int) -> None:
        posted = self.pick(batch)
        expected = self.model.release(posted)
        self.call(expected, self.world.settlement.release, posted, sender=self.world.dispute_game)

    @precondition(lambda self: self.model.batches)
    @rule(batch=BATCH, consumer=CONSUMER, price=AMOUNTS, sequence=st.integers(1, 3))
    def void(self, batch: int, consumer: int, price: int, sequence: int) -> None:
        posted = self.pick(batch)
        node, version, root = self.model.batches[posted].key
        account = self.world.consumers[consumer]
        terms = (node, account, version, root, root, price, sequence, self.model.batches[posted].posted_at)
        digest = receipt_digest(self.world.domain, Receipt(*terms))  # type: ignore[arg-type]
        expected = self.model.void_receipt(posted, digest, (account, node), price)
        self.call(expected, self.world.settlement.void, posted, terms, sender=self.world.dispute_game)

    # stake

    @rule(node=NODE, amount=AMOUNTS)
    def stake(self, node: int, amount: int) -> None:
        operator = self.world.operators[node]
        self.model.stake(operator, amount)
        self.call(None, self.world.nodes.stake, operator, amount, sender=operator)

    @rule(node=NODE, share=st.integers(0, 11))
    def begin_unstake(self, node: int, share: int) -> None:
        operator = self.world.operators[node]
        amount = self.model.stakes[operator].stake * share // 10
        expected = self.model.begin_unstake(operator, amount)
        self.call(expected, self.world.nodes.begin_unstake, amount, sender=operator)

    @rule(node=NODE)
    def cancel_unstake(self, node: int) -> None:
        operator = self.world.operators[node]
        expected = self.model.cancel_unstake(operator)
        self.call(expected, self.world.nodes.cancel_unstake, sender=operator)

    @rule(node=NODE)
    def withdraw_stake(self, node: int) -> None:
        operator = self.world.operators[node]
        expected = self.model.withdraw_stake(operator)
        self.call(expected, self.world.nodes.withdraw, sender=operator)

    @rule(node=NODE, amount=AMOUNTS)
    def slash(self, node: int, amount: int) -> None:
        operator = self.world.operators[node]
        arguments = (operator, amount, self.world.treasury)
        expected = self.model.slash(operator, amount)
        self.call(expected, self.world.nodes.slash, *arguments, sender=self.world.dispute_game)

    @rule(node=NODE, more=st.booleans())
    def freeze(self, node: int, more: bool) -> None:
        held = self.model.stakes[self.world.operators[node]]
        expected = None if more or held.frozen else "nodes: node is not frozen"
        function = self.world.nodes.freeze if more else self.world.nodes.unfreeze
        self.call(expected, function, self.world.operators[node], sender=self.world.dispute_game)
        held.frozen += 0 if expected else (1 if more else -1)

    # owner, publisher, clock

    @rule(fee_bps=st.integers(0, 500))
    def set_fee(self, fee_bps: int) -> None:
        self.model.fee_bps = fee_bps
        self.call(None, self.world.settlement.set_fee_bps, fee_bps, sender=self.world.owner)

    @rule(paused=st.sampled_from([False, False, False, True]))
    def set_paused(self, paused: bool) -> None:
        self.model.paused = paused
        self.call(None, self.world.settlement.set_paused, paused, sender=self.world.owner)

    @rule(version=VERSION, status=st.integers(1, 2))
    def set_status(self, version: int, status: int) -> None:
        chosen = self.world.versions[version]
        if self.world.models.versions(chosen).status != status:
            self.call(None, self.world.models.set_status, chosen, status, sender=self.world.publisher)

    @rule(seconds=st.sampled_from(WINDOWS))
    def wait(self, seconds: int) -> None:
        boa.env.time_travel(seconds=seconds)
        self.model.now = boa.env.timestamp

    # what always holds

    @invariant()
    def settlement_holds_what_it_owes(self) -> None:
        owed = self.model.liabilities()
        settlement = self.world.settlement
        assert owed == settlement.total_liabilities() == self.world.token.balanceOf(settlement)
        assert owed == self.model.paid_in - self.model.paid_out

    @invariant()
    def registry_holds_what_is_staked(self) -> None:
        held = self.model.stakes.values()
        staked = sum(each.stake + each.thawing for each in held)
        assert staked == self.world.nodes.total_staked() == self.world.token.balanceOf(self.world.nodes)
        for each in held:
            assert each.stake + each.thawing + each.withdrawn + each.slashed == each.put_in

    @invariant()
    def channels_only_grow(self) -> None:
        for channel, (settled, count) in self.model.channels.items():
            before = self.channels_before.get(channel, (0, 0))
            assert settled >= before[0]
            assert count >= before[1]
            if (settled, count) != before:
                consumer, node, version = channel
                found = self.world.settlement.channel(consumer, node, version)
                assert (found.settled, found.count) == (settled, count)
                self.channels_before[channel] = (settled, count)

    @invariant()
    def batches_are_collected_at_most_once(self) -> None:
        assert all(times <= 1 for times in self.collections.values())

    def teardown(self) -> None:
        try:
            self.compare_everything()
            self.everybody_leaves()
        finally:
            self._anchor.__exit__(None, None, None)

    def compare_everything(self) -> None:
        settlement, model = self.world.settlement, self.model
        for consumer in self.world.consumers:
            for node in self.world.operators:
                assert settlement.escrows(consumer, node).balance == model.escrow[consumer, node]
                for version in self.world.versions:
                    found = settlement.channel(consumer, node, version)
                    assert (found.settled, found.count) == model.channels[consumer, node, version]
        for posted, batch in model.batches.items():
            found = settlement.batches(posted)
            assert (found.amount, found.count) == (batch.amount, batch.count)
            assert (found.holds, found.collected) == (batch.holds, batch.collected)
        for version, before in zip(self.world.versions, self.versions_before, strict=True):
            assert fields(self.world.models.versions(version)) | {"status": 0} == before | {"status": 0}
            assert settlement.settled_count(version) == model.settled_count[version]
            assert settlement.verified_count(version) == model.verified_count[version]

    def everybody_leaves(self) -> None:
        """Whatever happened, and with posting paused: every unit goes to its owner, and none is left."""
        world, model = self.world, self.model
        self.set_paused(True)
        for posted, batch in model.batches.items():
            while batch.holds:
                self.call(model.release(posted), world.settlement.release, posted, sender=world.dispute_game)
        for operator in world.operators:
            while model.stakes[operator].frozen:
                self.freeze(world.operators.index(operator), False)
            if model.stakes[operator].stake:
                self.begin_unstake(world.operators.index(operator), 10)
        for pair, amount in list(model.escrow.items()):
            if amount:
                self.call(
                    model.begin_thaw(pair, amount),
                    world.settlement.begin_thaw,
                    pair[1],
                    amount,
                    sender=pair[0],
                )
        self.wait(THAW_PERIOD)
        for index, batch in enumerate(list(model.batches.values())):
            if not batch.collected:
                self.collect(index)
        for consumer in range(4):
            for node in range(2):
                if self.pair(consumer, node) in model.thaws:
                    self.withdraw(consumer, node)
        for account in range(4):
            self.claim(account)
        for node in range(2):
            self.withdraw_stake(node)
        assert world.token.balanceOf(world.settlement) == world.token.balanceOf(world.nodes) == 0
        assert model.liabilities() == world.settlement.total_liabilities() == 0
        assert model.paid_in == model.paid_out


@pytest.fixture
def fast_mode() -> Iterator[None]:
    boa.env.enable_fast_mode()
    yield
    boa.env.enable_fast_mode(False)


@pytest.mark.usefixtures("fast_mode")
def test_protocol__any_calls_in_any_order__keeps_the_invariants(world: World) -> None:
    run_state_machine_as_test(
        lambda: Protocol(world),
        settings=settings(
            max_examples=1_000 if DEEP else 100,
            stateful_step_count=100 if DEEP else 50,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
