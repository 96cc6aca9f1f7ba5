"""What is in the journal after a crash at any byte, and when its segments are used again."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from assay.commitments.signing import SigningKey
from assay.errors import FatalError
from assay.node.receipts.entries import ChannelKey, HeldVoucher, IssuedReceipt
from assay.node.receipts.journal import Journal
from assay.node.receipts.journal_entries import Entry, decode, encode
from assay.types import Hash32
from hypothesis import given, settings
from hypothesis import strategies as st

SMALL = 4096


def payloads(folder: Path) -> list[bytes]:
    """As a start after a crash would read them."""
    journal = Journal(folder, SMALL)
    found = [frame.payload for frame in journal.frames()]
    journal.close()
    return found


def test_append__read_again__gives_all_in_order(tmp_path: Path) -> None:
    journal = Journal(tmp_path, SMALL)
    written = [b"%03d" % n * 20 for n in range(30)]
    for payload in written:
        journal.append(payload)
    journal.close()
    assert payloads(tmp_path) == written


def test_append__nothing_forgotten__loses_nothing_when_segments_are_full(tmp_path: Path) -> None:
    journal = Journal(tmp_path, SMALL)
    written = [b"%05d" % n * 100 for n in range(60)]
    for payload in written:
        journal.append(payload)
    journal.close()
    assert payloads(tmp_path) == written


def test_append__forgotten_in_time__stays_in_its_segments(tmp_path: Path) -> None:
    journal = Journal(tmp_path, SMALL)
    for n in range(200):
        journal.forget(journal.append(b"%05d" % n * 100) - 3)
    journal.close()
    assert [path.stat().st_size for path in sorted(tmp_path.iterdir())] == [SMALL, SMALL]
    found = payloads(tmp_path)
    assert found[-4:] == [b"%05d" % n * 100 for n in range(196, 200)]
    numbers = [int(payload[:5]) for payload in found]
    assert numbers == list(range(numbers[0], 200))


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 900), min_size=1, max_size=25),
    behind=st.integers(0, 4),
    cut=st.integers(1, 200),
    seed=st.integers(0, 255),
)
def test_frames__last_write_torn__all_before_it_are_there(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], behind: int, cut: int, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    journal = Journal(folder, SMALL)
    written = []
    for n, size in enumerate(sizes):
        written.append(bytes([(n + seed) % 256]) * size)
        journal.forget(journal.append(written[-1]) - behind)
    torn = journal._segments[journal._current].descriptor
    end = journal._offset
    cut = min(cut, len(written[-1]))
    os.pwrite(torn, bytes([(os.pread(torn, 1, end - cut)[0]) ^ 1]), end - cut)
    journal.close()
    found = payloads(folder)
    kept = written[:-1]
    assert found == kept[len(kept) - len(found) :]
    assert len(found) >= min(behind, len(kept))
    after = Journal(folder, SMALL)  # and it goes on
    after.forget(after.number)
    after.append(b"next")
    after.close()
    assert payloads(folder)[-1] == b"next"


def test_frames__segment_used_again__begins_an_epoch_that_nobody_can_guess(tmp_path: Path) -> None:
    """A payload's bytes stay behind the last frame: as a frame they would need the epoch of then."""
    journal = Journal(tmp_path, SMALL)
    for n in range(30):
        journal.forget(journal.append(b"%05d" % n * 100))
    epochs = [frame.epoch for frame in journal.frames()]
    journal.close()
    assert epochs == sorted(epochs)
    lowest = {epoch & 0xFFFFFFFF for epoch in epochs}
    assert len(lowest) == 2
    assert max(lowest) > 1 << 16


@pytest.mark.parametrize("cut", range(28))
def test_append__head_cut_off_over_an_older_one__is_no_frame_of_the_newer_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    journal = Journal(tmp_path, SMALL)
    for number in range(1, 5):
        journal.forget(journal.append(bytes([number]) * 1500))
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, offset: pwrite(descriptor, data[:cut], offset))
    with pytest.raises(FatalError, match=f"{cut} of 1528 bytes were written"):
        journal.append(bytes([5]) * 1500)
    journal.close()
    monkeypatch.undo()
    after = Journal(tmp_path, SMALL)
    assert [frame.number for frame in after.frames()] in ([1, 2, 3, 4], [3, 4])
    after.close()


def test_append__disk_full__is_fatal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path, SMALL)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(FatalError, match="No space left"):
        journal.append(b"x")
    monkeypatch.undo()
    journal.close()


def test_frames__head_torn_off_its_length__asks_for_no_more_than_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second half of a head may be what was there before, whatever that says."""
    journal = Journal(tmp_path, SMALL)
    journal.append(b"first")
    segment, end = journal._segments[journal._current], journal._offset
    head = b"ASYJ" + segment.epoch.to_bytes(8, "big") + (2).to_bytes(8, "big") + b"\xff" * 8
    os.pwrite(segment.descriptor, head, end)
    asked: list[int] = []
    pread = os.pread

    def watch(descriptor: int, size: int, offset: int) -> bytes:
        asked.append(size)
        return pread(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", watch)
    assert [frame.payload for frame in journal.frames()] == [b"first"]
    journal.close()
    assert max(asked) <= SMALL


def test_journal__disk_cannot_read_it__is_fatal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Journal(tmp_path, SMALL).close()

    def damaged(*_: object) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pread", damaged)
    with pytest.raises(FatalError, match=r"cannot use the receipts journal .* Check the disk"):
        Journal(tmp_path, SMALL)


KEYS = st.builds(
    lambda version, secret: ChannelKey(Hash32(version), SigningKey(secret.to_bytes(32, "big")).address),
    st.binary(min_size=32, max_size=32),
    st.integers(1, 5),
)
HASHES = st.binary(min_size=32, max_size=32)
NUMBERS = st.integers(0, (1 << 64) - 1)
AMOUNTS = st.integers(0, (1 << 128) - 1)
RECEIPTS = st.builds(
    IssuedReceipt, HASHES, HASHES, HASHES, AMOUNTS, NUMBERS, NUMBERS, st.binary(min_size=65, max_size=65)
)
VOUCHERS = st.builds(HeldVoucher, AMOUNTS, NUMBERS, st.binary(min_size=65, max_size=1024), st.booleans())
ENTRIES = st.builds(
    Entry,
    KEYS,
    st.none() | RECEIPTS,
    st.none() | VOUCHERS,
    st.none() | HASHES,
    st.none() | st.binary(max_size=2000),
    st.booleans(),
    st.booleans(),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(ENTRIES, max_size=6))
def test_encode__any_entries__are_decoded_again(entries: list[Entry]) -> None:
    assert list(decode(b"".join(map(encode, entries)))) == entries


@settings(max_examples=30, deadline=None)
@given(ENTRIES, st.integers(1, 40))
def test_decode__cut_off__is_fatal(entry: Entry, cut: int) -> None:
    with pytest.raises(FatalError):
        list(decode(encode(entry)[:-cut]))
