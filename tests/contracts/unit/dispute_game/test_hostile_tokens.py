"""Tokens that refuse, take a fee or call back; none keeps a dispute from ending or pays anybody twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple
from typing import Any

import boa
import pytest
from assay.exact.game import Phase
from assay.exact.program import Program

from tests.contracts.unit.dispute_game.conftest import Setting
from tests.support.arena import BOND, PRICE, SLASH, UNIT, Arena
from tests.support.contracts import ZERO, deployer, events

Build = Callable[[str], Setting]
REVERTS, RETURNS_FALSE = 1, 2


@pytest.fixture
def build(program: Program, honest: Any, plain: Any, wrong: Any) -> Build:
    """An arena whose token is this mock."""

    def built(kind: str) -> Setting:
        arena = Arena.build(token=deployer(kind).deploy("Test Token", "TEST"))
        return Setting(arena, program, arena.publish(program), honest, plain, wrong)

    return built


@pytest.mark.parametrize("how", [REVERTS, RETURNS_FALSE])
@pytest.mark.parametrize("who", ["challenger", "consumer", "treasury"])
def test_challenger_wins__token_refuses_one_account__its_share_waits(
    build: Build, who: str, how: int
) -> None:
    setting = build("RefusingToken")
    arena, account = setting.arena, getattr(setting.arena, who)
    dispute = arena.open(setting.receipt(setting.wrong))
    arena.token.refuse(account, how)
    arena.claim_timeout(dispute)
    shares = {
        "challenger": BOND + SLASH // 2,
        "consumer": PRICE,
        "treasury": SLASH // 2 - PRICE,
    }
    deferred = ("PaymentDeferred", {"account": account, "amount": shares[who]})
    assert deferred in events(arena.game)
    found = {name: arena.balance(getattr(arena, name)) for name in shares}
    assert found == shares | {who: 0}
    assert arena.game.claimable(account) == shares[who] == arena.balance(str(arena.game.address))
    reason = "token: recipient is refused" if how == REVERTS else "disputes: token transfer failed"
    with boa.reverts(reason):
        arena.game.claim(account)
    arena.token.refuse(account, 0)
    assert arena.game.claim(account, sender=arena.stranger) == shares[who]
    assert events(arena.game) == [("Claimed", {"account": account, "amount": shares[who]})]
    assert arena.balance(account) == shares[who]
    with boa.reverts("disputes: nothing to claim"):
        arena.game.claim(account)


def test_node_wins__token_refuses_it__the_bond_waits(build: Build) -> None:
    setting = build("RefusingToken")
    arena = setting.arena
    dispute = arena.open(setting.receipt(setting.wrong))
    setting.play_until(Phase.SELECT, dispute, setting.wrong)
    arena.token.refuse(arena.operator, REVERTS)
    arena.claim_timeout(dispute)
    assert dispute.node_won
    assert arena.game.claimable(arena.operator) == BOND
    assert arena.nodes.nodes(arena.operator).frozen == 0


def test_challenger_wins__token_refuses_the_game__dispute_waits_for_the_token(build: Build) -> None:
    """Nothing is lost: the node stays frozen and the time-out can be claimed later."""
    setting = build("RefusingToken")
    arena = setting.arena
    dispute = arena.open(setting.receipt(setting.wrong))
    arena.token.refuse(arena.game, RETURNS_FALSE)
    with boa.reverts("nodes: token transfer failed"):
        arena.claim_timeout(dispute)
    assert arena.nodes.nodes(arena.operator).frozen == 1
    arena.token.refuse(arena.game, 0)
    arena.close(dispute)
    assert not dispute.node_won


def test_open__token_returns_false__reverts(build: Build) -> None:
    setting = build("RefusingToken")
    setting.arena.token.refuse(setting.arena.game, RETURNS_FALSE)
    with boa.reverts("disputes: token transfer failed"):
        setting.arena.open(setting.receipt(setting.wrong))


def test_open__token_takes_a_fee__reverts(build: Build) -> None:
    setting = build("FeeToken")
    with boa.reverts("disputes: bond did not arrive"):
        setting.arena.open(setting.receipt(setting.wrong))


def test_prove_equivocation__token_takes_a_fee__what_arrived_is_shared(build: Build) -> None:
    setting = build("FeeToken")
    arena = setting.arena
    first = setting.receipt(setting.honest)
    second = setting.receipt(setting.honest, price=PRICE + 1)
    arguments = (astuple(first), arena.sign(first), astuple(second), arena.sign(second))
    arena.game.prove_equivocation(*arguments, sender=arena.stranger)
    ((_, args),) = [event for event in events(arena.game) if event[0] == "Equivocated"]
    assert args["slashed"] == SLASH * 99 // 100
    assert arena.balance(str(arena.game.address)) == 0


def test_whole_game__token_returns_nothing__is_played_and_paid(build: Build) -> None:
    setting = build("NoReturnToken")
    arena = setting.arena
    dispute = arena.open(setting.receipt(setting.wrong))
    arena.claim_timeout(dispute)
    assert arena.balance(arena.challenger) == BOND + SLASH // 2


def _open(arena: Arena, setting: Setting) -> bytes:
    receipt = setting.receipt(setting.wrong, sequence=9)
    return bytes(arena.game.open.prepare_calldata(astuple(receipt), arena.sign(receipt), False, [], 0))


def test_token__calls_back_anywhere__meets_the_lock(build: Build) -> None:
    """While a bond comes in, while a slash is shared, while a late payment is claimed."""
    setting = build("ReentrantToken")
    arena = setting.arena
    token, game = arena.token, arena.game
    token.mint(token, 100 * BOND)
    token.execute(token, token.approve.prepare_calldata(game.address, 2**256 - 1))
    for inner in (_open(arena, setting), game.claim.prepare_calldata(arena.stranger)):
        token.set_callback(game, inner)
        dispute = arena.open(setting.receipt(setting.wrong))
        _check_locked(token)
        token.set_callback(game, inner)
        with boa.env.anchor():
            arena.claim_timeout(dispute)
            _check_locked(token)
            assert arena.balance(arena.challenger) == BOND + SLASH // 2
            assert arena.nodes.nodes(arena.operator).stake == 1_000 * UNIT - SLASH


def test_token__calls_the_same_time_out_again__pays_once(build: Build) -> None:
    setting = build("ReentrantToken")
    arena = setting.arena
    dispute = arena.open(setting.receipt(setting.wrong))
    again = arena.game.claim_timeout.prepare_calldata(1, dispute.state.row(), astuple(dispute.receipt))
    arena.token.set_callback(arena.game, again)
    arena.claim_timeout(dispute)
    _check_locked(arena.token)
    assert arena.balance(str(arena.game.address)) == 0


def _check_locked(token: Any) -> None:
    assert str(token.target()) == ZERO, "the callback was made"
    assert token.callback_succeeded() is False
    assert token.callback_result() == b"", "the lock alone reverts without a reason"
