"""An open x402 payment as the store keeps it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from assay.client.channels import ChannelState
from assay.client.open_payment import OpenPayment
from assay.client.store import ChannelKey, Store
from assay.commitments.authorizations import Authorization
from assay.commitments.signing import SigningKey
from assay.types import Domain, Hash32
from hypothesis import given
from hypothesis import strategies as st

PAYER, NODE = SigningKey(b"\x01" * 32).address, SigningKey(b"\x02" * 32).address
KEY = ChannelKey(Domain(31337, NODE), PAYER, NODE, Hash32(b"\x03" * 32))
PAYMENT = OpenPayment(
    payment=Hash32(b"\x04" * 32),
    authorization=Authorization(PAYER, NODE, 5, 0, 1_800_000_000, Hash32(b"\x05" * 32)),
    header="aGVhZGVy",
    identifier="pay_0123456789abcdef",
    input_hash=Hash32(b"\x06" * 32),
    body=b"body",
    json_length=4,
    started_at=1_700_000_000,
)


@given(st.integers(0, (1 << 256) - 1), st.none() | st.binary(max_size=9), st.text(max_size=9))
def test_row__there_and_back__is_the_payment(value: int, body: bytes | None, refused: str) -> None:
    given_ = replace(PAYMENT.authorization, value=value)
    payment = replace(PAYMENT, authorization=given_, body=body, refused=refused)
    assert OpenPayment.from_row(*payment.to_row()) == payment


def test_store__payment__is_open_until_its_receipt(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.keep_payment(KEY, PAYMENT)
    assert store.open_payment(KEY) == PAYMENT
    store.keep_payment(KEY, replace(PAYMENT, refused="why"))
    store.close()
    store = Store(tmp_path)
    kept = store.open_payment(KEY)
    assert kept is not None and kept.refused == "why"
    state = ChannelState(PAYER, NODE, KEY.version_id)
    store.save(KEY, state, ("0xab", "{}"), (PAYMENT.text, '{"payment": 1}'))
    assert store.open_payment(KEY) is None
    assert store.payment_of("0xAB") == '{"payment": 1}'
    assert store.payment_of("0xcd") is None
    store.close()


def test_store__payment_that_is_dropped__is_gone_unless_it_bought_something(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.keep_payment(KEY, PAYMENT)
    store.drop_payment(PAYMENT)
    assert store.open_payment(KEY) is None
    store.keep_payment(KEY, PAYMENT)
    store.save(KEY, ChannelState(PAYER, NODE, KEY.version_id), ("0xab", "{}"), (PAYMENT.text, "{}"))
    store.drop_payment(PAYMENT)
    assert store.payment_of("0xab") == "{}"
    store.close()


def test_store__second_open_payment_of_a_channel__is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.keep_payment(KEY, PAYMENT)
    with pytest.raises(Exception, match="UNIQUE"):
        store.keep_payment(KEY, replace(PAYMENT, payment=Hash32(b"\x07" * 32)))
    store.close()
