"""Profit and loss day by day."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from assay.chain.outbox import Outbox
from assay.chain.values import TxReceipt
from assay.commitments.authorizations import Authorization
from assay.commitments.signing import SigningKey
from assay.node.receipts.database import Connection, Database
from assay.node.receipts.entries import ChannelKey, HeldVoucher, Issue
from assay.node.receipts.log import ReceiptLog
from assay.node.receipts.schema import to_blob
from assay.node.settlement.daily import DAY_SECONDS, DayProfit, read_days, times_of
from assay.node.settlement.profit import read_profit
from assay.node.settlement.spending import Kind, record
from assay.node.x402.payments import PaymentRow, PaymentStore
from assay.types import ZERO_ADDRESS, Address, Domain, Hash32

SIGNER = SigningKey(b"\x08" * 32)
CONSUMER = SigningKey(b"\x09" * 32).address
DAY = 20_000
"""2024-10-04."""
ONE, TWO = Hash32(b"\x01" * 32), Hash32(b"\x02" * 32)


def word(number: int) -> Hash32:
    return Hash32(number.to_bytes(32, "big"))


@dataclass
class Book:
    """A log and an outbox; `now` is the clock's."""

    log: ReceiptLog
    db: Connection
    outbox: Path | None
    now: int = DAY * DAY_SECONDS
    issued: int = 0

    def receipt(self, version: Hash32, price: int, *, prepaid: bool = False) -> None:
        self.issued += 1
        name = word(self.issued)
        held = HeldVoucher(price * self.issued, 0, b"\x01" * 65) if price and not prepaid else None
        if prepaid:
            given = Authorization(CONSUMER, ZERO_ADDRESS, price, 0, 9, name)
            with contextlib.closing(PaymentStore(self.log.database)) as store:
                store.note(PaymentRow(name, None, version, name, price, given))
        issue = Issue(ChannelKey(version, CONSUMER), name, name, price, held, name, prepaid=prepaid)
        self.log.write([issue], SIGNER)

    def batch(self, number: int, version: Hash32, amount: int, mine: int | None = None) -> None:
        parts = (None, None, None) if mine is None else (to_blob(mine), to_blob(1), to_blob(0))
        self.db.execute(
            "INSERT INTO batches (id, batch_id, version_id, receipts_root, receipts, state, closed_at,"
            " posted_at, amount, node_amount, royalty, fee) VALUES (?, ?, ?, ?, 1, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(number, word(number), version, word(0), "posted" if mine is None else "collected"),
                *(self.now, self.now, to_blob(amount), *parts),
            ),
        )

    def spend(
        self, number: int, kind: Kind, shares: list[tuple[int, Hash32 | None]], sent: int | None
    ) -> None:
        """1,000 wei; `sent` None: no outbox knows it."""
        record(self.db, kind, TxReceipt(word(number), 1, word(0), 1, 100, 10, None, ()), shares)
        if sent is None:
            return
        with contextlib.ExitStack() as stack:
            if self.outbox is None:
                place = self.db
            else:
                place = stack.enter_context(contextlib.closing(Outbox(self.outbox)))._db  # type: ignore[assignment]
            columns = "id, chain_id, sender, key, nonce, data, value, gas, label, state, created_at"
            place.execute(
                f"INSERT INTO intents ({columns}) VALUES (?, 1, 's', ?, ?, ?, '0', 1, 'l', 'mined', ?)",
                (number, str(number), number, b"", float(sent)),
            )
            place.execute(
                "INSERT INTO attempts (hash, intent_id, raw, max_fee, created_at) VALUES (?, ?, ?, '1', ?)",
                (word(number), number, b"", float(sent)),
            )

    def days(self, first: int = 0) -> dict[tuple[int | None, Hash32 | None], DayProfit]:
        times = times_of(self.db, self.outbox, lambda block: block * 10)
        return {(row.day, row.version_id): row for row in read_days(self.db, times, first)}


@pytest.fixture
def book(database: Database, tmp_path: Path) -> Iterator[Book]:
    clock: list[Book] = []
    domain = Domain(1, Address("0x" + "11" * 20))
    log = ReceiptLog(database, domain, SIGNER.address, clock=lambda: clock[0].now)
    with contextlib.closing(database.connect()) as connection:
        clock.append(Book(log, connection, None if database.is_shared else tmp_path / "outbox.sqlite3"))
        yield clock[0]
    log.close()


