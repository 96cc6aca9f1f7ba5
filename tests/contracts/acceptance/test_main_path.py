"""Register, publish, stake, fund, post, collect, claim: through Ape, on Anvil, with real signatures."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from assay.commitments import identifiers
from assay.commitments.receipts import receipt_digest, receipts_tree, voucher_digest
from assay.commitments.signing import compact
from assay.types import Address, BatchKey, Domain, Hash32, Receipt, Voucher

from tests.contracts.acceptance.conftest import (
    DISPUTE_WINDOW,
    ESCROW_THAW,
    FEE_BPS,
    MIN_STAKE,
    THAW_PERIOD,
    UNIT,
    World,
)

PRICE = 3 * UNIT
ROYALTY_BPS = 1_000
UNKNOWN, PENDING, FINAL, VOID = range(4)


def domain(world: World) -> Domain:
    return Domain(world.chain.chain_id, Address(world.settlement.address))


def publish(world: World) -> Hash32:
    """Register a model and publish a version of it."""
    world.models.register_model("digits", "ipfs://card", sender=world.publisher)
    model = identifiers.model_id(Address(world.publisher.address), "digits")
    content = (b"\x01" * 32, b"\x02" * 32, b"\x03" * 32, ROYALTY_BPS, "https://hub.example/a")
    world.models.publish_version(model, *content, sender=world.publisher)
    return identifiers.version_id(model, 1)


def open_node(world: World) -> None:
    """Register the operator's node and stake the minimum."""
    world.nodes.register(world.signer.address, "https://node.example", sender=world.operator)
    world.token.mint(world.operator, MIN_STAKE, sender=world.operator)
    world.token.approve(world.nodes, MIN_STAKE, sender=world.operator)
    world.nodes.stake(world.operator, MIN_STAKE, sender=world.operator)


def fund(world: World, amount: int) -> None:
    """Fund the consumer's escrow with the node out of somebody else's pocket."""
    world.token.mint(world.funder, amount, sender=world.funder)
    world.token.approve(world.settlement, amount, sender=world.funder)
    world.settlement.fund(world.consumer.address, world.operator, amount, sender=world.funder)


def serve(world: World, version: Hash32, requests: int) -> list[Receipt]:
    """The receipts of a channel's first `requests` inferences."""
    return [
        Receipt(
            node=Address(world.operator.address),
            consumer=world.consumer.address,
            version_id=version,
            input_hash=Hash32(bytes([n]) * 32),
            output_hash=Hash32(bytes([n + 100]) * 32),
            price=PRICE,
            sequence=n,
            executed_at=world.chain.timestamp(),
        )
        for n in range(1, requests + 1)
    ]


def signed_voucher(world: World, version: Hash32, amount: int, count: int) -> tuple[Any, ...]:
    """A row of `post_batch`."""
    consumer = world.consumer
    voucher = Voucher(consumer.address, Address(world.operator.address), version, amount, count)
    r, vs = compact(consumer.sign(voucher_digest(domain(world), voucher)))
    return (consumer.address, amount, count, r, vs)


def as_struct(receipt: Receipt) -> tuple[Any, ...]:
    return tuple(getattr(receipt, name) for name in Receipt.__dataclass_fields__)


def names(transaction: Any) -> list[str]:
    return [log.event_name for log in transaction.events]


def post(
    world: World, version: Hash32, receipts: list[Receipt], rows: list[tuple[Any, ...]]
) -> tuple[Any, Hash32, Any]:
    """Post the receipts' root with the rows: transaction, batch id, tree."""
    tree = receipts_tree([receipt_digest(domain(world), receipt) for receipt in receipts])
    transaction = world.settlement.post_batch(
        world.operator, version, tree.root, rows, [], sender=world.operator
    )
    key = BatchKey(Address(world.operator.address), version, tree.root)
    return transaction, identifiers.batch_id(key), tree


def test_ape_compile__whole_project__builds_the_deployed_contracts_only(project: Any) -> None:
    built = set(project.load_contracts())
    assert {"ModelRegistry", "NodeRegistry", "Settlement", "MockToken"} <= built
    assert not {name for name in built if name[0].islower() or name.startswith("I")}


