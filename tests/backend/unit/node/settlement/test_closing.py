"""Batches as ranges of their channels' sequences: what is open, what a batch takes, what it is worth."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from assay.chain.client import hex_bytes
from assay.chain.values import TxReceipt
from assay.commitments.merkle import merkle_root
from assay.commitments.signing import SigningKey
from assay.errors import FatalError, RetryableError
from assay.node.receipts.database import Database, SqliteDatabase
from assay.node.receipts.entries import ChannelKey, HeldVoucher, Issue, LoggedReceipt
from assay.node.receipts.log import ReceiptLog, batch_of, batch_receipts
from assay.node.receipts.schema import MIGRATIONS, TABLES, prepare_database, to_blob
from assay.node.receipts.unbatched import Exposure, Range, choose_ranges, count_open, within_rows
from assay.node.settlement import closing as closing_module
from assay.node.settlement.batches import BatchStore
from assay.node.settlement.profit import VersionProfit, read_profit
from assay.node.settlement.spending import Kind, Total, totals
from assay.node.settlement.values import Batch, BatchState, ChannelVoucher, Shares
from assay.types import ZERO_ADDRESS, ZERO_HASH, Address, Domain, Hash32, SkipReason

DOMAIN = Domain(31337, Address("0x" + "11" * 20))
NODE = SigningKey(b"\x07" * 32).address
SIGNER = SigningKey(b"\x08" * 32)
VERSION, OTHER = Hash32(b"\x01" * 32), Hash32(b"\x02" * 32)
ALICE, BOB = (SigningKey(bytes([n]) * 32).address for n in (9, 10))
PRICE = 5


class Desk:
    """A log and the settler's store over it. Time is a counter: one second a receipt."""

    def __init__(self, database: Database) -> None:
        self.now = 1_000
        self.database = database
        self.log = ReceiptLog(self.database, DOMAIN, NODE, clock=lambda: self.now)
        self.store = BatchStore(self.database, NODE)
        self.db = self.database.connect()
        self.issued = 0

    def issue(self, consumer: Address, price: int = PRICE, *, prepaid: bool = False) -> LoggedReceipt:
        self.issued += 1
        self.now += 1
        unique = Hash32(self.issued.to_bytes(32, "big"))
        paid = price and not prepaid
        held = HeldVoucher(price * self.issued, 0, b"\x01" * 65) if paid else None
        payment = unique if price else None
        item = Issue(ChannelKey(VERSION, consumer), unique, unique, price, held, payment, prepaid=prepaid)
        (logged,) = self.log.write([item], SIGNER)
        assert isinstance(logged, LoggedReceipt)
        return logged

    def close_batch(self, ranges: list[Range]) -> Batch:
        leaves = self.store.leaves(ranges)
        root = leaves.root()
        return self.store.write_batch(VERSION, root, leaves, [], self.now)

    def all_open(self, most: int = 1_000) -> list[Range]:
        return choose_ranges(self.store.open_channels(), most)

    def published(self, batch: Batch) -> list[LoggedReceipt]:
        return [one for page in batch_receipts(self.db, NODE, batch.id, 2) for one in page]

    def close(self) -> None:
        self.db.close()
        self.store.close()
        self.log.close()


@pytest.fixture
def desk(database: Database) -> Iterator[Desk]:
    made = Desk(database)
    yield made
    made.close()


