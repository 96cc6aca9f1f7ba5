"""Takes what the journal holds into the log's tables, in a thread, behind the requests' backs."""

from __future__ import annotations

import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from assay.node.receipts.importing import Importer
from assay.node.receipts.journal_entries import Entry
from assay.node.receipts.journal_mark import Mark

IMPORT_SECONDS: Final = 0.1
"""How long entries are gathered for a transaction of the log."""
IMPORT_ENTRIES: Final = 512
"""In a transaction, which the event loop hears of at once; so many gathered do not wait any longer."""


class Imports:
    """`add`, `imported` and `hurry` are the event loop's. `on_imported` hears, in a thread, of the number of
    the last frame that the tables have now and of the entries; `on_failure` of what ended the thread."""

    def __init__(
        self,
        importer: Importer,
        on_imported: Callable[[int, list[Entry]], None],
        on_failure: Callable[[Exception], None],
    ) -> None:
        self._importer = importer
        self._on_imported = on_imported
        self._on_failure = on_failure
        self._groups: deque[tuple[Mark, list[Entry]]] = deque()
        self._gathered = 0
        self.taken = 0
        """The last frame that the tables have."""
        self._has_all = False
        self._work, self._hurry = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="receipts-import", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def add(self, mark: Mark, entries: list[Entry]) -> None:
        """A frame that is on disk, in the journal's order."""
        self._groups.append((mark, entries))
        self._gathered += len(entries)
        if not self._work.is_set():
            self._work.set()
        if self._gathered >= IMPORT_ENTRIES and not self._hurry.is_set():
            self._hurry.set()

    def imported(self, entries: list[Entry]) -> None:
        """The event loop knows of them."""
        self._gathered -= len(entries)

    def hurry(self) -> None:
        """What waits is wanted in the tables."""
        self._hurry.set()

    def finish(self) -> None:
        """Take all of it, then end the thread. SYNC: call it in another."""
        self._has_all = True
        self._work.set()
        self.hurry()
        self._thread.join()

    def _run(self) -> None:
        while not self._has_all or self._groups:
            self._work.wait()
            self._hurry.wait(IMPORT_SECONDS)
            self._work.clear()
            self._hurry.clear()
            try:
                while self._groups:
                    self._take_some()
            except Exception as error:
                self._on_failure(error)
                return

    def _take_some(self) -> None:
        entries: list[Entry] = []
        mark = Mark(0, 0)
        while self._groups and len(entries) < IMPORT_ENTRIES:
            mark, group = self._groups.popleft()
            entries += group
        while True:
            try:
                self._importer.write(entries, mark)
                break
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    raise
        self.taken = mark.number
        self._on_imported(mark.number, entries)
