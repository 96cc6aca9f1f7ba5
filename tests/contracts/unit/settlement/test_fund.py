from __future__ import annotations

from collections.abc import Callable
from typing import Any

import boa
import pytest
from assay.commitments.signing import SigningKey

from tests.support.contracts import ZERO, events, fields
from tests.support.market import UNIT, Market


def test_fund__own_money__is_credited(market: Market, alice: SigningKey) -> None:
    consumer = alice.address
    market.fund(consumer, 5 * UNIT)
    assert events(market.settlement) == [
        (
            "Funded",
            {
                "consumer": consumer,
                "node": market.node,
                "sender": consumer,
                "amount": 5 * UNIT,
                "balance": 5 * UNIT,
            },
        )
    ]
    market.fund(consumer, UNIT)
    assert fields(market.settlement.escrows(consumer, market.node)) == {
        "balance": 6 * UNIT,
        "thawing": 0,
        "thaw_at": 0,
    }
    assert market.settlement.total_liabilities() == 6 * UNIT == market.token.balanceOf(market.settlement)


def test_fund__for_somebody_else__belongs_to_the_consumer(
    market: Market, alice: SigningKey, stranger: str
) -> None:
    market.token.mint(stranger, 7)
    market.token.approve(market.settlement, 7, sender=stranger)
    market.settlement.fund(alice.address, market.node, 7, sender=stranger)
    assert market.settlement.escrows(alice.address, market.node).balance == 7
    assert market.settlement.escrows(stranger, market.node).balance == 0


def test_fund__never_funded__is_zero(market: Market, stranger: str) -> None:
    assert set(fields(market.settlement.escrows(stranger, market.node)).values()) == {0}


def test_fund__for_nobody__reverts(market: Market, stranger: str) -> None:
    with boa.reverts("settlement: consumer is the zero address"):
        market.settlement.fund(ZERO, market.node, 1, sender=stranger)


def test_fund__nothing__reverts(market: Market, stranger: str) -> None:
    with boa.reverts("settlement: no tokens arrived"):
        market.settlement.fund(stranger, market.node, 0, sender=stranger)


def test_fund__without_allowance__reverts(market: Market, stranger: str) -> None:
    market.token.mint(stranger, 1)
    with boa.reverts("erc20: insufficient allowance"):
        market.settlement.fund(stranger, market.node, 1, sender=stranger)


def test_fund__beyond_96_bits__reverts(market: Market, alice: SigningKey, stranger: str) -> None:
    market.fund(alice.address, 2**96 - 1)
    assert market.settlement.escrows(alice.address, market.node).balance == 2**96 - 1
    with boa.reverts("settlement: escrow is over 96 bits"):
        market.fund(alice.address, 1)
    with boa.reverts("settlement: escrow is over 96 bits"):
        market.fund(stranger, 2**96)
    assert market.settlement.escrows(alice.address, market.node).balance == 2**96 - 1


def test_fund__another_escrow_full__is_not_blocked(market: Market, alice: SigningKey, stranger: str) -> None:
    for consumer in (alice.address, stranger):
        market.fund(consumer, 2**96 - 1)
        assert market.settlement.escrows(consumer, market.node).balance == 2**96 - 1
    held = market.token.balanceOf(market.settlement)
    assert market.settlement.total_liabilities() == held == 2 * (2**96 - 1)


def test_fund__fee_on_transfer__credits_what_arrived(
    open_market: Callable[..., Market], deploy_token: Callable[..., Any], alice: SigningKey
) -> None:
    market = open_market(token=deploy_token("FeeToken"))
    market.fund(alice.address, 1_000)
    assert market.settlement.escrows(alice.address, market.node).balance == 990
    assert market.settlement.total_liabilities() == market.token.balanceOf(market.settlement) == 990


def test_fund__token_without_return_value__works(
    open_market: Callable[..., Market], deploy_token: Callable[..., Any], alice: SigningKey
) -> None:
    market = open_market(token=deploy_token("NoReturnToken"))
    market.fund(alice.address, 10)
    assert market.settlement.escrows(alice.address, market.node).balance == 10


def test_fund__token_returns_false__reverts(
    open_market: Callable[..., Market], deploy_token: Callable[..., Any], alice: SigningKey
) -> None:
    market = open_market(token=deploy_token("FalseToken"))
    market.token.set_failing(True)
    with boa.reverts("settlement: token transfer failed"):
        market.fund(alice.address, 10)


def test_fund__token_paused__reverts_and_recovers(
    open_market: Callable[..., Market], deploy_token: Callable[..., Any], alice: SigningKey
) -> None:
    market = open_market(token=deploy_token("PausableToken"))
    market.token.set_paused(True)
    with boa.reverts("token: paused"):
        market.fund(alice.address, 10)
    market.token.set_paused(False)
    market.fund(alice.address, 10)
    assert market.settlement.escrows(alice.address, market.node).balance == 10


@pytest.mark.parametrize("call", ["fund", "claim", "withdraw"])
def test_fund__token_reenters__is_locked_out(
    open_market: Callable[..., Market], deploy_token: Callable[..., Any], alice: SigningKey, call: str
) -> None:
    token = deploy_token("ReentrantToken")
    market = open_market(token=token)
    settlement = market.settlement
    calls = {
        "fund": settlement.fund.prepare_calldata(alice.address, market.node, 1),
        "claim": settlement.claim.prepare_calldata(alice.address),
        "withdraw": settlement.withdraw.prepare_calldata(market.node),
    }
    token.set_callback(settlement, calls[call])
    market.fund(alice.address, 10)
    assert not token.callback_succeeded()
    assert token.callback_result() == b""
    assert settlement.total_liabilities() == token.balanceOf(settlement) == 10
