"""Receipts paid for beside the escrow: a proven fraud costs the node its stake, not others what they paid."""

from __future__ import annotations

from typing import Any

import pytest
from assay.types import Receipt

from tests.contracts.unit.dispute_game.conftest import Setting
from tests.contracts.unit.dispute_game.test_outcomes import market_of
from tests.support.arena import PRICE, SLASH, UNIT
from tests.support.contracts import fields
from tests.support.game_players import play_game
from tests.support.market import key

PAID = 5 * UNIT


def void_beside(setting: Setting, receipt: Receipt, *rows: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The outcome of a dispute about a receipt in a batch with these vouchers, and the batch after it."""
    arena = setting.arena
    batch, tree = arena.post(receipt, rows=rows)
    opened = arena.open(receipt, tree=tree)
    dispute = play_game(arena, opened, *setting.players(opened, setting.wrong))
    assert dispute.closed is not None and not dispute.closed["node_won"]
    return dispute.closed, fields(arena.settlement.batches(batch))


def test_outcome__payer_without_vouchers__is_paid_out_of_the_slash_alone(setting: Setting) -> None:
    arena, market, alice = setting.arena, market_of(setting), key("alice")
    market.fund(alice.address, PAID)
    payer = key("payer").address
    receipt = setting.receipt(setting.wrong, consumer=payer)
    closed, batch = void_beside(setting, receipt, market.row(alice, PAID, 1))
    assert closed["to_consumer"] == PRICE == arena.balance(payer)
    assert (batch["amount"], batch["count"]) == (PAID, 0)
    assert market.settlement.escrows(payer, market.node).balance == 0


def test_outcome__batch_without_vouchers__is_disputed_and_void_like_any(setting: Setting) -> None:
    payer = key("payer").address
    receipt = setting.receipt(setting.wrong, consumer=payer)
    closed, batch = void_beside(setting, receipt)
    assert (closed["to_consumer"], batch["amount"], batch["count"]) == (PRICE, 0, 0)
    assert setting.arena.settlement.is_void(setting.arena.digest(receipt))


@pytest.mark.parametrize("settled", [PRICE - 1, PRICE])
def test_outcome__payer_with_vouchers__gets_its_price_once(setting: Setting, settled: int) -> None:
    arena, market, payer = setting.arena, market_of(setting), key("payer")
    market.fund(payer.address, settled)
    receipt = setting.receipt(setting.wrong, consumer=payer.address)
    closed, batch = void_beside(setting, receipt, market.row(payer, settled, 1))
    assert closed["to_consumer"] == PRICE - settled == arena.balance(payer.address)
    assert market.settlement.escrows(payer.address, market.node).balance == settled
    assert batch["amount"] == 0


def test_outcome__price_above_a_quarter_of_the_slash__gives_that_quarter(setting: Setting) -> None:
    receipt = setting.receipt(setting.wrong, consumer=key("payer").address, price=SLASH)
    closed, _ = void_beside(setting, receipt)
    assert closed["to_consumer"] == SLASH // 4
