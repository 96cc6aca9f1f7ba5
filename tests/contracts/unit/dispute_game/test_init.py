"""The constructor's refusals."""

from __future__ import annotations

from typing import Any

import boa
import pytest

from tests.support.arena import (
    BOND,
    DISPUTE_WINDOW,
    ESCROW_THAW,
    MIN_STAKE,
    MOVE_WINDOW,
    SLASH,
    THAW,
    Arena,
)
from tests.support.contracts import ZERO, deployer


def test_init__terms__can_be_read(arena: Arena) -> None:
    game = arena.game
    assert (game.bond(), game.slash_amount(), game.move_window()) == (BOND, SLASH, MOVE_WINDOW)
    contracts = (game.token(), game.models(), game.nodes(), game.settlement(), game.verifier())
    deployed = (arena.token, arena.models, arena.nodes, arena.settlement, arena.verifier)
    assert [str(one) for one in contracts] == [str(one.address) for one in deployed]
    assert (game.LEVELS(), game.PARTS(), game.MAX_MOVES()) == (4, 256, 29)


@pytest.mark.parametrize(
    ("argument", "value", "reason"),
    [
        ("token", ZERO, "disputes: token has no code"),
        ("models", ZERO, "disputes: model registry has no code"),
        ("verifier", ZERO, "disputes: verifier has no code"),
        ("bond", 0, "disputes: bond is zero"),
        ("slash_amount", 2 * BOND - 1, "disputes: slash is below twice the bond"),
        ("slash_amount", MIN_STAKE + 1, "disputes: slash is above the minimum stake"),
        ("move_window", 0, "disputes: move window is zero"),
        ("move_window", MOVE_WINDOW + 1, "disputes: stake thaws before a dispute can end"),
    ],
)
def test_init__terms_that_cannot_work__revert(argument: str, value: Any, reason: str) -> None:
    with boa.reverts(reason):
        Arena.build(game={argument: value})


def test_init__terms_at_their_bounds__are_taken() -> None:
    Arena.build(game={"slash_amount": MIN_STAKE, "bond": MIN_STAKE // 2})


def test_init__stake_thaws_a_second_too_early__reverts() -> None:
    with boa.reverts("disputes: stake thaws before a dispute can end"):
        Arena.build(thaw_period=THAW - 1)


def test_init__stakes_in_another_token__reverts() -> None:
    other = deployer("MockToken").deploy("Other", "OTH")
    with boa.reverts("disputes: stakes are in another token"):
        Arena.build(game={"token": other})


def test_init__contracts_of_another_game__revert(arena: Arena) -> None:
    nodes = deployer("NodeRegistry").deploy(arena.token, arena.stranger, arena.owner, MIN_STAKE, THAW)
    with boa.reverts("disputes: node registry has another dispute game"):
        Arena.build(game={"nodes": nodes})
    parties = (arena.token, arena.models, arena.nodes, arena.stranger, arena.owner, arena.treasury)
    settlement = deployer("Settlement").deploy(*parties, 250, DISPUTE_WINDOW, ESCROW_THAW)
    with boa.reverts("disputes: settlement has another dispute game"):
        Arena.build(game={"settlement": settlement})
