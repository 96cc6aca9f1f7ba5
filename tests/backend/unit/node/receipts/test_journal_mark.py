"""Which journals a log is opened with: the newest, whatever a crash left of them, and no damaged one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from assay.errors import FatalError
from assay.node.receipts import journal as journal_module
from assay.node.receipts.database import SqliteDatabase
from assay.node.receipts.journal import NAMES, Journal
from assay.node.receipts.journal_mark import Mark, open_journal, write_mark

SMALL, SECTOR = 4096, 512
FRAMES = 32
"""In a segment: of 128 bytes each."""


@pytest.fixture
def database(tmp_path: Path) -> Iterator[SqliteDatabase]:
    made = SqliteDatabase(tmp_path / "log.sqlite3")
    with closing(made.open_file()) as connection:
        connection.execute("CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
        yield made


def mark(database: SqliteDatabase, found: Mark | None) -> None:
    """The tables have what is in the journal up to there."""
    with closing(database.open_file()) as connection:
        write_mark(connection, found)


def fill(journal: Journal, count: int, size: int = 100) -> Mark:
    for _ in range(count):
        journal.append(bytes(size))
    return Mark(journal.epoch, journal.number)


def damage(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_open_journal__what_the_mark_names_partly_overwritten__finds_the_frame_after_it(
    database: SqliteDatabase, tmp_path: Path
) -> None:
    """The sectors of a write come to the disk in any order; here the first one never did."""
    first = tmp_path / NAMES[0]
    with closing(Journal(tmp_path, SMALL)) as journal:
        mark(database, fill(journal, FRAMES))
        before = first.read_bytes()
        journal.forget(FRAMES)
        fill(journal, FRAMES)
        fill(journal, 1, 2000)
    first.write_bytes(before[:SECTOR] + first.read_bytes()[SECTOR:])
    with closing(open_journal(database, tmp_path, SMALL)) as journal:
        assert [frame.number for frame in journal.frames()] == [1, 2, 3, 4, *range(33, 65)]
        assert journal.number == 64


@pytest.mark.parametrize(
    ("known", "segment", "frame"),
    [(3, 0, 5), (3, 0, 31), (33, 1, 40), (32, 1, 33), (3, 1, 33), (3, 0, 32)],
)
def test_open_journal__frame_damaged_that_only_the_journal_has__is_fatal(
    database: SqliteDatabase, tmp_path: Path, known: int, segment: int, frame: int
) -> None:
    """What comes after it was written when it was on disk: its sequences were told."""
    with closing(Journal(tmp_path, SMALL)) as journal:
        found = fill(journal, known)
        found = found if known <= FRAMES else Mark(journal.epoch, known)
        fill(journal, 2 * FRAMES - known)
    mark(database, found)
    damage(tmp_path / NAMES[segment], (frame - 1) % FRAMES * 128 + 60)
    with pytest.raises(FatalError, match=f"frame {frame} is damaged.*(?s:Bring back .* both journal files)"):
        open_journal(database, tmp_path, SMALL)


@pytest.mark.parametrize(("behind", "is_known"), [(4, False), (5, True)])
def test_open_journal__beginning_of_the_newest_segment_damaged__is_fatal_if_it_is_known(
    database: SqliteDatabase, tmp_path: Path, behind: int, is_known: bool
) -> None:
    """Not even its epoch can be read. Four frames are in the sector; if no other came after them, a crash
    may have been all that there was."""
    with closing(Journal(tmp_path, SMALL)) as journal:
        mark(database, fill(journal, 3))
        fill(journal, FRAMES - 3 + behind)
    path = tmp_path / NAMES[1]
    path.write_bytes(bytes(SECTOR) + path.read_bytes()[SECTOR:])
    if is_known:
        with pytest.raises(FatalError, match="frame 33 is damaged"):
            open_journal(database, tmp_path, SMALL)
    else:
        open_journal(database, tmp_path, SMALL).close()


@pytest.mark.parametrize("name", NAMES)
def test_open_journal__file_cut_off_that_only_the_journal_has__is_fatal(
    database: SqliteDatabase, tmp_path: Path, name: str
) -> None:
    """As a copy may be that ended early."""
    with closing(Journal(tmp_path, SMALL)) as journal:
        mark(database, fill(journal, 40))
    with (tmp_path / name).open("r+b") as file:
        file.truncate(SMALL - 1)
    with pytest.raises(FatalError, match=f"{name} cut off.*(?s:Bring back .* both journal files)"):
        open_journal(database, tmp_path, SMALL)
    mark(database, None)
    open_journal(database, tmp_path, SMALL).close()


@pytest.mark.parametrize("frame", [1, 5, 32])
@pytest.mark.parametrize("known", [40, None])
def test_open_journal__frame_damaged_that_the_tables_have__goes_on(
    database: SqliteDatabase, tmp_path: Path, known: int | None, frame: int
) -> None:
    with closing(Journal(tmp_path, SMALL)) as journal:
        found = fill(journal, 40)
        fill(journal, 2)
    mark(database, found if known else None)
    damage(tmp_path / NAMES[0], (frame - 1) * 128 + 60)
    with closing(open_journal(database, tmp_path, SMALL)) as journal:
        assert journal.number == 42


def test_open_journal__another_release_wrote_it__is_fatal_unless_that_stopped_in_order(
    database: SqliteDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its frames may be none to this one."""
    with monkeypatch.context() as patched:
        patched.setattr(journal_module, "_checksum", lambda epoch, number, payload: number)
        with closing(Journal(tmp_path, SMALL)) as journal:
            mark(database, fill(journal, FRAMES + 3))
    with pytest.raises(FatalError, match=r"frame 35 is not in them.*another release .*SIGTERM"):
        open_journal(database, tmp_path, SMALL)
    mark(database, None)
    with closing(open_journal(database, tmp_path, SMALL)) as journal:
        fill(journal, FRAMES + 1)
    with closing(Journal(tmp_path, SMALL)) as journal:
        assert [frame.number for frame in journal.frames()] == list(range(1, FRAMES + 2))


def test_open_journal__last_frame_torn__goes_on_before_it(database: SqliteDatabase, tmp_path: Path) -> None:
    """Nobody was told of it: it is not known to have been on disk."""
    with closing(Journal(tmp_path, SMALL)) as journal:
        mark(database, fill(journal, 3))
        fill(journal, 5)
    damage(tmp_path / NAMES[0], 7 * 128 + 60)
    with closing(open_journal(database, tmp_path, SMALL)) as journal:
        assert journal.number == 7
