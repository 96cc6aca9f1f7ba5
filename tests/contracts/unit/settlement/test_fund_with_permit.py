from __future__ import annotations

from collections.abc import Callable
from typing import Any

import boa
from assay.commitments.signing import SigningKey
from eth_account import Account
from eth_account.messages import encode_typed_data

from tests.support.market import Market, key

FOREVER = 2**256 - 1


def permit(
    market: Market, holder: Any, amount: int, *, deadline: int = FOREVER
) -> tuple[int, int, bytes, bytes]:
    """(deadline, v, r, s) of an EIP-2612 permit to Settlement."""
    _, name, version, chain_id, token, _, _ = market.token.eip712Domain()
    names = ("owner", "spender", "value", "nonce", "deadline")
    types = ("address", "address", "uint256", "uint256", "uint256")
    message = encode_typed_data(
        {"name": name, "version": version, "chainId": chain_id, "verifyingContract": token},
        {"Permit": [{"name": n, "type": t} for n, t in zip(names, types, strict=True)]},
        {
            "owner": holder.address,
            "spender": str(market.settlement.address),
            "value": amount,
            "nonce": market.token.nonces(holder.address),
            "deadline": deadline,
        },
    )
    signed = holder.sign_message(message)
    return deadline, signed.v, signed.r.to_bytes(32, "big"), signed.s.to_bytes(32, "big")


def test_fund_with_permit__fresh_permit__funds_without_approve(market: Market) -> None:
    holder = Account.from_key(b"\x11" * 32)
    market.token.mint(holder.address, 50)
    market.settlement.fund_with_permit(
        holder.address, market.node, 50, *permit(market, holder, 50), sender=holder.address
    )
    assert market.settlement.escrows(holder.address, market.node).balance == 50


def test_fund_with_permit__used_by_somebody_else_first__funds_all_the_same(
    market: Market, stranger: str
) -> None:
    holder = Account.from_key(b"\x11" * 32)
    market.token.mint(holder.address, 50)
    deadline, v, r, s = permit(market, holder, 50)
    market.token.permit(holder.address, market.settlement, 50, deadline, v, r, s, sender=stranger)
    market.settlement.fund_with_permit(
        holder.address, market.node, 50, deadline, v, r, s, sender=holder.address
    )
    assert market.settlement.escrows(holder.address, market.node).balance == 50


def test_fund_with_permit__somebody_elses_permit__takes_nothing(market: Market, stranger: str) -> None:
    holder = Account.from_key(b"\x11" * 32)
    market.token.mint(holder.address, 50)
    with boa.reverts("erc20: insufficient allowance"):
        market.settlement.fund_with_permit(
            stranger, market.node, 50, *permit(market, holder, 50), sender=stranger
        )


def test_fund_with_permit__expired__reverts(market: Market) -> None:
    holder = Account.from_key(b"\x11" * 32)
    market.token.mint(holder.address, 50)
    late = permit(market, holder, 50, deadline=boa.env.timestamp - 1)
    with boa.reverts("erc20: insufficient allowance"):
        market.settlement.fund_with_permit(holder.address, market.node, 50, *late, sender=holder.address)


def test_fund_with_permit__token_without_permit__works_on_an_allowance(
    open_market: Callable[..., Market], deploy_token: Callable[..., Any]
) -> None:
    market = open_market(token=deploy_token("FeeToken"))
    alice: SigningKey = key("alice")
    market.token.mint(alice.address, 100)
    market.token.approve(market.settlement, 100, sender=alice.address)
    market.settlement.fund_with_permit(
        alice.address, market.node, 100, FOREVER, 27, bytes(32), bytes(32), sender=alice.address
    )
    assert market.settlement.escrows(alice.address, market.node).balance == 99
