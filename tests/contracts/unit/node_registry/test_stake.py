from __future__ import annotations

from collections.abc import Callable
from typing import Any

import boa
import pytest

from tests.contracts.conftest import MIN_STAKE
from tests.support.contracts import ZERO, events


def test_stake__by_anyone__belongs_to_the_node(
    nodes: Any, token: Any, register_node: Callable[..., str], stake: Callable[..., None], stranger: str
) -> None:
    node = register_node()
    stake(node, 30)
    assert events(nodes) == [("Staked", {"node": node, "sender": stranger, "amount": 30, "stake": 30})]
    stake(node, 12, by=node)
    assert events(nodes) == [("Staked", {"node": node, "sender": node, "amount": 12, "stake": 42})]
    assert nodes.nodes(node).stake == nodes.total_staked() == token.balanceOf(nodes) == 42


def test_stake__around_the_minimum__decides_activity(
    nodes: Any, register_node: Callable[..., str], stake: Callable[..., None], signer: str
) -> None:
    node = register_node()
    stake(node, MIN_STAKE - 1)
    assert not nodes.is_active(node)
    assert nodes.standing(node) == (signer, False)
    stake(node, 1)
    assert nodes.is_active(node)
    assert nodes.standing(node) == (signer, True)


def test_stake__no_minimum__registered_nodes_are_active_and_others_not(
    deploy_nodes: Callable[..., Any], register_node: Callable[..., str], stranger: str
) -> None:
    nodes = deploy_nodes(min_stake=0)
    node = register_node(registry=nodes)
    assert nodes.is_active(node)
    for nobody in (stranger, ZERO):
        assert not nodes.is_active(nobody)
        assert nodes.standing(nobody) == (ZERO, False)


def test_stake__unregistered_node__reverts(
    nodes: Any, token: Any, stake: Callable[..., None], operator: str
) -> None:
    with boa.reverts("nodes: node is not registered"):
        stake(operator, 1)


def test_stake__nothing__reverts(nodes: Any, register_node: Callable[..., str]) -> None:
    node = register_node()
    with boa.reverts("nodes: nothing was received"):
        nodes.stake(node, 0, sender=node)


def test_stake__no_allowance__reverts(nodes: Any, token: Any, register_node: Callable[..., str]) -> None:
    node = register_node()
    token.mint(node, 10)
    with boa.reverts("erc20: insufficient allowance"):
        nodes.stake(node, 10, sender=node)


def test_stake__beyond_96_bits_with_thawing__reverts(
    nodes: Any, register_node: Callable[..., str], stake: Callable[..., None]
) -> None:
    node = register_node()
    stake(node, 2**96 - 1)
    nodes.begin_unstake(2**95, sender=node)
    with boa.reverts("nodes: stake does not fit 96 bits"):
        stake(node, 1)
    nodes.cancel_unstake(sender=node)
    assert nodes.nodes(node).stake == 2**96 - 1
    assert nodes.nodes(node).signer == nodes.standing(node)[0]


def test_stake__registration_paused__goes_on(
    nodes: Any, register_node: Callable[..., str], stake: Callable[..., None], owner: str
) -> None:
    node = register_node()
    nodes.set_paused(True, sender=owner)
    stake(node, 5)
    assert nodes.nodes(node).stake == 5


@pytest.mark.parametrize("address", [ZERO, "0x" + "11" * 20])
def test_nodes__unknown__is_empty(nodes: Any, address: str) -> None:
    assert tuple(nodes.nodes(address)) == (ZERO, 0, 0, 0, 0, 0, "")
    assert nodes.total_staked() == 0
