from __future__ import annotations

from collections.abc import Callable
from typing import Any

import boa
import pytest

from tests.contracts.conftest import MIN_STAKE, THAW_PERIOD
from tests.support.contracts import events


@pytest.fixture
def node(register_node: Callable[..., str], stake: Callable[..., None]) -> str:
    """A registered node with 100 staked."""
    name = register_node()
    stake(name, 100)
    return name


def test_begin_unstake__part__moves_it_and_starts_the_clock(nodes: Any, node: str) -> None:
    ready = nodes.env.timestamp + THAW_PERIOD
    nodes.begin_unstake(30, sender=node)
    assert events(nodes) == [("UnstakeBegun", {"node": node, "amount": 30, "thawing": 30, "thaw_at": ready})]
    state = nodes.nodes(node)
    assert (state.stake, state.thawing, state.thaw_at) == (70, 30, ready)
    assert nodes.total_staked() == 100


def test_begin_unstake__again__adds_and_restarts_the_clock(nodes: Any, node: str) -> None:
    nodes.begin_unstake(30, sender=node)
    nodes.env.timestamp += THAW_PERIOD - 1
    nodes.begin_unstake(5, sender=node)
    ready = nodes.env.timestamp + THAW_PERIOD
    assert events(nodes)[0][1] == {"node": node, "amount": 5, "thawing": 35, "thaw_at": ready}
    nodes.env.timestamp += 1
    with boa.reverts("nodes: stake is still thawing"):
        nodes.withdraw(sender=node)


def test_begin_unstake__below_the_minimum__deactivates(
    nodes: Any, register_node: Callable[..., str], stake: Callable[..., None]
) -> None:
    node = register_node()
    stake(node, MIN_STAKE)
    nodes.begin_unstake(1, sender=node)
    assert not nodes.is_active(node)
    nodes.cancel_unstake(sender=node)
    assert nodes.is_active(node)


@pytest.mark.parametrize(
    ("amount", "reason"),
    [
        (0, "nodes: amount is zero"),
        (101, "nodes: amount is above the stake"),
        (2**256 - 1, "nodes: amount is above the stake"),
    ],
)
def test_begin_unstake__wrong_amount__reverts(nodes: Any, node: str, amount: int, reason: str) -> None:
    with boa.reverts(reason):
        nodes.begin_unstake(amount, sender=node)


def test_begin_unstake__by_signer_or_stranger__reverts(
    nodes: Any, node: str, signer: str, stranger: str
) -> None:
    for caller in (signer, stranger):
        with boa.reverts("nodes: node is not registered"):
            nodes.begin_unstake(1, sender=caller)


def test_cancel_unstake__thawing__goes_back(nodes: Any, node: str) -> None:
    nodes.begin_unstake(30, sender=node)
    nodes.cancel_unstake(sender=node)
    assert events(nodes) == [("UnstakeCancelled", {"node": node, "amount": 30})]
    state = nodes.nodes(node)
    assert (state.stake, state.thawing, state.thaw_at) == (100, 0, 0)


def test_cancel_unstake__nothing_thaws__reverts(nodes: Any, node: str, stranger: str) -> None:
    for caller in (node, stranger):
        with boa.reverts("nodes: nothing is thawing"):
            nodes.cancel_unstake(sender=caller)


def test_withdraw__exactly_after_the_thaw__pays(nodes: Any, token: Any, node: str) -> None:
    nodes.begin_unstake(30, sender=node)
    nodes.env.timestamp += THAW_PERIOD - 1
    with boa.reverts("nodes: stake is still thawing"):
        nodes.withdraw(sender=node)
    nodes.env.timestamp += 1
    assert nodes.withdraw(sender=node) == 30
    assert events(nodes) == [("StakeWithdrawn", {"node": node, "amount": 30})]
    assert token.balanceOf(node) == 30
    assert token.balanceOf(nodes) == nodes.total_staked() == nodes.nodes(node).stake == 70
    assert (nodes.nodes(node).thawing, nodes.nodes(node).thaw_at) == (0, 0)


def test_withdraw__twice__reverts(nodes: Any, node: str) -> None:
    nodes.begin_unstake(30, sender=node)
    nodes.env.timestamp += THAW_PERIOD
    nodes.withdraw(sender=node)
    with boa.reverts("nodes: nothing is thawing"):
        nodes.withdraw(sender=node)


def test_withdraw__by_others__reverts(
    nodes: Any, node: str, signer: str, stranger: str, owner: str, dispute_game: str
) -> None:
    nodes.begin_unstake(30, sender=node)
    nodes.env.timestamp += THAW_PERIOD
    for caller in (signer, stranger, owner, dispute_game):
        with boa.reverts("nodes: nothing is thawing"):
            nodes.withdraw(sender=caller)


def test_withdraw__owner_paused_and_renounced__still_pays(nodes: Any, node: str, owner: str) -> None:
    nodes.begin_unstake(100, sender=node)
    nodes.set_paused(True, sender=owner)
    nodes.renounce_ownership(sender=owner)
    nodes.env.timestamp += THAW_PERIOD
    assert nodes.withdraw(sender=node) == 100


def test_withdraw__no_thaw_period__at_once(
    deploy_nodes: Callable[..., Any], register_node: Callable[..., str], stake: Callable[..., None]
) -> None:
    nodes = deploy_nodes(thaw_period=0)
    node = register_node(registry=nodes)
    stake(node, 7, registry=nodes)
    nodes.begin_unstake(7, sender=node)
    assert nodes.withdraw(sender=node) == 7
