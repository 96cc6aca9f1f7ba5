"""Places for requests in progress, parted among consumers. Pure.

From its admission until its receipt is durable a request holds one, wherever it waits: for a version, in a
run, for the disk. As with a version's queue, a consumer may hold as many as it leaves free (dynamic
thresholds: Choudhury and Hahne, 1998), so that however many ask for more, a newcomer finds one. Above an
equal part of all it may hold an eighth of that: the others' requests come unevenly and need the room, and
its own would wait long behind each other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from assay.node.errors import Unavailable
from assay.types import Address

_CONSUMER: Final = re.compile(rb'"voucher_consumer": ?"(0x[0-9a-fA-F]{40})"')


@dataclass(slots=True)
class Places:
    """`limit` of them, of all protocols and versions together. Requests whose consumer is not known yet hold
    none, and are bounded by who reads them."""

    limit: int
    taken: int = 0
    _held: dict[Address, int] = field(default_factory=dict)
    """Of no consumer that has none."""

    @property
    def is_tight(self) -> bool:
        """Whether `take` may refuse anybody: nobody holds an eighth of what is free before that."""
        return 9 * self.taken >= self.limit

    def check(self, consumer: Address) -> None:
        """What `take` would say, of somebody whose name is not proven: nothing is counted. Raises Unavailable
        `busy`."""
        held = self._held.get(consumer, 0)
        free, parts = self.limit - self.taken, len(self._held) + (not held) + 1
        if held >= free or (8 * held >= free and held * parts >= self.limit):
            raise Unavailable(
                f"{self.taken} requests are in progress here, {held} of them yours; ask again later, with "
                "fewer at a time, or ask another node",
                code="busy",
            )

    def take(self, consumer: Address) -> None:
        """For a consumer who is proven. Raises Unavailable `busy`; else the place goes to `free`."""
        self.check(consumer)
        self.hold(consumer)

    def hold(self, consumer: Address) -> None:
        """`take` for who was just checked."""
        self._held[consumer] = self._held.get(consumer, 0) + 1
        self.taken += 1

    def free(self, consumer: Address) -> None:
        left = self._held[consumer] - 1
        if left:
            self._held[consumer] = left
        else:
            del self._held[consumer]
        self.taken -= 1

    @contextmanager
    def held(self, consumer: Address) -> Iterator[None]:
        """A place inside the block. Raises Unavailable `busy`."""
        self.take(consumer)
        try:
            yield
        finally:
            self.free(consumer)


def named_consumer(raw: bytes) -> Address | None:
    """Whom a request's JSON seems to name, before it is parsed: enough to refuse who has no place left, at a
    hundredth of what reading the request costs."""
    found = _CONSUMER.search(raw)
    return Address(found[1].decode()) if found else None
