from __future__ import annotations

from collections.abc import Callable
from typing import Any

import boa
import pytest

from tests.contracts.conftest import MIN_STAKE, THAW_PERIOD
from tests.support.contracts import ZERO, events


@pytest.fixture
def node(nodes: Any, register_node: Callable[..., str], stake: Callable[..., None]) -> str:
    """A registered node with 70 staked and 30 thawing."""
    name = register_node()
    stake(name, 100)
    nodes.begin_unstake(30, sender=name)
    return name


@pytest.mark.parametrize(
    ("amount", "taken", "stake_left", "thawing_left"),
    [
        (0, 0, 70, 30),
        (1, 1, 69, 30),
        (70, 70, 0, 30),
        (71, 71, 0, 29),
        (100, 100, 0, 0),
        (101, 100, 0, 0),
        (2**256 - 1, 100, 0, 0),
    ],
)
def test_slash__amount__takes_stake_first_then_thawing(
    nodes: Any,
    token: Any,
    node: str,
    dispute_game: str,
    recipient: str,
    amount: int,
    taken: int,
    stake_left: int,
    thawing_left: int,
) -> None:
    thaw_at = nodes.nodes(node).thaw_at
    assert nodes.slash(node, amount, recipient, sender=dispute_game) == taken
    assert events(nodes) == [("Slashed", {"node": node, "recipient": recipient, "amount": taken})]
    state = nodes.nodes(node)
    assert (state.stake, state.thawing) == (stake_left, thawing_left)
    assert state.thaw_at == (thaw_at if thawing_left else 0)
    assert token.balanceOf(recipient) == taken
    assert token.balanceOf(nodes) == nodes.total_staked() == 100 - taken


def test_slash__after_the_thaw_before_withdrawal__still_takes(
    nodes: Any, node: str, dispute_game: str, recipient: str
) -> None:
    nodes.env.timestamp += 2 * THAW_PERIOD
    assert nodes.slash(node, 1_000, recipient, sender=dispute_game) == 100
    with boa.reverts("nodes: nothing is thawing"):
        nodes.withdraw(sender=node)


def test_slash__after_withdrawal__takes_what_is_left(
    nodes: Any, node: str, dispute_game: str, recipient: str
) -> None:
    nodes.env.timestamp += THAW_PERIOD
    nodes.withdraw(sender=node)
    assert nodes.slash(node, 1_000, recipient, sender=dispute_game) == 70
    assert nodes.slash(node, 1_000, recipient, sender=dispute_game) == 0


def test_slash__below_the_minimum__deactivates(
    nodes: Any, node: str, stake: Callable[..., None], dispute_game: str, recipient: str, signer: str
) -> None:
    stake(node, MIN_STAKE - 70)
    assert nodes.standing(node) == (signer, True)
    nodes.slash(node, 1, recipient, sender=dispute_game)
    assert nodes.standing(node) == (signer, False)


def test_slash__other_nodes__keep_theirs(
    nodes: Any,
    node: str,
    register_node: Callable[..., str],
    stake: Callable[..., None],
    other_operator: str,
    other_signer: str,
    dispute_game: str,
    recipient: str,
) -> None:
    other = register_node(by=other_operator, key=other_signer)
    stake(other, 500)
    nodes.slash(node, 1_000, recipient, sender=dispute_game)
    assert nodes.nodes(other).stake == nodes.total_staked() == 500


def test_slash__unregistered_node__reverts(
    nodes: Any, stranger: str, dispute_game: str, recipient: str
) -> None:
    with boa.reverts("nodes: node is not registered"):
        nodes.slash(stranger, 1, recipient, sender=dispute_game)


def test_slash__by_others__reverts(nodes: Any, node: str, owner: str, signer: str, stranger: str) -> None:
    for caller in (owner, node, signer, stranger):
        with boa.reverts("nodes: caller is not the dispute game"):
            nodes.slash(node, 1, caller, sender=caller)


def test_slash__no_dispute_game__nobody_can(
    deploy_nodes: Callable[..., Any], register_node: Callable[..., str], owner: str, dispute_game: str
) -> None:
    nodes = deploy_nodes(dispute_game=ZERO)
    node = register_node(registry=nodes)
    for caller in (owner, dispute_game, node):
        with boa.reverts("nodes: caller is not the dispute game"):
            nodes.slash(node, 0, caller, sender=caller)
