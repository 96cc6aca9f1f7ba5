"""Channel rules: what a voucher must cover, and what its count may say."""

from __future__ import annotations

from dataclasses import replace

import pytest
from assay.commitments.signing import SigningKey
from assay.node.errors import PaymentError
from assay.node.payments import accounts
from assay.node.payments.accounts import Channel
from assay.node.receipts.entries import ChannelKey, ChannelState, HeldVoucher
from assay.types import Hash32, Voucher

VERSION = Hash32(b"\x01" * 32)
CONSUMER = SigningKey(b"\x09" * 32).address
NODE = SigningKey(b"\x07" * 32).address
HELD = HeldVoucher(50, 8, b"\x01" * 65)


def channel(**changes: object) -> Channel:
    state = ChannelState(ChannelKey(VERSION, CONSUMER), sequence=10, charged=50, voucher=HELD)
    made = Channel.of(state)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def voucher(amount: int, count: int) -> Voucher:
    return Voucher(CONSUMER, NODE, VERSION, amount, count)


@pytest.mark.parametrize(("amount", "price"), [(55, 5), (60, 5), (50, 0)])
def test_check_coverage__enough__passes(amount: int, price: int) -> None:
    accounts.check_coverage(channel(), voucher(amount, 8), price)


@pytest.mark.parametrize(
    ("amount", "code"),
    [(54, "voucher_short"), (51, "voucher_short"), (50, "voucher_stale"), (0, "voucher_stale")],
)
def test_check_coverage__too_little__is_short_or_stale(amount: int, code: str) -> None:
    with pytest.raises(PaymentError) as caught:
        accounts.check_coverage(channel(), voucher(amount, 8), 5)
    assert caught.value.code == code


def test_check_coverage__request_in_work__counts_as_charged() -> None:
    busy = channel()
    accounts.reserve(busy, HeldVoucher(55, 8, b""), 5)
    with pytest.raises(PaymentError):
        accounts.check_coverage(busy, voucher(55, 8), 5)
    accounts.check_coverage(busy, voucher(60, 8), 5)


def test_release__failed_request__leaves_its_voucher_as_credit() -> None:
    credited = channel()
    accounts.reserve(credited, HeldVoucher(55, 8, b""), 5)
    accounts.release(credited, 5)
    accounts.check_coverage(credited, voucher(55, 8), 5)
    assert credited.durable == HELD


@pytest.mark.parametrize(
    ("amount", "count", "code"),
    [(55, 11, "voucher_stale"), (55, 7, "voucher_stale")],
)
def test_check_counts__wrong_count__is_stale(amount: int, count: int, code: str) -> None:
    with pytest.raises(PaymentError) as caught:
        accounts.check_counts(channel(), voucher(amount, count), 64)
    assert caught.value.code == code


def test_check_counts__too_far_behind__is_unacknowledged() -> None:
    with pytest.raises(PaymentError) as caught:
        accounts.check_counts(channel(issued=73), voucher(55, 8), 64)
    assert caught.value.code == "unacknowledged"
    accounts.check_counts(channel(issued=72), voucher(55, 8), 64)
    accounts.check_counts(channel(issued=73), voucher(55, 9), 64)


def test_check_counts__unpaid_receipts__need_no_acknowledgement() -> None:
    accounts.check_counts(channel(issued=500, unpaid=490), voucher(55, 8), 64)


@pytest.mark.parametrize(
    ("amount", "count", "raises"),
    [(51, 8, True), (51, 9, True), (50, 9, True), (50, 8, False), (49, 9, False), (51, 7, False)],
)
def test_raises_held__grows_in_one_and_falls_in_none(amount: int, count: int, raises: bool) -> None:
    assert accounts.raises_held(channel(), voucher(amount, count)) is raises


def test_check_acknowledgement__behind_the_held_one__is_stale() -> None:
    for amount, count in ((49, 9), (50, 7), (50, 11)):
        with pytest.raises(PaymentError):
            accounts.check_acknowledgement(channel(), voucher(amount, count))
    accounts.check_acknowledgement(channel(), voucher(50, 10))


def test_is_behind_chain__paid_more_than_the_log_holds__tells_of_a_lost_log() -> None:
    assert not channel().is_behind_chain
    assert not channel(settled=50).is_behind_chain
    assert channel(settled=51).is_behind_chain
    empty = Channel.of(ChannelState(ChannelKey(VERSION, CONSUMER)))
    assert replace(empty, settled=1).is_behind_chain


def test_owed__held_less_settled__is_never_negative() -> None:
    assert channel().owed == 50
    assert channel(settled=20).owed == 30
    assert channel(settled=60).owed == 0
