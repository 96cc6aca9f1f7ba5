"""Receipts through the journal: on disk before anybody has them, in the log soon after, come what may."""

from __future__ import annotations

import asyncio
import math
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from assay.commitments.receipts import receipt_digest
from assay.commitments.signing import SigningKey, verify_signer
from assay.errors import FatalError
from assay.node.receipts import imports, journal_writer
from assay.node.receipts.database import SqliteDatabase
from assay.node.receipts.entries import Acknowledge, ChannelKey, HeldVoucher, Issue, LoggedReceipt
from assay.node.receipts.journal import NAMES
from assay.node.receipts.journal_mark import open_journal, read_mark
from assay.node.receipts.journal_writer import JournalWriter
from assay.node.receipts.log import ReceiptLog
from assay.types import Address, Domain, Hash32

pytestmark = pytest.mark.network  # an event loop needs a socket pair

DOMAIN = Domain(1, Address("0x" + "11" * 20))
NODE = SigningKey(b"\x07" * 32).address
SIGNER = SigningKey(b"\x08" * 32)
KEYS = [ChannelKey(Hash32(b"\x01" * 32), SigningKey(bytes([n]) * 32).address) for n in range(9, 13)]


@pytest.fixture(params=[0.0, math.inf], ids=["in a thread", "in the loop"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the journal is written, however fast this disk is."""
    monkeypatch.setattr(journal_writer, "INLINE_SECONDS", request.param)


def open_log(folder: Path) -> ReceiptLog:
    return ReceiptLog(SqliteDatabase(folder / "log.sqlite3"), DOMAIN, NODE)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[ReceiptLog]:
    made = open_log(tmp_path)
    yield made
    made.close()


def open_writer(log: ReceiptLog, folder: Path, failures: list[FatalError] | None = None) -> JournalWriter:
    def fail(error: FatalError) -> None:
        assert failures is not None, error
        failures.append(error)

    assert isinstance(log.database, SqliteDatabase)
    return JournalWriter(log, open_journal(log.database, folder, 1 << 16), SIGNER, fail)


def issue(payment: int, key: ChannelKey = KEYS[0], *, amount: int = 0, **options: object) -> Issue:
    unique = Hash32(payment.to_bytes(32, "big"))
    voucher = HeldVoucher(amount, 0, b"s" * 65) if amount else None
    return Issue(key, unique, unique, 1, voucher, unique, **options)  # type: ignore[arg-type]


def crash(writer: JournalWriter) -> None:
    """As if the process was killed: nothing more reaches the log's tables."""
    writer._imports.add = lambda *_: None  # type: ignore[method-assign]
    writer._imports._groups.clear()


@pytest.mark.usefixtures("place")
def test_submit__many_at_once__sequences_without_gaps_in_journal_and_log(
    log: ReceiptLog, tmp_path: Path
) -> None:
    async def scenario() -> list[LoggedReceipt]:
        writer = open_writer(log, tmp_path)
        writer.start()
        items = [issue(n, KEYS[n % 4]) for n in range(1, 1200)]
        found = await asyncio.gather(*map(writer.submit, items))
        assert writer.pending + log_count(tmp_path) >= len(items)
        await writer.stop()
        return [receipt for receipt in found if receipt]

    receipts = asyncio.run(scenario())
    for key in KEYS:
        own = [r.signed.receipt.sequence for r in receipts if r.signed.receipt.consumer == key.consumer]
        assert own == list(range(1, len(own) + 1))
        assert log.channel(key).sequence == len(own)
    for found in receipts[::97]:
        assert found.digest == receipt_digest(DOMAIN, found.signed.receipt)
        verify_signer(found.digest, found.signed.signature, SIGNER.address)
        assert log.receipt(found.digest) == found
    assert log_count(tmp_path) == len(receipts)


def test_submit__disk_becomes_fast_while_a_thread_writes__is_taken_into_the_log_in_order(
    log: ReceiptLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A group that a thread wrote comes before the next one, which the event loop writes."""
    told: list[int] = []

    async def scenario() -> None:
        writer = open_writer(log, tmp_path)
        writer.start()
        for number in range(1, 41, 2):
            monkeypatch.setattr(journal_writer, "INLINE_SECONDS", 0.0)
            first = writer.submit(issue(number))
            await asyncio.sleep(0)  # the thread has it
            second = writer.submit(issue(number + 1))
            monkeypatch.setattr(journal_writer, "INLINE_SECONDS", math.inf)
            for outcome in await asyncio.gather(first, second):
                assert outcome is not None
                told.append(outcome.signed.receipt.sequence)
        await writer.stop()

    asyncio.run(scenario())
    assert told == list(range(1, 41))
    assert log.channel(KEYS[0]).sequence == log_count(tmp_path) == 40


def log_count(folder: Path) -> int:
    """Receipts in the tables, as another process sees them."""
    connection = sqlite3.connect(folder / "log.sqlite3")
    (count,) = connection.execute("SELECT count(*) FROM receipts").fetchone()
    connection.close()
    return int(count)


@pytest.mark.usefixtures("place")
def test_put__outcome_told__journal_has_it(log: ReceiptLog, tmp_path: Path) -> None:
    """Whoever has a receipt can rely on it being read again after a crash."""
    seen: list[tuple[int, bool]] = []

    async def scenario() -> None:
        writer = open_writer(log, tmp_path)
        writer.start()
        ended = asyncio.Event()

        def done(outcome: LoggedReceipt | Exception | None) -> None:
            assert isinstance(outcome, LoggedReceipt)
            frames = b"".join(frame.payload for frame in writer._journal.frames())
            seen.append((outcome.signed.receipt.sequence, frames.find(outcome.digest) >= 0))
            if len(seen) == 50:
                ended.set()

        for n in range(1, 51):
            writer.put(issue(n), done)
            await asyncio.sleep(0)
        await ended.wait()
        await writer.stop()

    asyncio.run(scenario())
    assert seen == [(n, True) for n in range(1, 51)]


@pytest.mark.usefixtures("place")
def test_put__not_on_disk_yet__is_shown_to_nobody(log: ReceiptLog, tmp_path: Path) -> None:
    """Whoever guesses a receipt's digest has no signature before it is on disk."""

    async def scenario() -> None:
        writer = open_writer(log, tmp_path)
        writer.start()
        future = writer.submit(issue(1))
        assert log.pending is not None
        ((digest, _),) = log.pending.by_digest.items()
        assert log.receipt(digest) is None
        assert log.receipt_paid_by(Hash32((1).to_bytes(32, "big"))) is None
        found = await future
        assert found is not None
        assert log.receipt(digest) == found
        await writer.stop()

    asyncio.run(scenario())


@pytest.mark.usefixtures("place")
def test_put__one_that_waits_breaks__tells_the_others(log: ReceiptLog, tmp_path: Path) -> None:
    async def scenario() -> None:
        writer = open_writer(log, tmp_path)
        writer.start()

        def breaks(outcome: object) -> None:
            raise ValueError("what the caller does with it")

        writer.put(issue(1), breaks)
        found = await asyncio.wait_for(writer.submit(issue(2)), 5)
        assert found is not None
        await asyncio.wait_for(writer.stop(), 5)

    asyncio.run(scenario())
    assert log_count(tmp_path) == 2


def test_start__after_a_crash__takes_the_journal_in_once(tmp_path: Path) -> None:
    async def serve(first: int, last: int) -> list[LoggedReceipt | None]:
        log = open_log(tmp_path)
        writer = open_writer(log, tmp_path)
        writer.start()
        work = [writer.submit(issue(n, KEYS[n % 2], amount=n)) for n in range(first, last)]
        found = [await future for future in work]
        crash(writer)
        await writer.stop()
        log.close()
        return found

    receipts = []
    for round_ in range(4):
        receipts += asyncio.run(serve(round_ * 20 + 1, round_ * 20 + 21))
    log = open_log(tmp_path)
    writer = open_writer(log, tmp_path)
    assert log_count(tmp_path) == 80
    for found in receipts:
        assert found is not None
        assert log.receipt(found.digest) == found
    assert [log.channel(key).sequence for key in KEYS[:2]] == [40, 40]
    assert [log.channel(key).amount for key in KEYS[:2]] == [80, 79]
    assert log.channel(KEYS[0]).charged == 40
    writer._connection.close()
    writer._journal.close()
    log.close()


def test_put__not_in_the_tables_yet__is_found_by_whoever_reads_the_log(
    log: ReceiptLog, tmp_path: Path
) -> None:
    async def scenario() -> None:
        writer = open_writer(log, tmp_path)
        writer.start()
        found = await writer.submit(issue(1, amount=7))
        assert found is not None
        assert log_count(tmp_path) == 0
        assert log.receipt(found.digest) == found
        assert log.receipt_paid_by(Hash32((1).to_bytes(32, "big"))) == found
        (state,) = log.channels_of(KEYS[0].consumer)
        assert state == log.channel(KEYS[0])
        assert (state.sequence, state.charged, state.amount) == (1, 1, 7)
        assert log.pending is not None and log.pending.value == 1
        await writer.stop()

    asyncio.run(scenario())
    assert log.pending is not None
    assert len(log.pending) == log.pending.size == log.pending.value == 0
    assert log.channel(KEYS[0]).amount == 7


@pytest.mark.parametrize("prepaid", [False, True])
@pytest.mark.parametrize("restart", [False, True])
def test_put__payment_used_twice__is_refused_that_once(tmp_path: Path, prepaid: bool, restart: bool) -> None:
    async def serve(*payments: int) -> list[object]:
        log = open_log(tmp_path)
        writer = open_writer(log, tmp_path)
        writer.start()
        found: list[object] = []
        for n in payments:
            try:
                found.append(await writer.submit(issue(n, prepaid=prepaid)))
            except sqlite3.IntegrityError as error:
                found.append(error)
        await writer.stop()
        log.close()
        return found

    found = asyncio.run(serve(1, 2)) + asyncio.run(serve(2, 3)) if restart else asyncio.run(serve(1, 2, 2, 3))
    assert [isinstance(one, sqlite3.IntegrityError) for one in found] == [False, False, True, False]
    assert log_count(tmp_path) == 3


def test_put__cannot_be_written__takes_no_sequence(log: ReceiptLog, tmp_path: Path) -> None:
    """A gap would stop this node for good."""

    async def scenario() -> LoggedReceipt | None:
        writer = open_writer(log, tmp_path)
        writer.start()
        with pytest.raises(OverflowError):
            writer.submit(issue(1, amount=1 << 128))
        assert (log.channel(KEYS[0]).sequence, len(writer._pending)) == (0, 0)
        found = await writer.submit(issue(1, amount=1))
        await writer.stop()
        return found

    found = asyncio.run(scenario())
    assert found is not None
    assert found.signed.receipt.sequence == log_count(tmp_path) == 1


def test_put__acknowledgement__raises_what_is_held(log: ReceiptLog, tmp_path: Path) -> None:
    async def scenario() -> None:
        writer = open_writer(log, tmp_path)
        writer.start()
        await writer.submit(issue(1, amount=9))
        assert await writer.submit(Acknowledge(KEYS[0], HeldVoucher(9, 1, b"t" * 65))) is None
        await writer.submit(Acknowledge(KEYS[0], HeldVoucher(8, 1, b"u" * 65)))
        await writer.stop()

    asyncio.run(scenario())
    held = log.channel(KEYS[0]).voucher
    assert held == HeldVoucher(9, 1, b"t" * 65)


def test_put__data_and_public__are_in_the_log(log: ReceiptLog, tmp_path: Path) -> None:
    async def scenario() -> LoggedReceipt | None:
        writer = open_writer(log, tmp_path)
        writer.start()
        found = await writer.submit(issue(1, data=b"content", public=True))
        await writer.stop()
        return found

    found = asyncio.run(scenario())
    assert found is not None
    assert found.public
    assert log.receipt(found.digest) == found
    connection = sqlite3.connect(tmp_path / "log.sqlite3")
    assert connection.execute("SELECT content FROM receipt_data").fetchall() == [(b"content",)]
    connection.close()


@pytest.mark.usefixtures("place")
def test_put__disk_fails__refuses_this_and_everything_after(
    log: ReceiptLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures: list[FatalError] = []

    def full(*_: object) -> int:
        raise FatalError("no space")

    async def scenario() -> None:
        writer = open_writer(log, tmp_path, failures)
        writer.start()
        monkeypatch.setattr(writer._journal, "append", full)
        results = await asyncio.gather(*(writer.submit(issue(n)) for n in (1, 2)), return_exceptions=True)
        assert [str(result) for result in results] == ["no space"] * 2
        with pytest.raises(FatalError):
            writer.submit(issue(3))
        assert log.receipt_paid_by(Hash32((1).to_bytes(32, "big"))) is None
        await writer.stop()

    asyncio.run(scenario())
    assert len(failures) == 1
    assert log_count(tmp_path) == 0


def test_replay__log_older_than_the_journal__is_fatal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log is an old copy and the journal is not: signing on could contradict receipts."""
    monkeypatch.setattr(imports, "SYNC_BYTES", 1)  # the journal's segments, as small as here, are used again

    async def serve(folder: Path) -> None:
        log = open_log(folder)
        writer = open_writer(log, folder)
        writer.start()
        for n in range(1, 700):
            await writer.submit(issue(n))
        await writer.stop()
        log.close()

    asyncio.run(serve(tmp_path))
    for path in tmp_path.glob("log.sqlite3*"):
        path.unlink()
    log = open_log(tmp_path)
    with pytest.raises(FatalError, match="bring back both"):
        open_writer(log, tmp_path)
    log.close()


@pytest.mark.usefixtures("place")
def test_stop__last_group_still_being_written__takes_it_into_the_log(
    log: ReceiptLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that takes it in has been idle for long when the write ends."""

    async def scenario() -> None:
        writer = open_writer(log, tmp_path)
        writer.start()
        append = writer._journal.append

        def slow(payload: bytes) -> int:
            time.sleep(0.5)
            return append(payload)

        await writer.submit(issue(1))
        monkeypatch.setattr(writer._journal, "append", slow)
        last = writer.submit(issue(2))
        await asyncio.wait_for(writer.stop(), 10)
        assert await last is not None

    asyncio.run(scenario())
    assert log_count(tmp_path) == 2


def test_replay__disk_full__says_so_and_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(imports, "IMPORT_SECONDS", 60.0)
        asyncio.run(serve_some(tmp_path, 1, 60, crashes=True))
    assert log_count(tmp_path) == 0
    log = open_log(tmp_path)
    assert isinstance(log.database, SqliteDatabase)
    opened = log.database.open_file

    def full() -> sqlite3.Connection:
        connection = opened()
        connection.execute("PRAGMA max_page_count = 1")  # as many as there are: it cannot grow
        return connection

    log.database.open_file = full  # type: ignore[method-assign]
    with pytest.raises(FatalError, match="full; check free space"):
        open_writer(log, tmp_path)
    log.close()
    asyncio.run(serve_some(tmp_path, 60, 61, crashes=False))
    assert log_count(tmp_path) == 60


async def serve_some(folder: Path, first: int, last: int, *, crashes: bool) -> None:
    log = open_log(folder)
    writer = open_writer(log, folder)
    writer.start()
    for n in range(first, last):
        if crashes and n == last - 1:
            crash(writer)
        await writer.submit(issue(n))
    await writer.stop()
    log.close()


def check_refused(folder: Path, problem: str) -> None:
    """And again: nothing was made that would let a second try through."""
    for _ in range(2):
        log = open_log(folder)
        with pytest.raises(FatalError, match=f"{problem}.*(?s:Bring back .* both journal files together)"):
            open_writer(log, folder)
        log.close()


@pytest.mark.parametrize("lost", [NAMES, NAMES[:1], NAMES[1:]])
def test_open_journal__files_lost_after_a_crash__is_fatal(tmp_path: Path, lost: tuple[str, ...]) -> None:
    """Sequences that only the journal knew would be given again."""
    asyncio.run(serve_some(tmp_path, 1, 4, crashes=True))
    for name in lost:
        (tmp_path / name).unlink()
    check_refused(tmp_path, "missing")
    assert not [name for name in lost if (tmp_path / name).exists()]


def test_open_journal__crash_before_the_first_receipt__files_are_needed_as_well(tmp_path: Path) -> None:
    asyncio.run(serve_some(tmp_path, 1, 1, crashes=True))
    log = open_log(tmp_path)
    writer = open_writer(log, tmp_path)  # and never stopped
    writer._connection.close()
    writer._journal.close()
    log.close()
    for name in NAMES:
        (tmp_path / name).unlink()
    check_refused(tmp_path, "missing")


@pytest.mark.parametrize("own", [True, False])
def test_open_journal__older_or_foreign_files_after_a_crash__is_fatal(tmp_path: Path, own: bool) -> None:
    folder, other = tmp_path / "node", tmp_path / "other"
    for one in (folder, other):
        one.mkdir()
        asyncio.run(serve_some(one, 1, 4, crashes=not own))
    old = {name: ((folder if own else other) / name).read_bytes() for name in NAMES}
    asyncio.run(serve_some(folder, 4, 7, crashes=True))
    asyncio.run(serve_some(other, 4, 7, crashes=True))
    if not own:
        old = {name: (other / name).read_bytes() for name in NAMES}
    for name, content in old.items():
        (folder / name).write_bytes(content)
    check_refused(folder, "files or log are older, or others")


def test_open_journal__stopped_with_nothing_pending__goes_on_without_files(tmp_path: Path) -> None:
    asyncio.run(serve_some(tmp_path, 1, 4, crashes=False))
    for name in NAMES:
        (tmp_path / name).unlink()
    asyncio.run(serve_some(tmp_path, 4, 7, crashes=False))
    assert log_count(tmp_path) == 6


@pytest.mark.parametrize("crashes", [True, False])
def test_open_journal__segments_used_again_and_again__finds_its_frame(tmp_path: Path, crashes: bool) -> None:
    """Of what the mark names nothing may be left but the frame after it."""
    for round_ in range(5):
        asyncio.run(serve_some(tmp_path, round_ * 300 + 1, round_ * 300 + 301, crashes=crashes))
        with closing(sqlite3.connect(tmp_path / "log.sqlite3")) as connection:
            assert (read_mark(connection) is not None) == crashes
    asyncio.run(serve_some(tmp_path, 1501, 1502, crashes=False))
    assert log_count(tmp_path) == 1501


@pytest.mark.usefixtures("place")
def test_open_journal__tables_end_with_the_first_frame_of_a_segment__finds_it(tmp_path: Path) -> None:
    async def scenario(log: ReceiptLog) -> int:
        writer = open_writer(log, tmp_path)
        writer.start()
        count, epoch = 0, writer._journal.epoch
        while writer._journal.epoch == epoch:
            await writer.submit(issue(count := count + 1))
        deadline = time.monotonic() + 10
        while writer._imports.taken < writer._journal.number:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        crash(writer)
        await writer.submit(issue(count := count + 1))
        await writer.stop()
        return count

    log = open_log(tmp_path)
    count = asyncio.run(scenario(log))
    log.close()
    asyncio.run(serve_some(tmp_path, count + 1, count + 2, crashes=False))
    assert log_count(tmp_path) == count + 1
