from __future__ import annotations

from collections.abc import Callable
from typing import Any

import boa
import pytest

from tests.contracts.conftest import THAW_PERIOD
from tests.support.contracts import events, overwrite


@pytest.fixture
def node(nodes: Any, register_node: Callable[..., str], stake: Callable[..., None]) -> str:
    """A registered node whose 30 of 100 have thawed."""
    name = register_node()
    stake(name, 100)
    nodes.begin_unstake(30, sender=name)
    nodes.env.timestamp += THAW_PERIOD
    return name


def test_freeze__two_disputes__withdrawal_waits_for_both(nodes: Any, node: str, dispute_game: str) -> None:
    for count in (1, 2):
        nodes.freeze(node, sender=dispute_game)
        assert events(nodes) == [("Frozen", {"node": node, "count": count})]
        assert nodes.nodes(node).frozen == count
    for count in (1, 0):
        with boa.reverts("nodes: a dispute is open"):
            nodes.withdraw(sender=node)
        nodes.unfreeze(node, sender=dispute_game)
        assert events(nodes) == [("Unfrozen", {"node": node, "count": count})]
        assert nodes.nodes(node).frozen == count
    assert nodes.withdraw(sender=node) == 30


def test_freeze__anything_else__goes_on_and_keeps_the_count(
    nodes: Any, node: str, stake: Callable[..., None], dispute_game: str, other_signer: str, recipient: str
) -> None:
    nodes.freeze(node, sender=dispute_game)
    nodes.begin_unstake(10, sender=node)
    nodes.cancel_unstake(sender=node)
    nodes.begin_unstake(40, sender=node)
    nodes.rotate_signer(other_signer, sender=node)
    nodes.set_endpoint("https://elsewhere.example", sender=node)
    stake(node, 5)
    nodes.slash(node, 70, recipient, sender=dispute_game)
    state = nodes.nodes(node)
    assert (state.stake, state.thawing, state.frozen) == (0, 35, 1)
    nodes.env.timestamp += THAW_PERIOD
    with boa.reverts("nodes: a dispute is open"):
        nodes.withdraw(sender=node)


def test_freeze__one_node__leaves_others_free(
    nodes: Any,
    node: str,
    register_node: Callable[..., str],
    stake: Callable[..., None],
    other_operator: str,
    other_signer: str,
    dispute_game: str,
) -> None:
    other = register_node(by=other_operator, key=other_signer)
    stake(other, 9)
    nodes.begin_unstake(9, sender=other)
    nodes.freeze(node, sender=dispute_game)
    nodes.env.timestamp += THAW_PERIOD
    assert nodes.withdraw(sender=other) == 9


def test_freeze__unregistered_node__reverts(nodes: Any, stranger: str, dispute_game: str) -> None:
    with boa.reverts("nodes: node is not registered"):
        nodes.freeze(stranger, sender=dispute_game)


def test_unfreeze__not_frozen__reverts(nodes: Any, node: str, stranger: str, dispute_game: str) -> None:
    for address in (node, stranger):
        with boa.reverts("nodes: node is not frozen"):
            nodes.unfreeze(address, sender=dispute_game)


def test_freeze_and_unfreeze__by_others__reverts(
    nodes: Any, node: str, owner: str, stranger: str, dispute_game: str
) -> None:
    nodes.freeze(node, sender=dispute_game)
    for caller in (owner, node, stranger):
        with boa.reverts("nodes: caller is not the dispute game"):
            nodes.freeze(node, sender=caller)
        with boa.reverts("nodes: caller is not the dispute game"):
            nodes.unfreeze(node, sender=caller)


def test_freeze__more_disputes_than_32_bits__reverts(nodes: Any, node: str, dispute_game: str) -> None:
    overwrite(nodes, "_exit", node, lambda words: words | (2**32 - 1) << 160)
    assert nodes.nodes(node).frozen == 2**32 - 1
    with boa.reverts("nodes: too many disputes"):
        nodes.freeze(node, sender=dispute_game)