def test_main_path__one_consumer_one_batch__money_and_counts_add_up(fresh: World) -> None:
    world = fresh
    version = publish(world)
    open_node(world)
    fund(world, 10 * PRICE)
    receipts = serve(world, version, 4)
    row = signed_voucher(world, version, 4 * PRICE, 4)
    transaction, batch, tree = post(world, version, receipts, [row])
    assert names(transaction) == ["BatchPosted"]

    def status(n: int) -> int:
        place = receipts[n], tree.proof(n)
        return int(world.settlement.receipt_status(batch, as_struct(place[0]), place[1], n))

    assert [status(n) for n in range(4)] == [PENDING] * 4
    assert world.settlement.receipt_status(batch, as_struct(receipts[0]), tree.proof(0), 1) == UNKNOWN
    world.chain.increase_time(DISPUTE_WINDOW)
    assert [status(n) for n in range(4)] == [FINAL] * 4
    key = (world.operator, version, tree.root)
    assert names(world.settlement.collect([key], sender=world.stranger)) == ["BatchCollected"]
    fee, royalty = 4 * PRICE * FEE_BPS // 10_000, 4 * PRICE * ROYALTY_BPS // 10_000
    shares = {world.treasury: fee, world.publisher: royalty, world.operator: 4 * PRICE - fee - royalty}
    for account, share in shares.items():
        world.settlement.claim(account, sender=world.stranger)
        assert world.token.balanceOf(account) == share
    assert world.settlement.verified_count(version) == world.settlement.settled_count(version) == 4
    left = 6 * PRICE
    assert world.settlement.total_liabilities() == world.token.balanceOf(world.settlement) == left


def test_main_path__everyone_leaves__contracts_hold_nothing(fresh: World, ape: ModuleType) -> None:
    world = fresh
    version = publish(world)
    open_node(world)
    wallet = ape.accounts.test_accounts[8]
    world.token.mint(wallet, 5 * UNIT, sender=wallet)
    world.token.approve(world.settlement, 5 * UNIT, sender=wallet)
    world.settlement.fund(wallet, world.operator, 5 * UNIT, sender=wallet)
    world.nodes.offer(version, PRICE, sender=world.operator)
    world.settlement.set_paused(True, sender=world.owner)
    world.nodes.set_paused(True, sender=world.owner)
    world.settlement.begin_thaw(world.operator, 5 * UNIT, sender=wallet)
    world.nodes.begin_unstake(MIN_STAKE, sender=world.operator)
    with ape.reverts("settlement: escrow is still thawing"):
        world.settlement.withdraw(world.operator, sender=wallet)
    with ape.reverts("nodes: stake is still thawing"):
        world.nodes.withdraw(sender=world.operator)
    world.chain.increase_time(max(ESCROW_THAW, THAW_PERIOD))
    world.settlement.withdraw(world.operator, sender=wallet)
    world.nodes.withdraw(sender=world.operator)
    assert world.token.balanceOf(wallet) == 5 * UNIT
    assert world.token.balanceOf(world.operator) == MIN_STAKE
    assert world.token.balanceOf(world.settlement) == world.token.balanceOf(world.nodes) == 0


def test_main_path__fraud_proven__one_receipt_is_returned_and_the_node_slashed(
    fresh: World, ape: ModuleType
) -> None:
    world = fresh
    version = publish(world)
    open_node(world)
    fund(world, 2 * PRICE)
    receipts = serve(world, version, 2)
    _, batch, tree = post(world, version, receipts, [signed_voucher(world, version, 2 * PRICE, 2)])
    game = world.dispute_game
    world.settlement.hold(batch, sender=game)
    world.nodes.freeze(world.operator, sender=game)
    world.chain.increase_time(DISPUTE_WINDOW)
    key = (world.operator, version, tree.root)
    with ape.reverts("settlement: batch is held"):
        world.settlement.collect([key], sender=world.operator)
    world.settlement.void(batch, as_struct(receipts[1]), sender=game)
    world.nodes.slash(world.operator, MIN_STAKE // 2, world.stranger, sender=game)
    world.settlement.release(batch, sender=game)
    world.nodes.unfreeze(world.operator, sender=game)
    assert world.settlement.receipt_status(batch, as_struct(receipts[1]), tree.proof(1), 1) == VOID
    assert world.settlement.receipt_status(batch, as_struct(receipts[0]), tree.proof(0), 0) == FINAL
    world.settlement.collect([key], sender=world.operator)
    assert world.settlement.escrows(world.consumer.address, world.operator).balance == PRICE
    assert world.settlement.verified_count(version) == 1
    assert world.token.balanceOf(world.stranger) == MIN_STAKE // 2
    assert not world.nodes.is_active(world.operator)
    with ape.reverts("settlement: node is not active"):
        post(world, version, serve(world, version, 1), [])


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (
            lambda w, who: w.nodes.slash(w.operator, 1, who, sender=who),
            "nodes: caller is not the dispute game",
        ),
        (lambda w, who: w.nodes.freeze(w.operator, sender=who), "nodes: caller is not the dispute game"),
        (
            lambda w, who: w.settlement.hold(bytes(32), sender=who),
            "settlement: caller is not the dispute game",
        ),
        (lambda w, who: w.models.set_paused(True, sender=who), "ownable: caller is not the owner"),
        (lambda w, who: w.nodes.set_paused(True, sender=who), "ownable: caller is not the owner"),
        (lambda w, who: w.settlement.set_fee_bps(0, sender=who), "ownable: caller is not the owner"),
    ],
)
def test_permissions__anyone_else__is_refused_with_the_reason(
    fresh: World, ape: ModuleType, call: Callable[[World, Any], Any], reason: str
) -> None:
    with ape.reverts(reason):
        call(fresh, fresh.stranger)
