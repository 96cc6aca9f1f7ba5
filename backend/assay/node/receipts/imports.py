"""Takes what the journal holds into the log's tables, in a thread, behind the requests' backs."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from assay.node.receipts.journal_entries import Entry
from assay.node.receipts.journal_mark import Mark

IMPORT_SECONDS: Final = 0.1
"""How long entries are gathered for a transaction of the log."""
IMPORT_ENTRIES: Final = 512
"""In a transaction, which the event loop hears of at once; so many gathered do not wait any longer."""
EASY_ENTRIES: Final = 128
EASY_BYTES: Final = 256 << 10
"""In a transaction that may wait for the processor while it keeps others from writing to the log; bytes, as
above, in one of more than one frame."""
IMPORT_BYTES: Final = 16 << 20
"""In a transaction that has more than one frame."""
HURRIED_ENTRIES: Final = 8192
HURRIED_BYTES: Final = 64 << 20
"""When so many wait, they go into the tables beside the requests and not after them, until an eighth waits:
what is taken at ease on a busy processor lasts seconds, in which as many come again."""
SYNC_BYTES: Final = 2 << 20
"""Of payloads that the tables have, and the journal alone has on disk: a quarter of one of its segments."""


class Tables(Protocol):
    """Belong to one thread."""

    def open(self, is_hurried: Callable[[], bool]) -> None:
        """`is_hurried` tells, while they take something, whether it is wanted soon by now."""

    def take(self, payload: bytes, mark: Mark, *, hurried: bool, synced: bool) -> None:
        """The entries, and the last one's frame, in one transaction. Unless `hurried` it may wait until the
        processor has nothing better to do. When it returns others see it; if `synced` it is on disk, with all
        before it, and else a failing machine may lose it, after which the tables are as they were earlier."""

    def close(self) -> None: ...


class Imports:
    """`add` and `hurry` are the event loop's. `on_imported` hears, in a thread, of the number of the last
    frame that the tables have on disk and of the entries that they have now; `on_failure` of what ended the
    thread."""

    def __init__(
        self,
        tables: Tables,
        on_imported: Callable[[int, list[Entry]], None],
        on_failure: Callable[[Exception], None],
    ) -> None:
        self._tables = tables
        self._on_imported = on_imported
        self._on_failure = on_failure
        self._groups: deque[tuple[Mark, bytes, list[Entry]]] = deque()
        self._added = self._taken = self._added_bytes = self._taken_bytes = 0
        """Entries, and bytes of payloads; what was added is the event loop's, what was taken the thread's."""
        self._is_wanted = False
        self.taken = 0
        """The last frame that the tables have."""
        self._synced = self._synced_bytes = 0
        """The last one that they have on disk, and the payloads up to it."""
        self._is_behind = False
        self._has_all = False
        self._work, self._hurry = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="receipts-import", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def add(self, mark: Mark, payload: bytes, entries: list[Entry]) -> None:
        """A frame that is on disk, in the journal's order: its entries, encoded and not."""
        self._groups.append((mark, payload, entries))
        self._added += len(entries)
        self._added_bytes += len(payload)
        if not self._work.is_set():
            self._work.set()
        if self._added - self._taken >= IMPORT_ENTRIES and not self._hurry.is_set():
            self._hurry.set()

    def hurry(self) -> None:
        """What waits is wanted in the tables."""
        self._is_wanted = True
        self._hurry.set()

    def finish(self) -> None:
        """Take all of it, then end the thread. SYNC: call it in another."""
        self._has_all = True
        self._work.set()
        self.hurry()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._tables.open(self._is_hurried)
            while not self._has_all or self._groups:
                self._work.wait()
                self._hurry.wait(IMPORT_SECONDS)
                self._work.clear()
                self._hurry.clear()
                while self._groups:
                    self._take_some()
                self._is_wanted = False
        except Exception as error:
            self._on_failure(error)
        finally:
            self._tables.close()

    def _take_some(self) -> None:
        entries: list[Entry] = []
        payloads: list[bytes] = []
        mark, size = Mark(0, 0), 0
        hurried = self._is_hurried()
        most, most_bytes = (IMPORT_ENTRIES, IMPORT_BYTES) if hurried else (EASY_ENTRIES, EASY_BYTES)
        while self._groups and len(entries) < most and size < most_bytes:
            mark, payload, group = self._groups.popleft()
            entries += group
            payloads.append(payload)
            size += len(payload)
        synced = self._wants_all or self._taken_bytes + size - self._synced_bytes >= SYNC_BYTES
        self._tables.take(b"".join(payloads), mark, hurried=hurried, synced=synced)
        self._taken += len(entries)
        self._taken_bytes += size
        self.taken = mark.number
        if synced:
            self._synced, self._synced_bytes = mark.number, self._taken_bytes
        self._on_imported(self._synced, entries)

    @property
    def _wants_all(self) -> bool:
        return self._is_wanted or self._has_all

    def _is_hurried(self) -> bool:
        waiting = self._added_bytes - self._taken_bytes
        part = 8 if self._is_behind else 1
        many = (self._added - self._taken) * part >= HURRIED_ENTRIES
        self._is_behind = many or waiting * part >= HURRIED_BYTES
        return self._wants_all or self._is_behind