def test_read_days__receipts_of_two_days__are_parted_at_midnight(book: Book) -> None:
    book.receipt(ONE, 5)
    book.now += DAY_SECONDS - 1
    book.receipt(ONE, 5)
    book.receipt(TWO, 0)
    book.now += 1
    book.receipt(ONE, 7, prepaid=True)
    found = book.days()
    assert {key: (row.receipts, row.charged, row.prepaid) for key, row in found.items()} == {
        (DAY, ONE): (2, 10, 0),
        (DAY, TWO): (1, 0, 0),
        (DAY + 1, ONE): (1, 7, 7),
    }
    assert set(book.days(DAY + 1)) == {(DAY + 1, ONE)}


def test_read_days__batch_posted_and_collected_days_later__counts_each_on_its_day(book: Book) -> None:
    book.batch(1, ONE, 10, 9)
    book.batch(2, TWO, 4)
    start = book.now
    book.spend(11, Kind.POST, [(1, ONE)], start)
    book.spend(12, Kind.POST, [(2, TWO)], None)  # by the batch's posting
    book.spend(13, Kind.COLLECT, [(1, ONE)], start + 3 * DAY_SECONDS)
    book.spend(14, Kind.CLAIM, [(0, None)], start + 4 * DAY_SECONDS)
    book.spend(15, Kind.DEFEND, [(0, ONE)], None)
    found = book.days()
    assert set(found) == {(DAY, ONE), (DAY, TWO), (DAY + 3, ONE), (DAY + 4, None), (None, ONE)}
    assert (found[DAY, ONE].posted, found[DAY, ONE].collected) == (10, 0)
    late = found[DAY + 3, ONE]
    assert (late.collected, late.royalty, late.fee, late.voided) == (9, 1, 0, 0)
    assert late.profit(10**15) == 9 - 1
    assert late.profit(0) is None
    assert found[DAY + 4, None].gas[Kind.CLAIM] == 1_000
    assert late.to_json(0, {ONE: "digits"}) | {"gas_wei": None} == {
        **{"day": "2024-10-07", "version_id": "0x" + ONE.hex(), "model": "digits", "receipts": 0},
        **{"charged": "0", "prepaid": "0", "posted": "0", "collected": "9", "royalty": "1", "fee": "0"},
        **{"voided": "0", "slashed": "0", "gas_wei": None, "profit": None},
    }


def test_read_days__all_of_them__add_up_to_the_whole(book: Book) -> None:
    for day in range(5):
        for version in (ONE, TWO):
            book.receipt(version, 5 + day)
            book.receipt(version, 3, prepaid=True)
        book.batch(day + 1, ONE, 10 + day, 9 + day if day % 2 else None)
        book.spend(20 + day, Kind.POST, [(day + 1, ONE)], book.now if day else None)
        book.spend(30 + day, Kind.COLLECT, [(day + 1, ONE), (9, TWO)], book.now if day != 3 else None)
        book.now += DAY_SECONDS * 3 // 2
    book.db.execute(
        "INSERT INTO disputes (dispute_id, digest, opened_block, phase, deadline, is_ours, outcome,"
        " closed_block, slashed) SELECT 1, digest, 1, 1, 1, 1, 'lost', ?, ? FROM receipts"
        " WHERE sequence = 1 AND version_id = ?",
        (DAY * DAY_SECONDS // 10, to_blob(77), ONE),
    )
    rows = list(book.days().values())
    assert [row.slashed for row in rows if row.slashed] == [77]
    for whole in read_profit(book.db, 0, {}):
        parts = [row for row in rows if row.version_id == whole.version_id]
        for name in ("receipts", "collected", "royalty", "fee", "voided", "prepaid", "slashed"):
            assert sum(getattr(row, name) for row in parts) == getattr(whole, name), name
        for kind in Kind:
            assert sum(row.gas[kind] for row in parts) == whole.gas[kind]


def test_times_of__no_outbox__knows_nothing(book: Book, tmp_path: Path) -> None:
    times = times_of(book.db, tmp_path / "gone.sqlite3", int)
    assert times.sent == {}
    assert not (tmp_path / "gone.sqlite3").exists()
