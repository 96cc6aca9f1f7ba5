"""What is kept of receipts, and until when."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from assay.commitments.signing import SigningKey
from assay.node import views
from assay.node.receipts import postgresql, retention
from assay.node.receipts.database import Database
from assay.node.receipts.entries import ChannelKey, HeldVoucher, Issue, LoggedReceipt
from assay.node.receipts.log import ReceiptLog, batch_receipts, read_data
from assay.node.receipts.retention import Retention
from assay.node.receipts.unbatched import choose_ranges
from assay.node.settlement.batches import BatchStore
from assay.node.settlement.values import Batch, Shares
from assay.node.views import batch_lines
from assay.types import ZERO_ADDRESS, Address, Domain, Hash32

from tests.backend.unit.node.receipts.test_log import DATA

DOMAIN = Domain(31337, Address("0x" + "11" * 20))
NODE = SigningKey(b"\x07" * 32).address
SIGNER = SigningKey(b"\x08" * 32)
VERSION = Hash32(b"\x01" * 32)
EXECUTED_AT = 1_000
POSTED_AT = 1_100
WINDOW = 600
KEEP = Retention(WINDOW, free_receipts=False)


class Kept:
    """A log with a paid receipt and a free one, both with data."""

    def __init__(self, database: Database) -> None:
        self.log = ReceiptLog(database, DOMAIN, NODE, clock=lambda: EXECUTED_AT)
        self.store = BatchStore(self.log.database, NODE)
        self.db = self.log.database.connect()
        self.consumer = SigningKey(b"\x09" * 32).address
        self.paid, self.free = (self.issue(1, 5), self.issue(2, 0))

    def issue(self, n: int, price: int) -> LoggedReceipt:
        key = ChannelKey(VERSION, self.consumer if price else ZERO_ADDRESS)
        voucher = HeldVoucher(price * n, 0, b"\x01" * 65) if price else None
        hashes = Hash32(bytes([n]) * 32), Hash32(b"\x22" * 32)
        payment = Hash32(bytes([n]) * 32) if price else None
        item = replace(Issue(key, *hashes, price, voucher, payment), data=DATA.to_bytes())
        (logged,) = self.log.write([item], SIGNER)
        assert logged is not None
        return logged

    def close_batch(self, *, free_receipts: bool = False) -> Batch:
        channels = [c for c in self.store.open_channels() if free_receipts or c.charged]
        ranges = choose_ranges(channels, 100)
        leaves = self.store.leaves(ranges)
        root = leaves.root()
        return self.store.write_batch(VERSION, root, leaves, [], EXECUTED_AT)

    def has(self, logged: LoggedReceipt) -> bool:
        return read_data(self.db, logged.digest) is not None

    def dispute(self, logged: LoggedReceipt, outcome: str | None = None) -> None:
        self.db.execute(
            "INSERT INTO disputes (dispute_id, digest, opened_block, phase, deadline, is_ours, outcome)"
            " VALUES (1, ?, 1, 1, 9, 1, ?) ON CONFLICT (dispute_id) DO UPDATE SET outcome = excluded.outcome",
            (logged.digest, outcome),
        )

    def close(self) -> None:
        self.db.close()
        self.store.close()
        self.log.close()


@pytest.fixture
def kept(database: Database) -> Iterator[Kept]:
    made = Kept(database)
    yield made
    made.close()


def test_prune__batch_collected_and_window_passed__drops_its_data_alone(kept: Kept) -> None:
    batch = kept.close_batch()
    kept.store.mark_posted(batch, POSTED_AT, 5, None, [])
    assert Retention(WINDOW, free_receipts=True).prune(kept.db, POSTED_AT + WINDOW + 1) == 0
    kept.store.mark_collected([(batch, Shares(5, 0, 0))])
    free_too = Retention(WINDOW, free_receipts=True)
    assert free_too.prune(kept.db, POSTED_AT + WINDOW) == 0
    assert kept.has(kept.paid)
    assert free_too.prune(kept.db, POSTED_AT + WINDOW + 1) == 1
    assert (kept.has(kept.paid), kept.has(kept.free)) == (False, True)
    assert kept.log.receipt(kept.paid.digest) == kept.paid


def test_prune__collected_where_a_reorg_may_undo_it__keeps_what_a_dispute_needs(kept: Kept) -> None:
    batch = kept.close_batch()
    kept.store.mark_posted(batch, POSTED_AT, 5, None, [])
    kept.store.mark_collected([(batch, Shares(5, 0, 0))], block=7)
    everything = Retention(WINDOW, free_receipts=True, keep_seconds=1)
    assert everything.prune(kept.db, POSTED_AT + 9 * WINDOW) == 0
    kept.store.settle([batch])
    assert everything.prune(kept.db, POSTED_AT + 9 * WINDOW) > 0
    assert not kept.has(kept.paid)


def test_prune__executed_by_a_clock_that_ran_ahead__keeps_what_can_be_disputed_beside_its_batch(
    kept: Kept,
) -> None:
    batch = kept.close_batch()
    kept.store.mark_posted(batch, POSTED_AT, 5, None, [])
    kept.store.mark_collected([(batch, Shares(5, 0, 0))])
    ahead = POSTED_AT + 300
    kept.db.execute("UPDATE receipts SET executed_at = ?", (ahead,))
    assert KEEP.prune(kept.db, ahead + WINDOW) == 0
    assert KEEP.prune(kept.db, ahead + WINDOW + 1) == 2


def test_prune__dispute_open_of_a_final_receipt__keeps_its_data_until_it_is_closed(kept: Kept) -> None:
    """One that was opened before the batch was posted may last longer than the batch's window."""
    batch = kept.close_batch()
    kept.store.mark_posted(batch, POSTED_AT, 5, None, [])
    kept.store.mark_collected([(batch, Shares(5, 0, 0))])
    kept.dispute(kept.paid)
    kept.dispute(kept.paid)
    assert KEEP.prune(kept.db, POSTED_AT + 9 * WINDOW) == 1  # the free one
    assert kept.has(kept.paid)
    kept.dispute(kept.paid, "won")
    assert KEEP.prune(kept.db, POSTED_AT + 9 * WINDOW) == 1
    assert not kept.has(kept.paid)


