"""From the journal into the tables: in order, to the last entry."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Sequence
from typing import cast

import pytest
from assay.node.receipts.entries import ChannelKey
from assay.node.receipts.importing import Importer
from assay.node.receipts.imports import IMPORT_ENTRIES, Imports
from assay.node.receipts.journal_entries import Entry
from assay.node.receipts.journal_mark import Mark
from assay.types import ZERO_ADDRESS, ZERO_HASH

KEY = ChannelKey(ZERO_HASH, ZERO_ADDRESS)
WAIT = 20.0


class Tables:
    """Keeps what it is given, unless it is told to fail."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.marks: list[int] = []
        self.busy = 0
        self.error: Exception | None = None
        self._inside = threading.Lock()

    def write(self, entries: Sequence[Entry], mark: Mark | None = None) -> None:
        assert self._inside.acquire(blocking=False), "two transactions at a time"
        try:
            if self.error is not None:
                raise self.error
            if self.busy:
                self.busy -= 1
                error = sqlite3.OperationalError("locked")
                error.sqlite_errorcode = sqlite3.SQLITE_BUSY
                raise error
            assert mark is not None and len(entries) < IMPORT_ENTRIES + 100
            self.entries += entries
            self.marks.append(mark.number)
        finally:
            self._inside.release()


class Desk:
    def __init__(self) -> None:
        self.tables = Tables()
        self.told: list[int] = []
        self.failures: list[Exception] = []
        self.given: list[Entry] = []
        self.frames = 0
        self.imports = Imports(cast(Importer, self.tables), self._hear, self.failures.append)

    def _hear(self, number: int, entries: list[Entry]) -> None:
        self.told.append(number)
        self.imports.imported(entries)

    def add(self, *sizes: int) -> None:
        for size in sizes:
            group = [Entry(KEY) for _ in range(size)]
            self.given += group
            self.frames += 1
            self.imports.add(Mark(1, self.frames), group)

    def finish(self) -> None:
        ending = threading.Thread(target=self.imports.finish)
        ending.start()
        ending.join(WAIT)
        assert not ending.is_alive()

    def check(self) -> None:
        assert [id(entry) for entry in self.tables.entries] == [id(entry) for entry in self.given]
        assert self.tables.marks == self.told == sorted(self.told)
        assert self.imports.taken == self.frames and not self.failures


def test_add__few_entries__are_taken_soon() -> None:
    desk = Desk()
    desk.imports.start()
    desk.add(1, 2, 3)
    deadline = time.monotonic() + WAIT
    while desk.imports.taken < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    desk.check()
    desk.finish()


def test_finish__while_more_comes_and_tables_are_busy__takes_everything_once_and_in_order() -> None:
    desk = Desk()
    desk.tables.busy = 3
    desk.imports.start()
    for _ in range(50):
        desk.add(1, 90, 7)
        desk.imports.hurry()
    desk.finish()
    desk.check()


@pytest.mark.parametrize("size", [1, 2 * IMPORT_ENTRIES])
def test_add__tables_fail__is_told_once_and_ends_the_thread(size: int) -> None:
    desk = Desk()
    desk.tables.error = sqlite3.OperationalError("disk is full")
    desk.tables.error.sqlite_errorcode = sqlite3.SQLITE_FULL
    desk.imports.start()
    desk.add(size, size)
    desk.finish()
    assert desk.failures == [desk.tables.error] and not desk.told
