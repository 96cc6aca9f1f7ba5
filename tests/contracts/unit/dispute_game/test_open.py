"""`open`: which receipts can be disputed, until when, and what it does."""

from __future__ import annotations

from dataclasses import astuple, replace
from typing import Any

import boa
import pytest
from assay.chain.dispute_game import state_hash
from assay.exact.game import Phase

from tests.contracts.unit.dispute_game.conftest import Setting
from tests.support.arena import BOND, DISPUTE_WINDOW, MOVE_WINDOW
from tests.support.contracts import ZERO_HASH
from tests.support.market import key


def test_open__not_in_a_batch__takes_the_bond_and_freezes(setting: Setting) -> None:
    arena = setting.arena
    receipt = setting.receipt(setting.honest)
    arena.token.mint(arena.challenger, 5)
    dispute = arena.open(receipt)
    assert arena.balance(str(arena.game.address)) == BOND
    assert arena.balance(arena.challenger) == 5
    assert arena.nodes.nodes(arena.operator).frozen == 1
    state = dispute.state
    assert (state.challenger, state.node) == (arena.challenger, arena.operator)
    assert (state.batch_id, state.digest) == (ZERO_HASH, arena.digest(receipt))
    assert (state.program_root, state.phase) == (setting.program.root, Phase.ASSERT)
    assert state.deadline == boa.env.timestamp + MOVE_WINDOW
    assert arena.game.disputes(dispute.number) == state_hash(state)
    assert arena.game.dispute_count() == dispute.number == 1
    assert arena.game.disputes(2) == ZERO_HASH


def test_open__in_a_batch__holds_it(setting: Setting) -> None:
    arena = setting.arena
    others = [setting.receipt(setting.honest, sequence=n) for n in (2, 3)]
    receipt = setting.receipt(setting.wrong)
    batch, tree = arena.post(others[0], receipt, others[1])
    dispute = arena.open(receipt, tree=tree)
    assert dispute.state.batch_id == batch
    assert arena.settlement.batches(batch).holds == 1


def test_open__several_of_one_receipt__each_has_its_own_number(setting: Setting) -> None:
    receipt = setting.receipt(setting.wrong)
    numbers = [setting.arena.open(receipt, by=who).number for who in (setting.arena.stranger,) * 3]
    assert numbers == [1, 2, 3]
    assert setting.arena.nodes.nodes(setting.arena.operator).frozen == 3


@pytest.mark.parametrize("late", [False, True])
def test_open__at_the_end_of_the_window__is_open_until_the_second_before(
    setting: Setting, late: bool
) -> None:
    """From the execution without a batch, from its posting with one."""
    arena = setting.arena
    receipt = setting.receipt(setting.honest)
    boa.env.time_travel(seconds=100)
    _, tree = arena.post(receipt)
    boa.env.time_travel(seconds=DISPUTE_WINDOW - 101 + late)
    if late:
        with boa.reverts("disputes: dispute window is over"):
            arena.open(receipt)
    else:
        arena.open(receipt)
    boa.env.time_travel(seconds=100)
    if late:
        with boa.reverts("disputes: dispute window is over"):
            arena.open(receipt, tree=tree)
    else:
        arena.open(receipt, tree=tree)


def test_open__wrong_proof__reverts(setting: Setting) -> None:
    arena = setting.arena
    first, second = (setting.receipt(setting.honest, sequence=n) for n in (1, 2))
    _, tree = arena.post(first, second)
    for index in (1, 2):
        with boa.reverts("disputes: receipt is not in a posted batch"):
            arena.open(first, tree=tree, index=index)


def test_open__version_without_program__reverts(setting: Setting) -> None:
    version_id = setting.arena.publish(None)
    with boa.reverts("disputes: version has no program"):
        setting.arena.open(setting.arena.receipt(version_id))


def test_open__void_receipt__reverts(setting: Setting) -> None:
    arena = setting.arena
    receipt = setting.receipt(setting.wrong)
    arena.claim_timeout(arena.open(receipt))
    with boa.reverts("disputes: receipt is already void"):
        arena.open(receipt)


def test_open__voided_before_it_was_posted__reverts_with_the_batch_too(setting: Setting) -> None:
    arena = setting.arena
    receipt = setting.receipt(setting.wrong)
    arena.claim_timeout(arena.open(receipt))
    arena.stake(10**24)
    _, tree = arena.post(receipt)
    with boa.reverts("disputes: receipt is already void"):
        arena.open(receipt, tree=tree)


def test_open__signature_not_the_nodes__reverts(setting: Setting) -> None:
    arena = setting.arena
    receipt = setting.receipt(setting.honest)
    good = arena.sign(receipt)
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    high_s = (order - int.from_bytes(good[32:64], "big")).to_bytes(32, "big")
    bad = {
        "a stranger's": arena.sign(receipt, key("mallory")),
        "of another receipt": arena.sign(replace(receipt, price=1)),
        "short": good[:64],
        "empty": b"",
        "v 0": good[:64] + b"\x00",
        "v 29": good[:64] + b"\x1d",
        "high s": good[:32] + high_s + bytes([55 - good[64]]),
        "zero": bytes(64) + b"\x1b",
    }
    for name, signature in bad.items():
        with boa.reverts("disputes: receipt is not signed by its node"):
            arena.open(receipt, signature=signature)
        assert arena.game.dispute_count() == 0, name


def test_open__signer_rotated_away__answers_for_what_it_signed_before(setting: Setting) -> None:
    arena = setting.arena
    receipt = setting.receipt(setting.honest)
    boa.env.time_travel(seconds=10)
    arena.nodes.rotate_signer(key("next").address, sender=arena.operator)
    arena.open(receipt)
    late = setting.receipt(setting.honest)
    with boa.reverts("disputes: receipt is not signed by its node"):
        arena.open(late)


def test_open__bond_not_approved__reverts(setting: Setting) -> None:
    arena = setting.arena
    receipt = setting.receipt(setting.honest)
    arena.give(arena.challenger, BOND - 1, arena.game)
    with boa.reverts():
        arguments: tuple[Any, ...] = (astuple(receipt), arena.sign(receipt), False, [], 0)
        arena.game.open(*arguments, sender=arena.challenger)
    assert arena.nodes.nodes(arena.operator).frozen == 0
