"""From the journal into the tables: in order, to the last entry."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from itertools import accumulate

import pytest
from assay.node.receipts import imports
from assay.node.receipts.entries import ChannelKey
from assay.node.receipts.imports import EASY_ENTRIES, IMPORT_ENTRIES, Imports
from assay.node.receipts.journal_entries import Entry
from assay.node.receipts.journal_mark import Mark
from assay.types import ZERO_ADDRESS, ZERO_HASH

KEY = ChannelKey(ZERO_HASH, ZERO_ADDRESS)
WAIT = 20.0
WIDTH = 4
"""Bytes of an entry here."""


class Tables:
    """Keeps what it is given, unless it is told to fail."""

    def __init__(self) -> None:
        self.payload = b""
        self.marks: list[int] = []
        self.hurried: list[bool] = []
        self.synced: list[bool] = []
        self.error: Exception | None = None
        self.is_open = False
        self.is_hurried: Callable[[], bool] = bool
        self.while_taking: Callable[[], None] | None = None
        self._inside = threading.Lock()

    def open(self, is_hurried: Callable[[], bool]) -> None:
        assert not self.is_open
        self.is_hurried = is_hurried
        self.is_open = True

    def take(self, payload: bytes, mark: Mark, *, hurried: bool, synced: bool) -> None:
        assert self.is_open
        assert self._inside.acquire(blocking=False), "two transactions at a time"
        try:
            if self.error is not None:
                raise self.error
            if self.while_taking is not None:
                self.while_taking()
            assert len(payload) < WIDTH * (IMPORT_ENTRIES + 100)
            self.payload += payload
            self.marks.append(mark.number)
            self.hurried.append(hurried)
            self.synced.append(synced)
        finally:
            self._inside.release()

    def close(self) -> None:
        self.is_open = False


class Desk:
    def __init__(self) -> None:
        self.tables = Tables()
        self.told: list[int] = []
        self.failures: list[Exception] = []
        self.given = b""
        self.heard: list[Entry] = []
        self.entries: list[Entry] = []
        self.frames = 0
        self.imports = Imports(self.tables, self._hear, self.failures.append)

    def _hear(self, number: int, entries: list[Entry]) -> None:
        self.told.append(number)
        self.heard += entries

    def add(self, *sizes: int) -> None:
        for size in sizes:
            group = [Entry(KEY) for _ in range(size)]
            self.entries += group
            self.frames += 1
            payload = self.frames.to_bytes(WIDTH, "big") * size
            self.given += payload
            self.imports.add(Mark(1, self.frames), payload, group)

    def wait(self, frame: int) -> None:
        deadline = time.monotonic() + WAIT
        while self.imports.taken < frame:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def finish(self) -> None:
        ending = threading.Thread(target=self.imports.finish)
        ending.start()
        ending.join(WAIT)
        assert not ending.is_alive()

    def check(self) -> None:
        assert self.tables.payload == self.given and not self.tables.is_open
        assert list(map(id, self.heard)) == list(map(id, self.entries))
        synced = [number * known for number, known in zip(self.tables.marks, self.tables.synced, strict=True)]
        assert self.told == list(accumulate(synced, max)) and self.tables.marks == sorted(self.tables.marks)
        assert self.imports.taken == self.frames and not self.failures


def test_add__few_entries__are_taken_soon() -> None:
    desk = Desk()
    desk.imports.start()
    desk.add(1, 2, 3)
    desk.wait(3)
    desk.finish()
    desk.check()
    assert not desk.tables.hurried[0]


def test_add__more_than_may_wait__is_taken_in_a_hurry_until_few_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imports, "HURRIED_ENTRIES", 4 * IMPORT_ENTRIES)
    desk = Desk()
    desk.add(*[IMPORT_ENTRIES] * 4, IMPORT_ENTRIES // 2 - 1)
    desk.imports.start()
    desk.wait(5)
    desk.finish()
    desk.check()
    assert desk.tables.hurried == [True, True, True, True, False]


def test_add__many_bytes_or_wanted__is_taken_in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, wanted in ((WIDTH * 7, False), (1 << 30, True)):
        monkeypatch.setattr(imports, "HURRIED_BYTES", limit)
        desk = Desk()
        desk.add(4, 4)
        if wanted:
            desk.imports.hurry()
        desk.imports.start()
        desk.wait(2)
        desk.finish()
        assert desk.tables.hurried[0]


def test_add__after_a_hurry__is_taken_at_ease_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imports, "HURRIED_BYTES", WIDTH * 7)
    desk = Desk()
    desk.add(8)
    desk.imports.hurry()
    desk.imports.start()
    desk.wait(1)
    for frame in (2, 3):
        deadline = time.monotonic() + WAIT
        while desk.tables.is_hurried():
            assert time.monotonic() < deadline
            time.sleep(0.001)
        desk.add(4)
        desk.wait(frame)
    desk.finish()
    desk.check()
    assert desk.tables.hurried == [True, False, False]


def test_add__what_may_wait__is_taken_in_small_transactions(monkeypatch: pytest.MonkeyPatch) -> None:
    for size, most_bytes, marks in (
        (EASY_ENTRIES, 1 << 20, [1, 2, 3, 4, 5, 6]),
        (2, 1 << 20, [6]),
        (2, WIDTH * 3, [2, 4, 6]),
    ):
        monkeypatch.setattr(imports, "EASY_BYTES", most_bytes)
        desk = Desk()
        desk.add(*[size] * 6)
        desk.imports.start()
        desk.wait(6)
        desk.finish()
        assert desk.tables.marks == marks
        assert not any(desk.tables.hurried)


def test_add__at_ease__is_synced_once_in_many_bytes_and_at_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imports, "SYNC_BYTES", WIDTH * 12)
    desk = Desk()
    desk.imports.start()
    for frame in range(1, 8):
        desk.add(5)
        desk.wait(frame)
    assert desk.tables.synced == [False, False, True, False, False, True, False]
    desk.add(5)
    desk.finish()
    desk.check()
    assert desk.tables.synced[-1]


def test_finish__while_more_comes__takes_everything_once_and_in_order() -> None:
    desk = Desk()
    desk.imports.start()
    for _ in range(50):
        desk.add(1, 90, 7)
        desk.imports.hurry()
    desk.finish()
    desk.check()


@pytest.mark.parametrize("how", ["many", "wanted", "stopping"])
def test_add__while_some_is_taken__the_tables_are_told_to_hurry(how: str) -> None:
    desk = Desk()
    seen: list[bool] = []
    ending = threading.Thread(target=desk.imports.finish)

    def more() -> None:
        desk.tables.while_taking = None
        seen.append(desk.tables.is_hurried())
        if how == "many":
            desk.add(*[IMPORT_ENTRIES] * (imports.HURRIED_ENTRIES // IMPORT_ENTRIES))
        elif how == "wanted":
            desk.imports.hurry()
        else:
            ending.start()
            while not desk.tables.is_hurried():
                time.sleep(0.001)
        seen.append(desk.tables.is_hurried())

    desk.tables.while_taking = more
    desk.imports.start()
    desk.add(1)
    desk.wait(1)
    if how == "stopping":
        ending.join(WAIT)
    else:
        desk.finish()
    assert seen == [False, True]


@pytest.mark.parametrize("size", [1, 2 * IMPORT_ENTRIES])
def test_add__tables_fail__is_told_once_and_ends_the_thread(size: int) -> None:
    desk = Desk()
    desk.tables.error = sqlite3.OperationalError("disk is full")
    desk.tables.error.sqlite_errorcode = sqlite3.SQLITE_FULL
    desk.imports.start()
    desk.add(size, size)
    desk.finish()
    assert desk.failures == [desk.tables.error] and not desk.told
