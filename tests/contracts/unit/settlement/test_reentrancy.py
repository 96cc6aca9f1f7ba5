"""What others can do while Settlement is in the middle of something: nothing, but ask for a digest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import boa
import pytest
from assay.commitments.signing import SigningKey

from tests.support.contracts import ZERO
from tests.support.market import ESCROW_THAW, UNIT, Market

ASKING_WALLET = """
# pragma version 0.4.3
interface Settlement:
    def voucher_digest(
        consumer: address, node: address, version_id: bytes32, amount: uint128, count: uint64
    ) -> bytes32: view

node: address
version_id: bytes32

@deploy
def __init__(node: address, version_id: bytes32):
    self.node = node
    self.version_id = version_id

@external
@view
def isValidSignature(digest: bytes32, signature: Bytes[1024]) -> bytes4:
    amount: uint128 = 0
    count: uint64 = 0
    amount, count = abi_decode(signature, (uint128, uint64))
    asked: bytes32 = staticcall Settlement(msg.sender).voucher_digest(
        self, self.node, self.version_id, amount, count
    )
    return 0x1626ba7e if asked == digest else 0xffffffff
"""


def test_wallet__asks_settlement_for_the_digest_it_approves__pays(market: Market) -> None:
    wallet = boa.loads(ASKING_WALLET, market.node, market.version_id)
    market.fund(str(wallet.address), 5 * UNIT)
    approval = (2 * UNIT).to_bytes(32, "big") + (1).to_bytes(32, "big")
    market.post(wallets=[(wallet.address, 2 * UNIT, 1, approval)])
    assert tuple(market.settlement.channel(wallet.address, market.node, market.version_id)) == (2 * UNIT, 1)


CALLS: dict[str, Callable[[Market, Any], bytes]] = {
    "fund": lambda m, t: m.settlement.fund.prepare_calldata(t.address, m.node, 1),
    "begin_thaw": lambda m, t: m.settlement.begin_thaw.prepare_calldata(m.node, 1),
    "withdraw": lambda m, t: m.settlement.withdraw.prepare_calldata(m.node),
    "collect": lambda m, t: m.settlement.collect.prepare_calldata([]),
    "escrows": lambda m, t: m.settlement.escrows.prepare_calldata(t.address, m.node),
    "channel": lambda m, t: m.settlement.channel.prepare_calldata(t, m.node, m.version_id),
}


@pytest.mark.parametrize("inner", CALLS)
@pytest.mark.parametrize("outer", ["fund", "withdraw"])
def test_token__calls_back__meets_the_lock(
    outer: str, inner: str, open_market: Callable[..., Market], deploy_token: Callable[..., Any]
) -> None:
    token = deploy_token("ReentrantToken")
    market = open_market(token=token)
    settlement = market.settlement
    token.mint(token, 1_000)
    token.execute(token, token.approve.prepare_calldata(settlement.address, 1_000))
    token.execute(settlement, settlement.fund.prepare_calldata(token.address, market.node, 100))
    token.execute(settlement, settlement.begin_thaw.prepare_calldata(market.node, 40))
    boa.env.time_travel(seconds=ESCROW_THAW)
    with boa.env.anchor():
        token.execute(settlement, CALLS[inner](market, token))  # outside a callback it works
    token.set_callback(settlement, CALLS[inner](market, token))
    token.execute(settlement, CALLS[outer](market, token))
    assert str(token.target()) == ZERO  # the callback was made
    assert token.callback_succeeded() is False
    assert token.callback_result() == b""  # the lock alone reverts without a reason
    assert settlement.total_liabilities() == token.balanceOf(settlement)


def test_void__digest_marked_before_posting__the_batch_keeps_its_money(
    funded: Market, alice: SigningKey, dispute_game: str
) -> None:
    """A receipt voided before its batch is posted is refunded from the slash, not from the batch."""
    receipt = funded.receipt(alice.address, 3 * UNIT)
    fields = tuple(getattr(receipt, name) for name in type(receipt).__dataclass_fields__)
    funded.settlement.void(bytes(32), fields, sender=dispute_game)
    batch = funded.post(funded.row(alice, 3 * UNIT, 1))
    with boa.reverts("settlement: receipt is already void"):
        funded.settlement.void(batch, fields, sender=dispute_game)
    assert funded.settlement.batches(batch).amount == 3 * UNIT