def test_prune__paid_receipt_in_no_batch__is_kept_for_ever(kept: Kept) -> None:
    KEEP.prune(kept.db, EXECUTED_AT + 99 * WINDOW)
    assert kept.has(kept.paid)


def test_prune__free_receipt_never_batched__is_retired_and_stays_out_of_batches(kept: Kept) -> None:
    assert KEEP.prune(kept.db, EXECUTED_AT + WINDOW) == 0
    assert kept.has(kept.free)
    assert KEEP.prune(kept.db, EXECUTED_AT + WINDOW + 1) == 1
    assert not kept.has(kept.free)
    assert kept.log.receipt(kept.free.digest) is None
    later = kept.issue(3, 0)
    batch = kept.close_batch(free_receipts=True)
    assert batch.receipts == 2
    assert published(kept, batch) == [kept.paid, later]


def published(kept: Kept, batch: Batch) -> list[LoggedReceipt]:
    return [one for page in batch_receipts(kept.db, NODE, batch.id, 1) for one in page]


def test_prune__free_receipts_are_batched__keeps_them(kept: Kept) -> None:
    assert Retention(WINDOW, free_receipts=True).prune(kept.db, EXECUTED_AT + 99 * WINDOW) == 0
    assert kept.has(kept.free)


def test_prune__more_than_one_step__drops_so_many_and_goes_on(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "ROWS_A_STEP", 2)
    for n in range(3, 6):
        kept.issue(n, 0)
    late = EXECUTED_AT + WINDOW + 1
    assert [KEEP.prune(kept.db, late) for _ in range(3)] == [2, 2, 0]


def test_prune__receipt_taken_by_a_batch_meanwhile__keeps_its_data(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch is closed between the look and the write."""
    forget = Retention._forget

    def raced(*arguments: Any) -> bool:
        kept.close_batch(free_receipts=True)
        return forget(*arguments)

    monkeypatch.setattr(Retention, "_forget", staticmethod(raced))
    assert KEEP.prune(kept.db, EXECUTED_AT + WINDOW + 1) == 0
    assert kept.has(kept.free)
    assert kept.log.receipt(kept.free.digest) == kept.free


def test_prune__dispute_open_of_a_free_receipt__keeps_it_alone_until_it_is_closed(kept: Kept) -> None:
    later = kept.issue(3, 0)
    kept.dispute(kept.free)
    assert KEEP.prune(kept.db, EXECUTED_AT + WINDOW + 1) == 1
    assert (kept.has(kept.free), kept.has(later)) == (True, False)
    assert KEEP.prune(kept.db, EXECUTED_AT + WINDOW + 1) == 0
    kept.dispute(kept.free, "won")
    assert KEEP.prune(kept.db, EXECUTED_AT + WINDOW + 1) == 1
    assert kept.log.receipt(kept.free.digest) is None
    assert [c.receipts for c in kept.store.open_channels()] == [1]  # the paid one


def test_prune__batch_older_than_receipts_are_kept__drops_them_and_serves_it_no_more(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "ROWS_A_STEP", 2)
    for n in range(3, 6):
        kept.issue(n, 5)
    batch = kept.close_batch()
    assert batch.receipts == 4
    kept.store.mark_posted(batch, POSTED_AT, 5, None, [])
    kept.store.mark_collected([(batch, Shares(5, 0, 0))])
    brief = Retention(WINDOW, free_receipts=True, keep_seconds=2 * WINDOW)
    assert sum(brief.prune(kept.db, POSTED_AT + 2 * WINDOW) for _ in range(4)) == 4  # tensors alone
    lines = b"".join(batch_lines(kept.log.database, DOMAIN, batch.batch_id)).splitlines()
    assert len(lines) == 1 + 4
    late = POSTED_AT + 2 * WINDOW + 1
    assert brief.prune(kept.db, late) == 2
    assert list(batch_lines(kept.log.database, DOMAIN, batch.batch_id)) == []
    assert [brief.prune(kept.db, late) for _ in range(3)] == [2, 0, 0]
    assert kept.log.receipt(kept.paid.digest) is None
    assert kept.log.receipt(kept.free.digest) == kept.free
    assert kept.issue(6, 5).signed.receipt.sequence == 5


def test_batch_lines__more_slow_readers_than_sessions__leave_the_log_to_others(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "PAGE", 2)
    monkeypatch.setattr(postgresql, "SESSION_WAIT_SECONDS", 0.2)
    for n in range(3, 8):
        kept.issue(n, 5)
    batch = kept.close_batch()
    database = kept.log.database
    readers = [batch_lines(database, DOMAIN, batch.batch_id) for _ in range(postgresql.MAX_SESSIONS + 1)]
    begun = [next(reader) + next(reader) for reader in readers]
    with database.session() as connection:
        assert connection.execute("SELECT count(*) FROM batches").fetchone() == (1,)
    whole = {first + b"".join(reader) for first, reader in zip(begun, readers, strict=True)}
    assert [len(text.splitlines()) for text in whole] == [1 + 6]
