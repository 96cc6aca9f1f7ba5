"""What the log's tables know of the journal beside them, so that a node never goes on without its newest.

A journal that is lost, older or another node's would give sequences again that were signed before, and two
receipts of one sequence are slashed. While a node runs, `meta` names the newest frame that the tables have;
after a stop that left nothing in the journal alone, nothing.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

from assay.errors import FatalError
from assay.node.receipts.database import SqliteDatabase, translated
from assay.node.receipts.journal import NAMES, SEGMENT_BYTES, Journal, follows

KEY: Final = "journal"


class Mark(NamedTuple):
    """A frame, by its segment's epoch, which is another in each journal and each round, and its number."""

    epoch: int
    number: int


def open_journal(database: SqliteDatabase, folder: Path, segment_bytes: int = SEGMENT_BYTES) -> Journal:
    """The journal of a log; new files only where none can be missing. A log without a mark may have any.

    Raises FatalError if it is not the one that the log was written with last, or older; RetryableError if the
    log is busy.
    """
    with translated(database.name), closing(database.open_file()) as connection:
        mark = read_mark(connection)
    missing = [name for name in NAMES if not (folder / name).exists()]
    if mark is not None and missing:
        raise _wrong(database, folder, f"{' and '.join(missing)} missing")
    cut = [name for name in NAMES if mark and (folder / name).stat().st_size < segment_bytes]
    if cut:
        raise _wrong(database, folder, f"{' and '.join(cut)} cut off, below {segment_bytes} bytes")
    journal = Journal(folder, segment_bytes)
    problem = None if mark is None else _problem(journal, mark)
    if problem is not None:
        journal.close()
        raise _wrong(database, folder, problem)
    return journal


def read_mark(connection: sqlite3.Connection) -> Mark | None:
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone() is None:
        return None
    row = connection.execute("SELECT value FROM meta WHERE key = ?", (KEY,)).fetchone()
    if row is None:
        return None
    epoch, number = row[0].split(":")
    return Mark(int(epoch), int(number))


def write_mark(connection: sqlite3.Connection, mark: Mark | None) -> None:
    """None: the tables have all that the journal has. With a mark on disk is all that was committed before,
    be it by a process that was killed: it always changes a page, as an UPDATE to the same value would not."""
    if mark is None:
        connection.execute("DELETE FROM meta WHERE key = ?", (KEY,))
    else:
        connection.execute("REPLACE INTO meta VALUES (?, ?)", (KEY, f"{mark.epoch}:{mark.number}"))


def _problem(journal: Journal, mark: Mark) -> str | None:
    if not _holds(journal, mark):
        return f"frame {mark.number} is not in them, so files or log are older, or others"
    lost = journal.lost(mark.number)
    return None if lost is None else f"frame {lost} is damaged, and the log does not have it"


def _holds(journal: Journal, mark: Mark) -> bool:
    """Whether the frame is there, or was overwritten after the next one, which began the other segment. A
    crash may have left any part of what it was overwritten with, and so frames of before it."""
    for frame in journal.frames():
        if frame.number == mark.number:
            return frame.epoch == mark.epoch
        if frame.number == mark.number + 1 and follows(mark.epoch, frame.epoch):
            return True
    return False


def _wrong(database: SqliteDatabase, folder: Path, problem: str) -> FatalError:
    return FatalError(
        f"the receipts journal in {folder} ({', '.join(NAMES)}) is not the one that {database.name} was "
        f"written with last: {problem}. It may hold the newest receipts, and signing on without them gives "
        "their sequences again, which is slashed. If another release of this program served from here last, "
        "and did not stop in order, start that one once more and stop it (SIGTERM): no more is needed. Bring "
        "back the log and both journal files together as they were last. If they are lost for good, do not "
        "sign on as this operator for the versions offered so far, neither from this folder nor from a new "
        "one, and no other signer key changes that: close their offers, and serve new versions or as another "
        "operator, from a folder of its own (`assay node init`)"
    )
