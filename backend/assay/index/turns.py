"""Whose batches are asked for first: theirs whose batches took the least time of late.

A batch may be large and come slowly: a node that posts many such could otherwise keep others' batches, or
worse its own wrong ones, from being looked at until nobody can dispute them any more.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeVar

N = TypeVar("N", bound=str)
B = TypeVar("B")
HALF_LIFE: Final = 3_600.0
"""Seconds after which the time that was spent on a node counts half."""
STEP_SECONDS: Final = 10.0
"""Nodes whose times differ by less take turns by age; who takes more ends the turn."""


class Turns:
    """Belongs to one thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._spent: dict[str, tuple[float, float]] = {}
        """Seconds, and when they were that many; of no node that has next to none."""

    def order(self, nodes: Iterable[N]) -> list[N]:
        """`nodes`, which come by age."""
        return sorted(nodes, key=lambda node: self._of(node) // STEP_SECONDS)

    def took(self, node: str, seconds: float) -> None:
        """That much was spent on the node's turn."""
        now = self._clock()
        self._spent[node] = self._of(node) + seconds, now
        spent = {name: self._of(name) for name in self._spent}
        self._spent = {name: (value, now) for name, value in spent.items() if value >= STEP_SECONDS / 10}

    def _of(self, node: str) -> float:
        seconds, at = self._spent.get(node, (0.0, 0.0))
        return seconds * math.exp2((at - self._clock()) / HALF_LIFE)


def while_in_turn(batches: Iterable[B], should_stop: Callable[[], bool]) -> Iterator[B]:
    """Those that a node's turn has time to begin."""
    ends = time.monotonic() + STEP_SECONDS
    for batch in batches:
        if should_stop() or time.monotonic() >= ends:
            return
        yield batch
