"""The durable receipts log: sequences without gaps, one receipt a voucher, all or nothing."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from assay.commitments.public_data import ReceiptData, named_tensors
from assay.commitments.receipts import receipt_digest, receipt_from_json
from assay.commitments.signing import SigningKey, recover
from assay.errors import FatalError
from assay.node.receipts.database import SqliteDatabase
from assay.node.receipts.entries import Acknowledge, ChannelKey, HeldVoucher, Issue, LoggedReceipt
from assay.node.receipts.log import ReceiptLog, read_data
from assay.node.receipts.schema import TABLES
from assay.types import Address, Domain, Hash32

DOMAIN = Domain(31337, Address("0x" + "11" * 20))
NODE = SigningKey(b"\x07" * 32).address
SIGNER = SigningKey(b"\x08" * 32)
CONSUMER = SigningKey(b"\x09" * 32).address
VERSION = Hash32(b"\x01" * 32)
KEY = ChannelKey(VERSION, CONSUMER)


def issue(n: int = 1, price: int = 5, key: ChannelKey = KEY, *, payment: int | None = None) -> Issue:
    voucher = HeldVoucher(price * n, n - 1, bytes([n]) * 65) if price else None
    paid = Hash32(bytes([payment or n]) * 32) if price else None
    return Issue(key, Hash32(bytes([n]) * 32), Hash32(b"\x22" * 32), price, voucher, paid)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[ReceiptLog]:
    made = ReceiptLog(SqliteDatabase(tmp_path / "log.sqlite3"), DOMAIN, NODE, clock=lambda: 1_800_000_000)
    yield made
    made.close()


def written(log: ReceiptLog, *items: Issue | Acknowledge) -> list[LoggedReceipt]:
    return [one for one in log.write(items, SIGNER) if isinstance(one, LoggedReceipt)]


def test_write__receipts_of_two_channels__are_signed_with_sequences_from_one(log: ReceiptLog) -> None:
    other = ChannelKey(Hash32(b"\x02" * 32), CONSUMER)
    receipts = written(log, issue(1), issue(2), issue(1, key=other, payment=9))
    assert [r.signed.receipt.sequence for r in receipts] == [1, 2, 1]
    for logged in receipts:
        digest = receipt_digest(DOMAIN, logged.signed.receipt)
        assert logged.digest == digest
        assert recover(digest, logged.signed.signature) == SIGNER.address


def test_write__after_the_file_is_opened_again__goes_on_with_the_sequence(log: ReceiptLog) -> None:
    written(log, issue(1), issue(2))
    again = ReceiptLog(log.database, DOMAIN, NODE)
    try:
        assert written(again, issue(3))[0].signed.receipt.sequence == 3
        assert again.channel(KEY).sequence == 3
    finally:
        again.close()


def test_write__two_logs_on_one_file__never_give_a_sequence_twice(log: ReceiptLog) -> None:
    second = ReceiptLog(log.database, DOMAIN, NODE)
    try:
        taken = [written(each, issue(n))[0] for n, each in enumerate([log, second, log, second], 1)]
    finally:
        second.close()
    assert [r.signed.receipt.sequence for r in taken] == [1, 2, 3, 4]


def test_write__voucher_that_has_paid__writes_nothing_of_the_group(log: ReceiptLog) -> None:
    written(log, issue(1))
    with pytest.raises(sqlite3.IntegrityError):
        log.write([issue(2), issue(3, payment=1)], SIGNER)
    assert log.channel(KEY).sequence == 1
    assert log.receipt_count() == 1
    assert written(log, issue(2))[0].signed.receipt.sequence == 2


def test_write__vouchers__keeps_the_highest(log: ReceiptLog) -> None:
    written(log, issue(3), issue(2))
    held = log.channel(KEY).voucher
    assert held is not None
    assert (held.amount, held.count) == (15, 2)
    assert log.channel(KEY).charged == 10


def test_write__acknowledgement__raises_the_count_alone(log: ReceiptLog) -> None:
    written(log, issue(1))
    assert log.write([Acknowledge(KEY, HeldVoucher(5, 1, b"\x33" * 65))], SIGNER) == [None]
    state = log.channel(KEY)
    assert (state.amount, state.count, state.sequence) == (5, 1, 1)


def test_write__voucher_whose_count_falls__is_not_kept(log: ReceiptLog) -> None:
    written(log, issue(1))
    log.write([Acknowledge(KEY, HeldVoucher(5, 1, b"\x33" * 65))], SIGNER)
    log.write([Acknowledge(KEY, HeldVoucher(99, 0, b"\x44" * 65))], SIGNER)
    assert log.channel(KEY).amount == 5


def test_write__unpaid_receipts__share_no_payment(log: ReceiptLog) -> None:
    written(log, issue(1, price=0), issue(2, price=0))
    state = log.channel(KEY)
    assert (state.sequence, state.unpaid, state.voucher) == (2, 2, None)


def test_write__prepaid_receipt__charges_nothing_and_its_payment_buys_no_second(log: ReceiptLog) -> None:
    prepaid = replace(issue(2, payment=8), voucher=None, prepaid=True)
    first, second = written(log, issue(1), prepaid)
    state = log.channel(KEY)
    assert (second.signed.receipt.sequence, second.signed.receipt.price) == (2, 5)
    assert (state.charged, state.unpaid, state.amount) == (5, 1, 5)
    assert log.receipt_paid_by(Hash32(bytes([8]) * 32)) == second
    with pytest.raises(sqlite3.IntegrityError):
        log.write([replace(prepaid, input_hash=first.digest)], SIGNER)
    assert log.channel(KEY) == state


def test_write__greatest_amounts__survive(log: ReceiptLog) -> None:
    top = (1 << 128) - 1
    item = Issue(KEY, VERSION, VERSION, top, HeldVoucher(top, 0, b"\x01" * 65), VERSION)
    (logged,) = written(log, item)
    assert logged.signed.receipt.price == top
    assert log.channel(KEY).charged == top
    found = log.receipt(logged.digest)
    assert found == logged


def test_receipt_paid_by__its_voucher__is_found(log: ReceiptLog) -> None:
    (logged,) = written(log, issue(1))
    assert log.receipt_paid_by(bytes([1]) * 32) == logged
    assert log.receipt_paid_by(bytes([2]) * 32) is None
    assert log.receipt(bytes(32)) is None


def test_channel__never_used__is_all_zero(log: ReceiptLog) -> None:
    state = log.channel(KEY)
    assert (state.sequence, state.unpaid, state.charged, state.amount, state.count) == (0, 0, 0, 0, 0)
    assert log.channels_of(CONSUMER) == []


@pytest.mark.parametrize(
    ("domain", "node"),
    [
        (Domain(1, DOMAIN.settlement), NODE),
        (Domain(31337, CONSUMER), NODE),
        (DOMAIN, CONSUMER),
    ],
)
def test_open__log_of_another_node_or_chain__is_refused(
    log: ReceiptLog, domain: Domain, node: Address
) -> None:
    with pytest.raises(FatalError, match="was written for"):
        ReceiptLog(log.database, domain, node)


DATA = ReceiptData(
    named_tensors(["x"], [np.arange(4, dtype=np.uint8)]), named_tensors(["y"], [np.arange(2, dtype=np.int32)])
)


def test_write__with_data__keeps_them_with_the_receipt(log: ReceiptLog) -> None:
    private, public, plain = written(
        log,
        replace(issue(1), data=DATA.to_bytes()),
        replace(issue(2), data=DATA.to_bytes(), public=True),
        issue(3),
    )
    with contextlib.closing(log.database.connect()) as connection:
        assert [read_data(connection, one.digest) for one in (private, public, plain)] == [DATA, DATA, None]
    assert [log.receipt(one.digest) for one in (private, public, plain)] == [private, public, plain]
    assert [one.to_json(DOMAIN).get("public") for one in (private, public, plain)] == [None, True, None]
    assert receipt_from_json(DOMAIN, public.to_json(DOMAIN)) == public.signed


def test_write__group_that_fails__keeps_no_data(log: ReceiptLog) -> None:
    written(log, issue(1))
    with pytest.raises(sqlite3.IntegrityError):
        log.write([replace(issue(2), data=DATA.to_bytes()), issue(3, payment=1)], SIGNER)
    with contextlib.closing(log.database.connect()) as connection:
        assert connection.execute("SELECT count(*) FROM receipt_data").fetchone() == (0,)


def make_first_schema(path: Path) -> None:
    """A log as the first schema had it, with one receipt."""
    with contextlib.closing(SqliteDatabase(path).connect()) as connection:
        connection.define(TABLES)
        meta = {
            "schema": "1",
            "node": NODE,
            "chain_id": str(DOMAIN.chain_id),
            "settlement": DOMAIN.settlement,
        }
        connection.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
        connection.execute(
            "INSERT INTO channels (version_id, consumer, sequence) VALUES (?, ?, 1)", (VERSION, CONSUMER)
        )
        connection.execute(
            "INSERT INTO receipts (channel, sequence, version_id, digest, input_hash, output_hash, price,"
            " executed_at, signature) VALUES (1, 1, ?, ?, ?, ?, ?, 7, ?)",
            (VERSION, b"\x05" * 32, VERSION, VERSION, bytes(16), b"\x01" * 65),
        )


def test_open__log_of_the_first_schema__is_brought_up_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "old.sqlite3"
    make_first_schema(path)
    with contextlib.closing(ReceiptLog(SqliteDatabase(path), DOMAIN, NODE)) as log:
        kept = log.receipt(b"\x05" * 32)
        assert kept is not None
        assert not kept.public
        (new,) = written(log, replace(issue(1), data=DATA.to_bytes(), public=True))
        assert (new.signed.receipt.sequence, new.public) == (2, True)
    with contextlib.closing(ReceiptLog(SqliteDatabase(path), DOMAIN, NODE)) as log:
        assert log.receipt_count() == 2


def test_open__log_of_a_newer_schema__is_refused_and_left_alone(log: ReceiptLog) -> None:
    with contextlib.closing(log.database.connect()) as connection:
        connection.execute("UPDATE meta SET value = '99' WHERE key = 'schema'")
        with pytest.raises(FatalError, match="schema 99"):
            ReceiptLog(log.database, DOMAIN, NODE)
        assert connection.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone() == ("99",)


def test_open__first_schema_of_another_node__is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "old.sqlite3"
    make_first_schema(path)
    with pytest.raises(FatalError, match="node"):
        ReceiptLog(SqliteDatabase(path), DOMAIN, CONSUMER)
    with contextlib.closing(SqliteDatabase(path).connect()) as connection:
        assert connection.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone() == ("1",)
