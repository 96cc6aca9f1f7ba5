"""Payments in the log, of either kind of database."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from assay.commitments.authorizations import Authorization
from assay.commitments.signing import SigningKey
from assay.node.receipts.database import Database
from assay.node.receipts.entries import ChannelKey, Issue
from assay.node.receipts.log import ReceiptLog
from assay.node.x402.payments import PaymentRow, PaymentStore
from assay.types import ZERO_ADDRESS, Address, Domain, Hash32

SIGNER = SigningKey(b"\x08" * 32)
DOMAIN = Domain(31337, Address("0x" + "11" * 20))
PAYER = SigningKey(b"\x09" * 32).address
IDENTIFIER = "pay_0000000000000001"


def word(number: int) -> Hash32:
    return Hash32(number.to_bytes(32, "big"))


def row(number: int = 1, identifier: str | None = None) -> PaymentRow:
    given = Authorization(PAYER, ZERO_ADDRESS, 5, 0, 2**256 - 1, word(number))
    return PaymentRow(word(number), identifier, word(100), word(200), 2**128 - 1, given)


@pytest.fixture
def log(database: Database) -> Iterator[ReceiptLog]:
    made = ReceiptLog(database, DOMAIN, SIGNER.address)
    yield made
    made.close()


@pytest.fixture
def store(log: ReceiptLog) -> Iterator[PaymentStore]:
    made = PaymentStore(log.database)
    yield made
    made.close()


def test_note__once__is_found_whole(store: PaymentStore) -> None:
    assert store.find(word(1)) is None
    store.note(row(1, IDENTIFIER))
    assert store.find(word(1)) == store.identified(PAYER, IDENTIFIER) == row(1, IDENTIFIER)
    assert store.identified(SIGNER.address, IDENTIFIER) is None


def test_note__again__changes_nothing(store: PaymentStore) -> None:
    store.note(row(1))
    store.settled(word(1), word(7))
    store.stated(word(1), b"\x05" * 65)
    store.note(replace(row(1, IDENTIFIER), version_id=word(3)))
    assert store.find(word(1)) == replace(row(1), tx_hash=word(7), statement=b"\x05" * 65)


def test_note__identifier_of_another_payment__is_not_noted(store: PaymentStore) -> None:
    assert store.note(row(1, IDENTIFIER))
    assert store.note(row(1, IDENTIFIER))
    assert not store.note(row(2, IDENTIFIER))
    assert store.find(word(2)) is None
    store.forget_identifier(word(1))
    store.note(row(3, IDENTIFIER))
    assert store.identified(PAYER, IDENTIFIER) == row(3, IDENTIFIER)


def test_of_receipt__bought_and_not__tells_what_paid(store: PaymentStore, log: ReceiptLog) -> None:
    store.note(row(1))
    key = ChannelKey(word(100), PAYER)
    bought = Issue(key, word(200), word(201), 5, payment=word(1), prepaid=True)
    free = Issue(key, word(200), word(201), 0)
    first, second = (receipt for receipt in log.write([bought, free], SIGNER) if receipt)
    assert store.of_receipt(first.digest) == row(1)
    assert store.of_receipt(second.digest) is None
    assert store.of_receipt(word(9)) is None
