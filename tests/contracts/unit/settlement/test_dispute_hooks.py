"""`hold`, `release`, `void`: for the dispute game alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import boa
import pytest
from assay.commitments.signing import SigningKey

from tests.support.contracts import ZERO, ZERO_HASH, events, fields, overwrite
from tests.support.market import UNIT, Market, as_tuple


@pytest.fixture
def posted(funded: Market, alice: SigningKey) -> bytes:
    """A pending batch of 30 units and 3 receipts."""
    return funded.post(funded.row(alice, 30 * UNIT, 3))


def test_hold__pending_batch__is_counted(funded: Market, posted: bytes, dispute_game: str) -> None:
    for holds in (1, 2):
        funded.settlement.hold(posted, sender=dispute_game)
        assert events(funded.settlement) == [("BatchHeld", {"batch_id": posted, "holds": holds})]
    funded.settlement.release(posted, sender=dispute_game)
    assert events(funded.settlement) == [("BatchReleased", {"batch_id": posted, "holds": 1})]
    assert fields(funded.settlement.batches(posted)).items() >= {"holds": 1, "amount": 30 * UNIT}.items()


def test_hold__window_over__is_too_late_unless_it_is_held(
    funded: Market, posted: bytes, dispute_game: str
) -> None:
    held = funded.post()
    funded.settlement.hold(held, sender=dispute_game)
    funded.finish()
    with boa.reverts("settlement: batch is final"):
        funded.settlement.hold(posted, sender=dispute_game)
    funded.settlement.hold(held, sender=dispute_game)


def test_hold__unknown_batch__reverts(funded: Market, dispute_game: str) -> None:
    with boa.reverts("settlement: batch is unknown"):
        funded.settlement.hold(b"\x01" * 32, sender=dispute_game)


def test_hold__more_than_16_bits__reverts(funded: Market, posted: bytes, dispute_game: str) -> None:
    overwrite(funded.settlement, "_batches", posted, lambda batch: batch | (2**16 - 1) << 8)
    assert funded.settlement.batches(posted).holds == 2**16 - 1
    with boa.reverts("settlement: batch has too many holds"):
        funded.settlement.hold(posted, sender=dispute_game)


def test_release__not_held__reverts(funded: Market, posted: bytes, dispute_game: str) -> None:
    with boa.reverts("settlement: batch is not held"):
        funded.settlement.release(posted, sender=dispute_game)


def test_void__receipt_in_a_batch__refunds_its_price(
    funded: Market, alice: SigningKey, posted: bytes, dispute_game: str
) -> None:
    receipt = funded.receipt(alice.address, 10 * UNIT)
    digest = funded.digest(receipt)
    funded.settlement.void(posted, as_tuple(receipt), sender=dispute_game)
    assert events(funded.settlement) == [
        (
            "ReceiptVoided",
            {"batch_id": posted, "digest": digest, "consumer": alice.address, "amount": 10 * UNIT},
        )
    ]
    assert funded.settlement.is_void(digest)
    assert fields(funded.settlement.batches(posted)).items() >= {"amount": 20 * UNIT, "count": 2}.items()
    assert funded.settlement.escrows(alice.address, funded.node).balance == 80 * UNIT
    assert funded.settlement.channel(alice.address, funded.node, funded.version_id).settled == 30 * UNIT
    assert funded.settlement.total_liabilities() == 100 * UNIT


def test_void__twice__reverts(funded: Market, alice: SigningKey, posted: bytes, dispute_game: str) -> None:
    receipt = as_tuple(funded.receipt(alice.address, UNIT))
    for batch in (posted, ZERO_HASH):
        with boa.env.anchor():
            funded.settlement.void(batch, receipt, sender=dispute_game)
            with boa.reverts("settlement: receipt is already void"):
                funded.settlement.void(posted, receipt, sender=dispute_game)


def test_void__price_above_the_batch__refunds_what_is_there(
    funded: Market, alice: SigningKey, posted: bytes, dispute_game: str
) -> None:
    funded.settlement.void(posted, as_tuple(funded.receipt(alice.address, 2**128 - 1)), sender=dispute_game)
    assert funded.settlement.batches(posted).amount == 0
    assert funded.settlement.escrows(alice.address, funded.node).balance == 100 * UNIT


def test_void__escrow_is_full__the_consumer_can_claim_the_rest(
    funded: Market, alice: SigningKey, posted: bytes, dispute_game: str
) -> None:
    full = 2**96 - 1
    settled = funded.settlement.channel(alice.address, funded.node, funded.version_id)
    funded.fund(alice.address, full - 70 * UNIT - 4)
    funded.settlement.void(posted, as_tuple(funded.receipt(alice.address, 10)), sender=dispute_game)
    assert funded.settlement.escrows(alice.address, funded.node).balance == full
    assert funded.settlement.claimable(alice.address) == 6
    assert funded.settlement.channel(alice.address, funded.node, funded.version_id) == settled
    assert funded.settlement.claim(alice.address) == 6
    assert funded.token.balanceOf(alice.address) == 6
    assert funded.settlement.total_liabilities() == funded.token.balanceOf(funded.settlement)


def test_void__batch_above_96_bits__returns_every_unit(
    market: Market, alice: SigningKey, bob: SigningKey, dispute_game: str
) -> None:
    most = 2**96 - 1
    for consumer in (alice, bob):
        market.fund(consumer.address, most)
    posted = market.post(market.row(alice, most, 1), market.row(bob, most, 1))
    assert market.settlement.batches(posted).amount == 2 * most
    market.fund(alice.address, most)
    for consumer in (alice, bob):
        receipt = market.receipt(consumer.address, 2**128 - 1)
        market.settlement.void(posted, as_tuple(receipt), sender=dispute_game)
    assert market.settlement.batches(posted).amount == 0
    assert market.settlement.escrows(alice.address, market.node).balance == most
    assert market.settlement.escrows(bob.address, market.node).balance == most
    assert market.settlement.claimable(alice.address) == most
    assert market.settlement.channel(alice.address, market.node, market.version_id).settled == most
    assert market.settlement.total_liabilities() == 3 * most


def test_void__receipt_for_a_friend_who_paid_nothing__takes_nothing_of_what_others_paid(
    funded: Market, bob: SigningKey, posted: bytes, dispute_game: str
) -> None:
    """Else a node voids a receipt of its own making and has the batch back without royalty and fee."""
    receipt = funded.receipt(bob.address, 30 * UNIT)
    funded.settlement.void(posted, as_tuple(receipt), sender=dispute_game)
    assert events(funded.settlement)[0][1]["amount"] == 0
    assert funded.settlement.batches(posted).amount == 30 * UNIT
    assert funded.settlement.escrows(bob.address, funded.node).balance == 0


def test_void__several_receipts_of_a_channel__give_back_what_it_paid_once(
    funded: Market, alice: SigningKey, bob: SigningKey, posted: bytes, dispute_game: str
) -> None:
    funded.fund(bob.address, 100 * UNIT)
    later = funded.post(funded.row(bob, 50 * UNIT, 1), root=b"\x77" * 32)
    returned = []
    for batch, price in ((posted, 20 * UNIT), (later, 20 * UNIT), (later, 1)):
        receipt = funded.receipt(alice.address, price, len(returned) + 1)
        funded.settlement.void(batch, as_tuple(receipt), sender=dispute_game)
        returned.append(events(funded.settlement)[0][1]["amount"])
    assert returned == [20 * UNIT, 10 * UNIT, 0]
    assert funded.settlement.batches(later).amount == 40 * UNIT


def test_void__more_receipts_than_the_count__stays_at_zero(
    funded: Market, alice: SigningKey, posted: bytes, dispute_game: str
) -> None:
    for sequence in range(1, 5):
        receipt = as_tuple(funded.receipt(alice.address, 1, sequence))
        funded.settlement.void(posted, receipt, sender=dispute_game)
    left = {"amount": 30 * UNIT - 4, "count": 0}
    assert fields(funded.settlement.batches(posted)).items() >= left.items()


def test_void__in_no_batch__marks_the_digest(funded: Market, alice: SigningKey, dispute_game: str) -> None:
    receipt = funded.receipt(alice.address, UNIT)
    assert not funded.settlement.is_void(funded.digest(receipt))
    funded.settlement.void(ZERO_HASH, as_tuple(receipt), sender=dispute_game)
    assert events(funded.settlement)[0][1]["amount"] == 0
    assert funded.settlement.is_void(funded.digest(receipt))


def test_void__receipt_for_nobody__refunds_nobody(funded: Market, posted: bytes, dispute_game: str) -> None:
    funded.settlement.void(posted, as_tuple(funded.receipt(ZERO, UNIT)), sender=dispute_game)
    assert fields(funded.settlement.batches(posted)).items() >= {"amount": 30 * UNIT, "count": 2}.items()
    assert funded.settlement.escrows(ZERO, funded.node).balance == 0


def test_void__final_batch__reverts(
    funded: Market, alice: SigningKey, posted: bytes, dispute_game: str
) -> None:
    funded.finish()
    with boa.reverts("settlement: batch is final"):
        funded.settlement.void(posted, as_tuple(funded.receipt(alice.address, 1)), sender=dispute_game)


def test_void__unknown_batch__reverts(funded: Market, alice: SigningKey, dispute_game: str) -> None:
    with boa.reverts("settlement: batch is unknown"):
        funded.settlement.void(b"\x01" * 32, as_tuple(funded.receipt(alice.address, 1)), sender=dispute_game)


@pytest.mark.parametrize("call", ["hold", "release", "void"])
def test_dispute_hooks__by_anybody_else__revert(
    funded: Market, alice: SigningKey, posted: bytes, owner: str, stranger: str, call: str
) -> None:
    arguments = (posted, as_tuple(funded.receipt(alice.address, 1))) if call == "void" else (posted,)
    for caller in (owner, stranger, funded.node, alice.address):
        with boa.reverts("settlement: caller is not the dispute game"):
            getattr(funded.settlement, call)(*arguments, sender=caller)


def test_dispute_hooks__no_dispute_game__are_nobodys(open_market: Callable[..., Market], owner: str) -> None:
    market: Any = open_market(dispute_game=ZERO)
    with boa.reverts("settlement: caller is not the dispute game"):
        market.settlement.hold(market.post(), sender=owner)