def test_close__interleaved_channels__publishes_the_leaves_of_the_root(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(closing_module, "PAGE", 2)
    issued = [desk.issue(consumer) for consumer in (ALICE, BOB, ALICE, ALICE, BOB, ZERO_ADDRESS)]
    batch = desk.close_batch(desk.all_open())
    found = desk.published(batch)
    assert merkle_root([one.digest for one in found]) == batch.key.receipts_root
    assert {one.digest for one in found} == {one.digest for one in issued}
    assert (batch.receipts, batch.value) == (6, 6 * PRICE)
    assert count_open(desk.db) == 0
    assert {batch_of(desk.db, one.digest) for one in issued} == {batch.id}
    later = desk.issue(BOB)
    assert batch_of(desk.db, later.digest) is None
    assert count_open(desk.db) == 1


def test_is_disputed__receipt_of_the_batch_or_of_another__tells_them_apart(desk: Desk) -> None:
    issued = [desk.issue(consumer) for consumer in (ALICE, BOB, ALICE)]
    first, second = desk.close_batch([Range(1, 1, 1), Range(2, 1, 1)]), desk.close_batch([Range(1, 2, 2)])
    assert not desk.store.is_disputed(first)
    desk.db.execute(
        "INSERT INTO disputes (dispute_id, digest, opened_block, phase, deadline, is_ours) VALUES"
        " (1, ?, 1, 1, 1, 1)",
        (issued[2].digest,),
    )
    assert (desk.store.is_disputed(first), desk.store.is_disputed(second)) == (False, True)


def test_open_channels__oldest_first__say_what_is_open(desk: Desk) -> None:
    desk.issue(BOB)
    desk.issue(ALICE)
    desk.close_batch([Range(1, 1, 1)])
    desk.issue(BOB, 7)
    desk.issue(BOB, 0)
    first, second = desk.store.open_channels()
    assert (first.consumer, first.receipts, first.charged) == (ALICE, 1, PRICE)
    assert (second.consumer, second.receipts, second.charged) == (BOB, 2, 7)
    assert (second.oldest, second.newest) == (1_003, 1_004)
    assert first.has_paid
    assert not first.is_acknowledged


def test_choose_ranges__fewer_than_are_open__takes_the_oldest_channels_first(desk: Desk) -> None:
    for consumer in (BOB, ALICE, BOB, ALICE):
        desk.issue(consumer)
    taken = desk.all_open(3)
    assert taken == [Range(1, 1, 2), Range(2, 1, 1)]
    desk.close_batch(taken)
    assert desk.all_open() == [Range(2, 2, 2)]


def test_within_rows__more_channels_than_a_batch_has_rows_for__stops_there(desk: Desk) -> None:
    desk.issue(ALICE)
    (channel,) = desk.store.open_channels()
    assert len(within_rows([channel] * 200)) == 128


def test_write_batch__receipts_taken_meanwhile__writes_nothing(desk: Desk) -> None:
    desk.issue(ALICE)
    desk.issue(BOB)
    leaves = desk.store.leaves(desk.all_open())
    root = leaves.root()
    desk.close_batch([Range(2, 1, 1)])
    with pytest.raises(RetryableError, match="another batch"):
        desk.store.write_batch(VERSION, root, leaves, [], 0)
    assert desk.all_open() == [Range(1, 1, 1)]
    assert desk.store.exposure() == Exposure(open=PRICE, closed=PRICE)


def test_leaves__receipt_missing_from_the_log__is_fatal(desk: Desk) -> None:
    for _ in range(3):
        desk.issue(ALICE)
    desk.db.execute("DELETE FROM receipts WHERE sequence = 2")
    with pytest.raises(FatalError, match="changed from outside"):
        desk.close_batch(desk.all_open())


def test_exposure__from_issue_to_collection__follows_each_receipt_once(desk: Desk) -> None:
    desk.issue(ALICE)
    desk.issue(BOB, 7, prepaid=True)
    assert desk.store.exposure() == Exposure(open=12)
    batch = desk.close_batch(desk.all_open())
    assert batch.value == 12
    desk.issue(ALICE)
    assert desk.store.exposure() == Exposure(open=5, closed=12)
    desk.store.mark_posted(batch, 1_100, 5, None, [])
    assert desk.store.exposure() == Exposure(open=5, posted=12)
    assert desk.store.exposure().total == 17
    desk.store.mark_collected([(batch, Shares(5, 0, 0))])
    assert desk.store.exposure() == Exposure(open=5)


def tx(number: int, gas: int = 100, price: int = 10) -> TxReceipt:
    return TxReceipt(Hash32(bytes([number]) * 32), 1, ZERO_HASH, 1, gas, price, None, ())


def test_read_profit__a_version_through_its_life__adds_up(desk: Desk) -> None:
    for _ in range(2):
        desk.issue(ALICE)
    first = desk.close_batch(desk.all_open())
    desk.store.mark_posted(first, 1_100, 10, tx(1), [])
    desk.store.mark_collected([(first, Shares(6, 1, 1))], tx(2, gas=50))  # two of ten went back
    desk.issue(BOB)
    second = desk.close_batch(desk.all_open())
    desk.store.mark_posted(second, 1_200, 1_000, tx(3), [])
    desk.issue(BOB, 30, prepaid=True)
    desk.store.note_claim(tx(4, gas=1))
    desk.store.note_claim(tx(4, gas=1))  # again, as after a crash
    of_version, of_node = read_profit(desk.db, 100, {VERSION: 500})
    gas = {Kind.POST: 2_000, Kind.COLLECT: 500, Kind.CLAIM: 0, Kind.DEFEND: 0}
    assert of_version == VersionProfit(
        VERSION, receipts=4, batches=2, collected=6, royalty=1, fee=1, voided=2, pending=940, owed=25,
        prepaid=30, open=30, gas=gas,
    )  # fmt: skip
    assert of_node.gas[Kind.CLAIM] == 10
    assert of_version.profit(0) is None
    assert of_version.profit(10**18 // 1_000) == 36 - 3  # 2,500 wei at a thousandth, rounded up
    shown = of_version.to_json(0, {VERSION: "linear@1"})
    assert (shown["model"], shown["collected"], shown["profit"]) == ("linear@1", "6", None)


def test_mark_collected__several_in_one_transaction__share_its_gas(desk: Desk) -> None:
    batches = []
    for _ in range(3):
        desk.issue(ALICE)
        batches.append(desk.close_batch(desk.all_open()))
    for n, batch in enumerate(batches):
        desk.store.mark_posted(batch, 1_100, PRICE, tx(10 + n), [])
    desk.store.mark_collected([(batch, Shares(5, 0, 0)) for batch in batches], tx(2, gas=100, price=1))
    found = desk.db.execute("SELECT gas FROM spending WHERE kind = 'collect' ORDER BY batch").fetchall()
    assert [gas for (gas,) in found] == [33, 33, 34]


def test_mark_uncollected__collecting_undone__is_posted_as_if_it_had_never_been(desk: Desk) -> None:
    desk.issue(ALICE)
    batch = desk.close_batch(desk.all_open())
    desk.store.mark_posted(batch, 1_100, PRICE, tx(1), [])
    (before,) = read_profit(desk.db, 0, {})
    desk.store.note_collecting([batch], "collect:1")
    (noted,) = desk.store.posted_with("collect:1")
    desk.store.mark_collected([(noted, Shares(5, 0, 0))], tx(2))
    (collected,) = desk.store.unsettled(9)
    assert (collected.collect_key, collected.collected_block) == ("collect:1", 1)
    assert desk.store.exposure() == Exposure()
    desk.store.mark_uncollected([collected], [hex_bytes(tx(2).transaction_hash)])
    assert read_profit(desk.db, 0, {}) == [before]
    assert totals(desk.db)["collect"] == Total(0, 0, 0)
    assert desk.store.exposure() == Exposure(posted=PRICE)
    assert desk.store.posted_with("collect:1") == [noted]
    assert desk.store.unsettled(9) == []


def test_unsettled__collected_one_after_another__oldest_first_until_settled(desk: Desk) -> None:
    batches = []
    for block in (30, 10, 20):
        desk.issue(ALICE)
        batches.append(desk.close_batch(desk.all_open()))
        desk.store.mark_posted(batches[-1], 1_100, PRICE, None, [])
        desk.store.mark_collected([(batches[-1], Shares(5, 0, 0))], block=block)
    assert [batch.collected_block for batch in desk.store.unsettled(9)] == [10, 20, 30]
    (first,) = desk.store.unsettled(1)
    desk.store.settle([first])
    assert [batch.id for batch in desk.store.unsettled(9)] == [batches[2].id, batches[0].id]
    assert desk.store.exposure() == Exposure()


def test_note_failure__collecting_reverted__is_begun_no_more(desk: Desk) -> None:
    desk.issue(ALICE)
    batch = desk.close_batch(desk.all_open())
    desk.store.mark_posted(batch, 1_100, PRICE, None, [])
    desk.store.note_collecting([batch], "collect:1")
    desk.store.note_failure([batch], "settlement: batch is held", Kind.COLLECT, tx(1))
    assert desk.store.posted_with("collect:1") == []
    (after,) = desk.store.in_state(BatchState.POSTED)
    assert (after.attempt, after.collect_key) == (1, None)


def test_mark_vanished__posting_undone__forgets_what_it_cost(desk: Desk) -> None:
    desk.issue(ALICE)
    batch = desk.close_batch(desk.all_open())
    desk.store.mark_posted(batch, 1_100, PRICE, tx(1), [])
    desk.store.mark_vanished(batch)
    assert desk.db.execute("SELECT count(*) FROM spending").fetchone() == (0,)
    assert desk.store.has_closed(VERSION)
    desk.store.mark_posted(batch, 1_200, PRICE, tx(1, price=30), [])  # mined again, at another price
    assert totals(desk.db) == {"post": Total(1, 100, 3_000)}


def test_mark_vanished__a_row_was_skipped__is_looked_at_anew(desk: Desk) -> None:
    """Where it is posted again the wallet may pay, and must not be refused for what a reorg undid."""
    desk.issue(ALICE)
    voucher = ChannelVoucher(1, ALICE, HeldVoucher(PRICE, 0, b"signature", wallet=True))
    leaves = desk.store.leaves(desk.all_open())
    batch = desk.store.write_batch(VERSION, leaves.root(), leaves, [voucher], desk.now)
    desk.store.mark_posted(batch, 1_100, 0, None, [(ALICE, SkipReason.BAD_SIGNATURE)])
    skipped = "SELECT skip_reason FROM batch_vouchers"
    assert desk.db.execute(skipped).fetchone() == (SkipReason.BAD_SIGNATURE,)
    desk.store.mark_vanished(batch)
    assert desk.db.execute(skipped).fetchone() == (None,)


def test_mark_vanished__an_attempt_before_was_mined_and_reverted__its_cost_stays(desk: Desk) -> None:
    desk.issue(ALICE)
    batch = desk.close_batch(desk.all_open())
    desk.store.note_failure([batch], "settlement: no", receipt=tx(1, gas=40))
    desk.store.mark_posted(batch, 1_100, PRICE, tx(2), [])
    desk.store.mark_vanished(batch)
    assert totals(desk.db) == {"post": Total(1, 40, 400)}
    desk.store.mark_posted(batch, 1_200, PRICE, tx(3), [])
    assert totals(desk.db) == {"post": Total(2, 140, 1_400)}
    (row,) = read_profit(desk.db, 0, {})
    assert row.gas[Kind.POST] == 1_400


def test_mark_vanished__another_hand_posted_it_at_last__what_reverted_stays(desk: Desk) -> None:
    desk.issue(ALICE)
    batch = desk.close_batch(desk.all_open())
    desk.store.mark_posted(batch, 1_100, PRICE, tx(1), [])
    desk.store.mark_vanished(batch)
    desk.store.note_failure([batch], "settlement: batch is posted", receipt=tx(1, gas=40))  # mined again
    desk.store.mark_posted(batch, 1_200, PRICE, None, [])
    desk.store.mark_vanished(batch)
    assert totals(desk.db) == {"post": Total(1, 40, 400)}


def test_note_failure__mined_and_reverted__counts_its_gas(desk: Desk) -> None:
    desk.issue(ALICE)
    batch = desk.close_batch(desk.all_open())
    desk.store.note_failure([batch], "settlement: no", receipt=tx(1))
    assert desk.db.execute("SELECT gas, kind FROM spending").fetchall() == [(100, "post")]
    assert desk.db.execute("SELECT attempt, error FROM batches").fetchall() == [(1, "settlement: no")]


LEAVES = (ALICE, BOB, BOB, ALICE, ZERO_ADDRESS, ALICE)


def make_third_schema(path: Path) -> list[bytes]:
    """A log as the third schema had it, one batch of interleaved channels and one receipt in none; the
    batch's digests in leaf order."""
    meta = {"schema": "3", "node": NODE, "chain_id": str(DOMAIN.chain_id), "settlement": DOMAIN.settlement}
    with closing(sqlite3.connect(path)) as db:
        for script in (TABLES, MIGRATIONS[2], MIGRATIONS[3]):
            db.executescript(script)
        db.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
        db.execute(
            "INSERT INTO batches (batch_id, version_id, receipts_root, receipts, state, closed_at) VALUES"
            " (?, ?, ?, 6, 'closed', 1)",
            (b"\x05" * 32, VERSION, b"\x06" * 32),
        )
        sequences: dict[str, int] = {}
        for number, consumer in enumerate((*LEAVES, BOB)):
            sequences[consumer] = sequences.get(consumer, 0) + 1
            db.execute(
                "INSERT OR IGNORE INTO channels (version_id, consumer) VALUES (?, ?)",
                (VERSION, consumer),
            )
            db.execute(
                "UPDATE channels SET sequence = ?, charged = ? WHERE consumer = ?",
                (sequences[consumer], to_blob(PRICE * sequences[consumer]), consumer),
            )
            db.execute(
                "INSERT INTO receipts (channel, sequence, version_id, digest, input_hash, output_hash, price,"
                " executed_at, signature, batch) VALUES ((SELECT id FROM channels WHERE consumer = ?),"
                " ?, ?, ?, ?, ?, ?, 7, ?, ?)",
                (consumer, sequences[consumer], VERSION, bytes([number]) * 32, VERSION, VERSION,
                 to_blob(PRICE), b"\x01" * 65, 1 if number < len(LEAVES) else None),
            )  # fmt: skip
        db.commit()
    return [bytes([number]) * 32 for number in range(len(LEAVES))]


def test_prepare_database__log_of_the_third_schema__keeps_the_order_of_its_leaves(tmp_path: Path) -> None:
    leaves = make_third_schema(tmp_path / "log.sqlite3")
    with closing(prepare_database(SqliteDatabase(tmp_path / "log.sqlite3"), DOMAIN, NODE)) as db:
        found = [one.digest for page in batch_receipts(db, NODE, 1, 100) for one in page]
        assert found == leaves
        assert count_open(db) == 1
        assert db.execute("SELECT value FROM batches").fetchone() == (to_blob(6 * PRICE),)
    store = BatchStore(SqliteDatabase(tmp_path / "log.sqlite3"), NODE)
    (channel,) = store.open_channels()
    store.close()
    assert (channel.consumer, channel.closed, channel.charged) == (BOB, 2, PRICE)
