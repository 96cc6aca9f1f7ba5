from __future__ import annotations

from collections.abc import Callable
from typing import Any

import boa
import pytest

from tests.contracts.conftest import MIN_STAKE, THAW_PERIOD
from tests.support.contracts import ZERO, events

YEAR = 365 * 86_400


def test_init__terms__are_fixed_and_readable(nodes: Any, token: Any, dispute_game: str, owner: str) -> None:
    assert nodes.token() == token.address
    assert nodes.dispute_game() == dispute_game
    assert nodes.min_stake() == MIN_STAKE
    assert nodes.thaw_period() == THAW_PERIOD
    assert (nodes.owner(), nodes.pending_owner(), nodes.paused()) == (owner, ZERO, False)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"token": ZERO}, "nodes: token has no code"),
        ({"token": "0x" + "11" * 20}, "nodes: token has no code"),
        ({"owner": ZERO}, "nodes: owner is the zero address"),
        ({"thaw_period": YEAR + 1}, "nodes: thaw period is above 365 days"),
    ],
)
def test_init__wrong_terms__reverts(
    deploy_nodes: Callable[..., Any], wrong: dict[str, Any], reason: str
) -> None:
    with boa.reverts(reason):
        deploy_nodes(**wrong)


def test_init__longest_thaw__is_accepted(deploy_nodes: Callable[..., Any]) -> None:
    assert deploy_nodes(thaw_period=YEAR).thaw_period() == YEAR


def test_set_paused__by_owner__logs_and_switches(nodes: Any, owner: str) -> None:
    for paused in (True, False):
        nodes.set_paused(paused, sender=owner)
        assert events(nodes) == [("PausedChanged", {"paused": paused})]
        assert nodes.paused() is paused


def test_set_paused__by_others__reverts(nodes: Any, operator: str, stranger: str, dispute_game: str) -> None:
    for caller in (operator, stranger, dispute_game):
        with boa.reverts("ownable: caller is not the owner"):
            nodes.set_paused(True, sender=caller)


def test_transfer_ownership__two_steps__moves_the_switch(
    nodes: Any, owner: str, recipient: str, stranger: str
) -> None:
    with boa.reverts("ownable: caller is not the owner"):
        nodes.transfer_ownership(stranger, sender=stranger)
    nodes.transfer_ownership(recipient, sender=owner)
    with boa.reverts("ownable_2step: caller is not the new owner"):
        nodes.accept_ownership(sender=stranger)
    nodes.accept_ownership(sender=recipient)
    nodes.set_paused(True, sender=recipient)
    with boa.reverts("ownable: caller is not the owner"):
        nodes.set_paused(False, sender=owner)
