"""`collect` and `claim`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import boa
import pytest
from assay.commitments.signing import SigningKey
from assay.types import ZERO_ADDRESS

from tests.support.contracts import events
from tests.support.market import DISPUTE_WINDOW, UNIT, Market

ROYALTY_BPS = 500


def split(amount: int, fee_bps: int, royalty_bps: int) -> tuple[int, int, int]:
    """(node, royalty, fee), rounded against the claimants."""
    fee = -(-amount * fee_bps // 10_000)
    royalty = amount * royalty_bps // 10_000
    return amount - fee - royalty, royalty, fee


def test_collect__final_batch__splits_it(
    funded: Market, alice: SigningKey, publisher: str, treasury: str, stranger: str
) -> None:
    posted, known = funded.post_known(funded.row(alice, 30 * UNIT + 1, 3))
    funded.finish()
    assert funded.settlement.collect([known], sender=stranger) == 30 * UNIT + 1
    node_amount, royalty, fee = split(30 * UNIT + 1, 250, ROYALTY_BPS)
    assert events(funded.settlement) == [
        (
            "BatchCollected",
            {
                "batch_id": posted,
                "node": funded.node,
                "version_id": funded.version_id,
                "node_amount": node_amount,
                "royalty": royalty,
                "fee": fee,
                "count": 3,
            },
        )
    ]
    for account, share in ((funded.node, node_amount), (publisher, royalty), (treasury, fee)):
        assert funded.settlement.claimable(account) == share > 0
    assert node_amount + royalty + fee == 30 * UNIT + 1
    assert funded.settlement.batches(posted).collected
    assert funded.settlement.total_liabilities() == 100 * UNIT


def test_collect__a_second_early__reverts(funded: Market, alice: SigningKey) -> None:
    _, known = funded.post_known(funded.row(alice, 1, 1))
    boa.env.time_travel(seconds=DISPUTE_WINDOW - 1)
    with boa.reverts("settlement: dispute window is open"):
        funded.settlement.collect([known])
    boa.env.time_travel(seconds=1)
    funded.settlement.collect([known])


def test_collect__twice__reverts(funded: Market, alice: SigningKey) -> None:
    _, known = funded.post_known(funded.row(alice, 1, 1))
    funded.finish()
    with boa.reverts("settlement: batch is already collected"):
        funded.settlement.collect([known, known])
    funded.settlement.collect([known])
    with boa.reverts("settlement: batch is already collected"):
        funded.settlement.collect([known])


def test_collect__unknown_batch__reverts(funded: Market) -> None:
    with boa.reverts("settlement: batch is unknown"):
        funded.settlement.collect([(funded.node, funded.version_id, b"\x01" * 32)])


def test_collect__held__reverts_until_released(funded: Market, alice: SigningKey, dispute_game: str) -> None:
    posted, known = funded.post_known(funded.row(alice, 1, 1))
    funded.settlement.hold(posted, sender=dispute_game)
    funded.finish()
    with boa.reverts("settlement: batch is held"):
        funded.settlement.collect([known])
    funded.settlement.release(posted, sender=dispute_game)
    assert funded.settlement.collect([known]) == 1


def test_collect__nothing__is_nothing(funded: Market) -> None:
    assert funded.settlement.collect([]) == 0


def test_collect__fee_changed_after_posting__takes_the_old_one(
    funded: Market, alice: SigningKey, owner: str, treasury: str
) -> None:
    _, known = funded.post_known(funded.row(alice, UNIT, 1))
    funded.settlement.set_fee_bps(500, sender=owner)
    funded.finish()
    funded.settlement.collect([known])
    assert funded.settlement.claimable(treasury) == split(UNIT, 250, ROYALTY_BPS)[2]


def test_collect__posting_paused_node_slashed_version_revoked__pays_all_the_same(
    funded: Market,
    alice: SigningKey,
    nodes: Any,
    models: Any,
    owner: str,
    publisher: str,
    dispute_game: str,
) -> None:
    _, known = funded.post_known(funded.row(alice, UNIT, 1))
    funded.settlement.set_paused(True, sender=owner)
    nodes.slash(funded.node, 2**95, dispute_game, sender=dispute_game)
    models.set_status(funded.version_id, 3, sender=publisher)
    funded.finish()
    assert funded.settlement.collect([known]) == UNIT
    assert funded.settlement.claim(funded.node) > 0


def test_collect__royalty_payee_changed__pays_the_new_one(
    funded: Market, alice: SigningKey, models: Any, publisher: str, recipient: str
) -> None:
    _, known = funded.post_known(funded.row(alice, UNIT, 1))
    models.set_royalty_payee(models.model_id_of(publisher, "digits"), recipient, sender=publisher)
    funded.finish()
    funded.settlement.collect([known])
    assert funded.settlement.claimable(recipient) == UNIT * ROYALTY_BPS // 10_000
    assert funded.settlement.claimable(publisher) == 0


def test_collect__program_but_no_dispute_game__verifies_nothing(
    open_market: Callable[..., Market],
    alice: SigningKey,
    publish_version: Callable[..., bytes],
    models: Any,
    publisher: str,
) -> None:
    market = open_market(dispute_game=ZERO_ADDRESS)
    market.fund(alice.address, UNIT)
    version_id = publish_version(models.model_id_of(publisher, "digits"), program_root=b"\xbb" * 32)
    _, known = market.post_known(market.row(alice, UNIT, 7, version_id=version_id), version_id=version_id)
    market.finish()
    market.settlement.collect([known])
    assert market.settlement.settled_count(version_id) == 7
    assert market.settlement.verified_count(version_id) == 0


@pytest.mark.parametrize(("program_root", "verified"), [(b"\xbb" * 32, 7), (bytes(32), 0)])
def test_collect__program_or_none__counts_verified_or_only_settled(
    funded: Market,
    alice: SigningKey,
    publish_version: Callable[..., bytes],
    models: Any,
    publisher: str,
    program_root: bytes,
    verified: int,
) -> None:
    version_id = publish_version(models.model_id_of(publisher, "digits"), program_root=program_root)
    row = funded.row(alice, UNIT, 7, version_id=version_id)
    _, known = funded.post_known(row, version_id=version_id)
    assert funded.settlement.settled_count(version_id) == funded.settlement.verified_count(version_id) == 0
    funded.finish()
    funded.settlement.collect([known])
    assert funded.settlement.settled_count(version_id) == 7
    assert funded.settlement.verified_count(version_id) == verified
    assert funded.settlement.settled_count(funded.version_id) == 0


@pytest.mark.parametrize("amount", [1, 2, 3, 39, 40, 41, 399])
def test_collect__small_amounts__round_against_the_claimants(
    funded: Market, alice: SigningKey, publisher: str, treasury: str, amount: int
) -> None:
    _, known = funded.post_known(funded.row(alice, amount, 1))
    funded.finish()
    funded.settlement.collect([known])
    shares = tuple(funded.settlement.claimable(a) for a in (funded.node, publisher, treasury))
    assert shares == split(amount, 250, ROYALTY_BPS)


def test_claim__claimable__pays_the_account_whoever_asks(
    funded: Market, alice: SigningKey, stranger: str
) -> None:
    _, known = funded.post_known(funded.row(alice, UNIT, 1))
    funded.finish()
    funded.settlement.collect([known])
    due = funded.settlement.claimable(funded.node)
    before = funded.token.balanceOf(funded.node)
    assert funded.settlement.claim(funded.node, sender=stranger) == due
    assert events(funded.settlement) == [("Claimed", {"account": funded.node, "amount": due})]
    assert funded.token.balanceOf(funded.node) == before + due
    assert funded.settlement.claimable(funded.node) == 0
    assert funded.settlement.total_liabilities() == funded.token.balanceOf(funded.settlement)


def test_claim__nothing__reverts(market: Market, stranger: str) -> None:
    with boa.reverts("settlement: nothing to claim"):
        market.settlement.claim(stranger)


def test_claim__token_reenters__pays_once(
    open_market: Callable[..., Market], deploy_token: Callable[..., Any], alice: SigningKey
) -> None:
    token = deploy_token("ReentrantToken")
    market = open_market(token=token)
    market.fund(alice.address, UNIT)
    _, known = market.post_known(market.row(alice, UNIT, 1))
    market.finish()
    market.settlement.collect([known])
    token.set_callback(market.settlement, market.settlement.claim.prepare_calldata(market.node))
    due = market.settlement.claimable(market.node)
    assert market.settlement.claim(market.node) == due
    assert not token.callback_succeeded()
    assert token.balanceOf(market.node) == due
