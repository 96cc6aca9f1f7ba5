"""A bounded queue that gives each consumer an equal share of the rows that run. Pure.

Order: start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996), which serves as deficit round robin does
and finds the next entry in O(log n). Room: dynamic thresholds (Choudhury and Hahne, 1998): a consumer may
take up as much of the queue as it leaves free, so that however many flood it, a newcomer finds room. Wait: a
consumer's next entry waits until each who waits beside it has had as many rows; of more it is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import inf
from typing import Final, Generic, TypeVar

T = TypeVar("T")

_KEPT_TAGS: Final = 64
"""Consumers who are not waiting are forgotten when they are more than this and than those who wait."""


@dataclass(slots=True)
class _Held:
    """What a consumer has in the queue; `finish`: the virtual time at which its last entry is served."""

    items: int = 0
    rows: int = 0
    bytes: int = 0
    finish: int = 0


@dataclass(slots=True)
class Entry(Generic[T]):
    """`key`: entries of unequal keys are never in one batch. `size` in bytes; `since` is the caller's."""

    item: T
    consumer: Hashable
    rows: int
    size: int
    key: Hashable
    since: float = 0.0


@dataclass(slots=True)
class FairQueue(Generic[T]):
    """`max_items` and `max_bytes` bound it; an entry larger than either is taken when nothing waits.

    `max_rows` may change: so many run at most, as things are, before a consumer's second entry or a later
    one, and twice as many before the first of somebody who has none here.
    """

    max_items: int
    max_bytes: int
    max_rows: float = inf
    rows: int = 0
    bytes: int = 0
    _items: int = 0
    _waiting: int = 0
    """Consumers with entries."""
    _now: int = 0
    _pushed: int = 0
    _held: dict[Hashable, _Held] = field(default_factory=dict)
    _heaps: dict[Hashable, list[tuple[int, int, Entry[T]]]] = field(default_factory=dict)

    def __len__(self) -> int:
        return self._items

    def waiting(self, consumer: Hashable) -> int:
        """Entries of a consumer."""
        held = self._held.get(consumer)
        return held.items if held else 0

    def push(self, entry: Entry[T]) -> bool:
        """False: the queue, or the consumer's share of it, is full."""
        held = self._held.get(entry.consumer)
        if held is None:
            held = _Held()
        if self._items and not self._has_room(held, entry.rows, entry.size):
            return False
        self._held[entry.consumer] = held
        start = max(self._now, held.finish)
        held.finish = start + max(entry.rows, 1)
        self._waiting += not held.items
        held.items += 1
        held.rows += entry.rows
        held.bytes += entry.size
        self._items += 1
        self.rows += entry.rows
        self.bytes += entry.size
        self._pushed += 1
        heappush(self._heaps.setdefault(entry.key, []), (start, self._pushed, entry))
        return True

    def _has_room(self, held: _Held, rows: int, size: int) -> bool:
        if self.rows + rows > 2 * self.max_rows:
            return False
        if held.items and min((held.rows + rows) * self._waiting, self.rows + rows) > self.max_rows:
            return False
        free_items, free_bytes = self.max_items - self._items, self.max_bytes - self.bytes
        return held.items < free_items and held.bytes + size <= free_bytes

    def pop_batch(
        self, max_rows: int, max_bytes: int, is_dropped: Callable[[T], bool] = lambda item: False
    ) -> list[Entry[T]]:
        """The next entries in fair order, as many as fit into both limits, and one at least; empty: none
        wait. Those that `is_dropped` are taken out and left out."""
        batch: list[Entry[T]] = []
        rows = size = 0
        heap = self._next_heap()
        while heap:
            start, _, entry = heap[0]
            if batch and (rows + entry.rows > max_rows or size + entry.size > max_bytes):
                break
            heappop(heap)
            self._let_go(entry)
            self._now = max(self._now, start)
            if is_dropped(entry.item):
                heap = heap or (None if batch else self._next_heap())
                continue
            batch.append(entry)
            rows, size = rows + entry.rows, size + entry.size
        self._forget()
        return batch

    def _next_heap(self) -> list[tuple[int, int, Entry[T]]] | None:
        """The heap whose first entry is due first; keys without entries are dropped."""
        heaps = self._heaps
        for key in [key for key, heap in heaps.items() if not heap]:
            del heaps[key]
        if len(heaps) < 2:
            return next(iter(heaps.values()), None)
        return min(heaps.values(), key=lambda heap: heap[0][:2])

    def _let_go(self, entry: Entry[T]) -> None:
        held = self._held[entry.consumer]
        held.items -= 1
        self._waiting -= not held.items
        held.rows -= entry.rows
        held.bytes -= entry.size
        self._items -= 1
        self.rows -= entry.rows
        self.bytes -= entry.size

    def _forget(self) -> None:
        """Consumers without entries whose last was served in the past count as new ones."""
        if not self._items:
            self._held.clear()
            self._now = 0
        elif len(self._held) > _KEPT_TAGS + 2 * self._items:
            self._held = {
                consumer: held
                for consumer, held in self._held.items()
                if held.items or held.finish > self._now
            }
