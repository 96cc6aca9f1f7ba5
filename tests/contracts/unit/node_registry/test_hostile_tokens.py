"""The registry must hold with tokens that take fees, return nothing or false, stop, or call back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import boa
import pytest

from tests.support.contracts import ZERO

THAW = 100


@pytest.fixture
def world(
    deploy_token: Callable[..., Any], deploy_nodes: Callable[..., Any], register_node: Callable[..., str]
) -> Callable[[str], tuple[Any, Any, str]]:
    """(token, registry, node) for a kind of token."""

    def build(kind: str) -> tuple[Any, Any, str]:
        token = deploy_token(kind)
        nodes = deploy_nodes(token=token, thaw_period=THAW)
        return token, nodes, register_node(registry=nodes)

    return build


def test_stake__fee_on_transfer__credits_what_arrived_and_pays_it_out(
    world: Callable[..., Any], stake: Callable[..., None], dispute_game: str, recipient: str
) -> None:
    token, nodes, node = world("FeeToken")
    stake(node, 1_000, registry=nodes, currency=token)
    assert nodes.nodes(node).stake == nodes.total_staked() == token.balanceOf(nodes) == 990
    assert nodes.slash(node, 90, recipient, sender=dispute_game) == 90
    nodes.begin_unstake(900, sender=node)
    nodes.env.timestamp += THAW
    assert nodes.withdraw(sender=node) == 900
    assert (token.balanceOf(nodes), token.balanceOf(node), token.balanceOf(recipient)) == (0, 891, 89)


def test_stake__fee_takes_everything__reverts(world: Callable[..., Any], stake: Callable[..., None]) -> None:
    token, nodes, node = world("FeeToken")
    with boa.reverts("nodes: nothing was received"):
        stake(node, 1, registry=nodes, currency=token)


def test_stake_and_withdraw__no_return_value__work(
    world: Callable[..., Any], stake: Callable[..., None], dispute_game: str, recipient: str
) -> None:
    token, nodes, node = world("NoReturnToken")
    stake(node, 100, registry=nodes, currency=token)
    nodes.slash(node, 40, recipient, sender=dispute_game)
    nodes.begin_unstake(60, sender=node)
    nodes.env.timestamp += THAW
    nodes.withdraw(sender=node)
    assert (token.balanceOf(node), token.balanceOf(recipient)) == (60, 40)


def test_every_transfer__returns_false__reverts_and_changes_nothing(
    world: Callable[..., Any], stake: Callable[..., None], dispute_game: str, recipient: str
) -> None:
    token, nodes, node = world("FalseToken")
    stake(node, 100, registry=nodes, currency=token)
    nodes.begin_unstake(40, sender=node)
    nodes.env.timestamp += THAW
    token.set_failing(True)
    with boa.reverts("nodes: token transfer failed"):
        stake(node, 1, registry=nodes, currency=token)
    with boa.reverts("nodes: token transfer failed"):
        nodes.withdraw(sender=node)
    with boa.reverts("nodes: token transfer failed"):
        nodes.slash(node, 1, recipient, sender=dispute_game)
    state = nodes.nodes(node)
    assert (state.stake, state.thawing, nodes.total_staked()) == (60, 40, 100)
    token.set_failing(False)
    assert nodes.withdraw(sender=node) == 40


def test_withdraw__token_paused__waits_without_loss(
    world: Callable[..., Any], stake: Callable[..., None]
) -> None:
    token, nodes, node = world("PausableToken")
    stake(node, 100, registry=nodes, currency=token)
    nodes.begin_unstake(100, sender=node)
    nodes.env.timestamp += THAW
    token.set_paused(True)
    with boa.reverts("token: paused"):
        nodes.withdraw(sender=node)
    token.set_paused(False)
    assert nodes.withdraw(sender=node) == 100


@pytest.fixture
def callback_world(deploy_token: Callable[..., Any], deploy_nodes: Callable[..., Any]) -> tuple[Any, Any]:
    """A token that is its own node's operator and its own dispute game: no guard but the lock stops it."""
    token = deploy_token("ReentrantToken")
    nodes = deploy_nodes(token=token, dispute_game=token.address, thaw_period=0, min_stake=60)
    token.execute(nodes, nodes.register.prepare_calldata(str(nodes.env.generate_address()), "https://x"))
    token.mint(token, 1_000)
    token.execute(token, token.approve.prepare_calldata(nodes.address, 2**256 - 1))
    token.execute(nodes, nodes.stake.prepare_calldata(token.address, 100))
    token.execute(nodes, nodes.begin_unstake.prepare_calldata(40))
    return token, nodes


REENTRIES: dict[str, Callable[[Any, Any], bytes]] = {
    "stake": lambda nodes, token: nodes.stake.prepare_calldata(token.address, 1),
    "withdraw": lambda nodes, token: nodes.withdraw.prepare_calldata(),
    "begin_unstake": lambda nodes, token: nodes.begin_unstake.prepare_calldata(1),
    "cancel_unstake": lambda nodes, token: nodes.cancel_unstake.prepare_calldata(),
    "slash": lambda nodes, token: nodes.slash.prepare_calldata(token.address, 1, token.address),
    "nodes": lambda nodes, token: nodes.nodes.prepare_calldata(token.address),
}
ENTRIES: dict[str, Callable[[Any, Any], bytes]] = {
    name: REENTRIES[name] for name in ("stake", "withdraw", "slash")
}


@pytest.mark.parametrize("inner", REENTRIES)
@pytest.mark.parametrize("outer", ENTRIES)
def test_every_transfer__calls_back__meets_the_lock(
    outer: str, inner: str, callback_world: tuple[Any, Any]
) -> None:
    token, nodes = callback_world
    with boa.env.anchor():
        token.execute(nodes, REENTRIES[inner](nodes, token))  # outside a callback it works
    token.set_callback(nodes, REENTRIES[inner](nodes, token))
    token.execute(nodes, ENTRIES[outer](nodes, token))
    assert str(token.target()) == ZERO  # the callback was made
    assert token.callback_succeeded() is False
    assert token.callback_result() == b""  # the lock alone reverts without a reason
    assert token.balanceOf(nodes) == nodes.total_staked()


def test_standing__read_in_a_callback__is_already_final(callback_world: tuple[Any, Any]) -> None:
    token, nodes = callback_world
    assert nodes.standing(token)[1] is True
    token.set_callback(nodes, nodes.standing.prepare_calldata(token.address))
    token.execute(nodes, nodes.slash.prepare_calldata(token.address, 1, token.address))
    assert token.callback_succeeded() is True
    assert int.from_bytes(token.callback_result()[32:64]) == 0


def test_stake__reentrant_double_credit__is_impossible(callback_world: tuple[Any, Any]) -> None:
    token, nodes = callback_world
    token.set_callback(nodes, nodes.stake.prepare_calldata(token.address, 50))
    token.execute(nodes, nodes.stake.prepare_calldata(token.address, 50))
    assert nodes.nodes(token).stake == 110
    assert nodes.total_staked() == token.balanceOf(nodes) == 150
