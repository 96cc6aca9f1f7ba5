"""`begin_thaw`, `cancel_thaw`, `withdraw`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import boa
from assay.commitments.signing import SigningKey

from tests.support.contracts import events, fields
from tests.support.market import ESCROW_THAW, UNIT, Market


def test_begin_thaw__part_of_the_balance__starts_the_clock(funded: Market, alice: SigningKey) -> None:
    funded.settlement.begin_thaw(funded.node, 40 * UNIT, sender=alice.address)
    thaw_at = boa.env.timestamp + ESCROW_THAW
    assert events(funded.settlement) == [
        (
            "ThawBegun",
            {"consumer": alice.address, "node": funded.node, "amount": 40 * UNIT, "thaw_at": thaw_at},
        )
    ]
    assert fields(funded.settlement.escrows(alice.address, funded.node)) == {
        "balance": 100 * UNIT,
        "thawing": 40 * UNIT,
        "thaw_at": thaw_at,
    }


def test_begin_thaw__again__replaces_the_first(funded: Market, alice: SigningKey) -> None:
    funded.settlement.begin_thaw(funded.node, 40 * UNIT, sender=alice.address)
    boa.env.time_travel(seconds=ESCROW_THAW)
    funded.settlement.begin_thaw(funded.node, 30 * UNIT, sender=alice.address)
    with boa.reverts("settlement: escrow is still thawing"):
        funded.settlement.withdraw(funded.node, sender=alice.address)
    assert funded.settlement.escrows(alice.address, funded.node).thawing == 30 * UNIT


def test_begin_thaw__more_than_the_balance__reverts(funded: Market, alice: SigningKey) -> None:
    with boa.reverts("settlement: amount is over the balance"):
        funded.settlement.begin_thaw(funded.node, 100 * UNIT + 1, sender=alice.address)


def test_begin_thaw__somebody_elses_escrow__reverts(funded: Market, stranger: str) -> None:
    with boa.reverts("settlement: amount is over the balance"):
        funded.settlement.begin_thaw(funded.node, 1, sender=stranger)


def test_begin_thaw__nothing__reverts(funded: Market, alice: SigningKey) -> None:
    with boa.reverts("settlement: nothing to thaw"):
        funded.settlement.begin_thaw(funded.node, 0, sender=alice.address)


def test_cancel_thaw__thawing__stops_it(funded: Market, alice: SigningKey) -> None:
    funded.settlement.begin_thaw(funded.node, UNIT, sender=alice.address)
    funded.settlement.cancel_thaw(funded.node, sender=alice.address)
    assert events(funded.settlement) == [("ThawCancelled", {"consumer": alice.address, "node": funded.node})]
    boa.env.time_travel(seconds=ESCROW_THAW)
    with boa.reverts("settlement: nothing is thawing"):
        funded.settlement.withdraw(funded.node, sender=alice.address)


def test_cancel_thaw__nothing_thawing__reverts(funded: Market, alice: SigningKey) -> None:
    with boa.reverts("settlement: no thaw to cancel"):
        funded.settlement.cancel_thaw(funded.node, sender=alice.address)


def test_withdraw__thawed__pays_once(funded: Market, alice: SigningKey) -> None:
    funded.settlement.begin_thaw(funded.node, 40 * UNIT, sender=alice.address)
    boa.env.time_travel(seconds=ESCROW_THAW)
    assert funded.settlement.withdraw(funded.node, sender=alice.address) == 40 * UNIT
    assert events(funded.settlement) == [
        ("EscrowWithdrawn", {"consumer": alice.address, "node": funded.node, "amount": 40 * UNIT})
    ]
    assert funded.token.balanceOf(alice.address) == 40 * UNIT
    assert funded.settlement.total_liabilities() == 60 * UNIT
    with boa.reverts("settlement: nothing is thawing"):
        funded.settlement.withdraw(funded.node, sender=alice.address)


def test_withdraw__a_second_early__reverts(funded: Market, alice: SigningKey) -> None:
    funded.settlement.begin_thaw(funded.node, UNIT, sender=alice.address)
    boa.env.time_travel(seconds=ESCROW_THAW - 1)
    with boa.reverts("settlement: escrow is still thawing"):
        funded.settlement.withdraw(funded.node, sender=alice.address)


def test_withdraw__vouchers_took_from_the_thaw__pays_the_rest(funded: Market, alice: SigningKey) -> None:
    funded.settlement.begin_thaw(funded.node, 100 * UNIT, sender=alice.address)
    boa.env.time_travel(seconds=ESCROW_THAW)
    funded.post(funded.row(alice, 70 * UNIT, 1))
    assert funded.settlement.escrows(alice.address, funded.node).thawing == 30 * UNIT
    assert funded.settlement.withdraw(funded.node, sender=alice.address) == 30 * UNIT
    assert funded.settlement.channel(alice.address, funded.node, funded.version_id).settled == 70 * UNIT


def test_withdraw__vouchers_took_everything__pays_nothing_and_ends(funded: Market, alice: SigningKey) -> None:
    funded.settlement.begin_thaw(funded.node, 100 * UNIT, sender=alice.address)
    boa.env.time_travel(seconds=ESCROW_THAW)
    funded.post(funded.row(alice, 100 * UNIT, 1))
    assert funded.settlement.withdraw(funded.node, sender=alice.address) == 0
    assert funded.settlement.escrows(alice.address, funded.node).thaw_at == 0


def test_withdraw__posting_paused__pays_all_the_same(funded: Market, alice: SigningKey, owner: str) -> None:
    funded.settlement.set_paused(True, sender=owner)
    funded.settlement.begin_thaw(funded.node, 100 * UNIT, sender=alice.address)
    boa.env.time_travel(seconds=ESCROW_THAW)
    assert funded.settlement.withdraw(funded.node, sender=alice.address) == 100 * UNIT


def test_withdraw__token_returns_false__reverts_and_keeps_the_claim(
    open_market: Callable[..., Market], deploy_token: Callable[..., Any], alice: SigningKey
) -> None:
    market = open_market(token=deploy_token("FalseToken"))
    market.fund(alice.address, 10)
    market.settlement.begin_thaw(market.node, 10, sender=alice.address)
    boa.env.time_travel(seconds=ESCROW_THAW)
    market.token.set_failing(True)
    with boa.reverts("settlement: token transfer failed"):
        market.settlement.withdraw(market.node, sender=alice.address)
    market.token.set_failing(False)
    assert market.settlement.withdraw(market.node, sender=alice.address) == 10


def test_withdraw__token_reenters__pays_once(
    open_market: Callable[..., Market], deploy_token: Callable[..., Any], alice: SigningKey
) -> None:
    token = deploy_token("ReentrantToken")
    market = open_market(token=token)
    holder = str(token.address)
    for consumer in (alice.address, holder):
        market.fund(consumer, 10)
    market.settlement.begin_thaw(market.node, 10, sender=holder)
    boa.env.time_travel(seconds=ESCROW_THAW)
    token.set_callback(market.settlement, market.settlement.withdraw.prepare_calldata(market.node))
    assert market.settlement.withdraw(market.node, sender=holder) == 10
    assert not token.callback_succeeded()
    assert market.settlement.total_liabilities() == token.balanceOf(market.settlement) == 10
