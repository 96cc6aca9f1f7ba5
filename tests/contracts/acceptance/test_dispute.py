"""One whole game through Ape on Anvil: a receipt in a posted batch, its lie pinned to one step, the slash."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import astuple, replace
from types import ModuleType
from typing import Any

import pytest
from assay.chain.abi import ContractAbi
from assay.commitments import identifiers
from assay.commitments.receipts import receipt_digest, receipts_tree
from assay.exact.game import MAX_MOVES, Concession, Phase, Side, State, challenge, defend
from assay.types import Address, Hash32, Receipt

from scripts.deployment.compiler import compile_contract
from scripts.deployment.plan import created_address
from tests.contracts.acceptance.conftest import (
    DISPUTE_WINDOW,
    ESCROW_THAW,
    FEE_BPS,
    MIN_STAKE,
    UNIT,
    World,
)
from tests.contracts.acceptance.test_main_path import (
    VOID,
    domain,
    fund,
    names,
    open_node,
    post,
    signed_voucher,
)
from tests.support.small_programs import PlainTrace, commitments_of, ladder, random_input
from tests.support.tampered_trace import TamperedTrace

BOND, SLASH, MOVE_WINDOW, PRICE = 5 * UNIT, 50 * UNIT, 60, 3 * UNIT


@pytest.fixture
def disputed(world: World, ape: ModuleType, project: Any) -> Iterator[tuple[World, Any]]:
    """The contracts around a dispute game, deployed where the others were told it will be."""
    snapshot = world.chain.snapshot()
    owner = world.owner
    address = created_address(Address(owner.address), owner.nonce + 3)
    thaw = DISPUTE_WINDOW + MAX_MOVES * MOVE_WINDOW
    nodes = owner.deploy(project.NodeRegistry, world.token, address, owner, MIN_STAKE, thaw)
    terms = (owner, world.treasury, FEE_BPS, DISPUTE_WINDOW, ESCROW_THAW)
    settlement = owner.deploy(project.Settlement, world.token, world.models, nodes, address, *terms)
    verifier = owner.deploy(project.StepVerifier)
    parts = (world.token, world.models, nodes, settlement, verifier)
    game = owner.deploy(project.DisputeGame, *parts, BOND, SLASH, MOVE_WINDOW)
    assert game.address == address
    yield replace(world, nodes=nodes, settlement=settlement, dispute_game=game), game
    world.chain.revert(snapshot)


def state_of(world: World, transaction: Any) -> tuple[State, bytes]:
    """From the transaction's raw logs, read as everything off-chain reads them."""
    abi = ContractAbi(compile_contract("DisputeGame.vy").abi)
    mined = world.chain.request("eth_getTransactionReceipt", transaction.txn_hash)
    topics = [abi.topic(name) for name in ("DisputeOpened", "Moved")]
    (log,) = [abi.decode_log(log) for log in mined["logs"] if log["topics"][0] in topics]
    return State.from_row(log.args["state"]), log.args.get("data", b"")


def test_dispute__node_lies_in_one_element__is_pinned_and_slashed(
    disputed: tuple[World, Any], ape: ModuleType
) -> None:
    world, game = disputed
    program = ladder(random.Random(1))
    truth = PlainTrace(program, random_input(random.Random(2), program))
    output = program.outputs[0].kernel
    lie = TamperedTrace(truth, {output: {7: truth.values[output][7] + 1}})
    world.models.register_model("ladder", "ipfs://card", sender=world.publisher)
    model = identifiers.model_id(Address(world.publisher.address), "ladder")
    content = (b"\x01" * 32, program.root, b"\x03" * 32, 0, "https://hub.example/a")
    world.models.publish_version(model, *content, sender=world.publisher)
    version = identifiers.version_id(model, 1)
    open_node(world)
    fund(world, PRICE)
    inputs, outputs = commitments_of(program, lie)
    parties = (Address(world.operator.address), world.consumer.address)
    receipt = Receipt(*parties, version, inputs, outputs, PRICE, 1, world.chain.timestamp())
    digest = receipt_digest(domain(world), receipt)
    _, batch, tree = post(world, version, [receipt], [signed_voucher(world, version, PRICE, 1)])
    assert tree.root == receipts_tree([digest]).root

    challenger = world.stranger
    world.token.mint(challenger, BOND, sender=challenger)
    world.token.approve(game, BOND, sender=challenger)
    opening = (astuple(receipt), world.signer.sign(digest), True, tree.proof(0), 0)
    state, data = state_of(world, game.open(*opening, sender=challenger))
    while state.phase is not Phase.PROVE_STEP:
        is_node = state.side is Side.NODE
        move = defend(state, lie, receipt) if is_node else challenge(state, data, truth)
        assert not isinstance(move, Concession)
        sender = world.operator if is_node else challenger
        played = getattr(game, move.function)(1, state.row(), *move.arguments, sender=sender)
        state, data = state_of(world, played)
    assert (state.kernel, state.element) == (output, 7)
    step = defend(state, lie, receipt)
    with ape.reverts("disputes: step computes to another value"):
        game.prove_step(1, state.row(), *step.arguments, sender=world.operator)
    with ape.reverts("disputes: move is not overdue"):
        game.claim_timeout(1, state.row(), astuple(receipt), sender=challenger)
    world.chain.increase_time(MOVE_WINDOW + 1)
    closing = game.claim_timeout(1, state.row(), astuple(receipt), sender=challenger)
    assert "DisputeClosed" in names(closing)
    assert Hash32(game.disputes(1)) == Hash32((2).to_bytes(32, "big"))
    assert world.token.balanceOf(challenger) == BOND + SLASH // 2
    assert world.token.balanceOf(world.treasury) == SLASH // 2
    assert world.token.balanceOf(game) == 0
    status = world.settlement.receipt_status(batch, astuple(receipt), tree.proof(0), 0)
    assert status == VOID
    assert world.settlement.escrows(world.consumer.address, world.operator).balance == PRICE
