"""The watcher's three loops: the chain and the games in the calling thread, batches and receipts in others.

Each has two branches: RetryableError waits and goes on, anything else stops the process loudly.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Final

import structlog

from assay.errors import RetryableError
from assay.watch.challenger import ChainTime, Challenger
from assay.watch.collector import Collector
from assay.watch.examiner import Examiner
from assay.watch.follower import ChainFollower, Position
from assay.watch.indexed import IndexedBatches
from assay.watch.store import Store

FIRST_BACKOFF, MAX_BACKOFF = 0.5, 30.0
PRUNE_SECONDS: Final = 3_600.0
LOOK_SECONDS: Final = 1.0
"""While nodes are being asked: how often who waits, and how long the others take, is looked at."""

log = structlog.get_logger(__name__)


class ChainClock:
    """The chain's time between blocks: the head's, or this machine's where no block came since."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock, self._head, self._ahead = clock, 0, 0.0

    def at(self, head_time: int) -> ChainTime:
        """A chain ahead of this machine (a test's) stays as far ahead."""
        if head_time != self._head:
            self._head, self._ahead = head_time, max(0.0, head_time - self._clock())
        return ChainTime(head_time, max(head_time, int(self._clock() + self._ahead)))


@dataclass(frozen=True, slots=True)
class Parts:
    """`challenger` None: wrong receipts are reported, not disputed."""

    store: Store
    follower: ChainFollower
    collector: Collector
    examiner: Examiner
    challenger: Challenger | None
    indexed: IndexedBatches | None = None


class Watcher:
    """`run` returns after `stop`, or raises what ended it. `poll`: seconds between looks at the chain."""

    def __init__(
        self,
        parts: Parts,
        *,
        poll: float = 1.0,
        keep_seconds: int = 30 * 86_400,
        clock: Callable[[], float] = time.time,
        stopping: threading.Event | None = None,
    ) -> None:
        self._parts, self._poll, self._keep = parts, poll, keep_seconds
        self._look = min(poll, LOOK_SECONDS)
        self._clock, self._chain_clock = clock, ChainClock(clock)
        self._stopping = stopping or threading.Event()
        self._failure: BaseException | None = None
        self._pruned_at = 0.0

    def stop(self) -> None:
        """Safe from signal handlers and other threads."""
        self._stopping.set()

    def run(self, on_step: Callable[[Position], None] = lambda position: None) -> None:
        loops = (("collector", self._collect_loop), ("examiner", self._examine_loop))
        threads = [threading.Thread(target=self._guard, args=(loop,), name=name) for name, loop in loops]
        for thread in threads:
            thread.start()
        try:
            self._loop("chain", lambda: self._follow(on_step))
        finally:
            self._stopping.set()
            for thread in threads:
                thread.join()
        if self._failure is not None:
            raise self._failure

    def run_once(self, on_step: Callable[[Position], None] = lambda position: None) -> None:
        """To the head, all that is due there, one step of the games; for cron and tests."""
        while not self._stopping.is_set() and self._follow(on_step) == 0.0:
            pass
        with closing(self._parts.collector), closing(self._parts.examiner):
            while not self._stopping.is_set() and 0.0 in (self._collect(), self._examine()):
                pass
        self._follow(on_step)

    def _follow(self, on_step: Callable[[Position], None]) -> float:
        position = self._parts.follower.step()
        on_step(position)
        if not position.at_head:
            return 0.0
        if self._parts.challenger is not None:
            self._parts.challenger.step(self._chain_clock.at(position.time))
        self._prune(position.time)
        return self._poll

    def _prune(self, now: int) -> None:
        if self._clock() >= self._pruned_at + PRUNE_SECONDS:
            self._pruned_at = self._clock()
            self._parts.store.prune(now - self._keep)

    def _collect_loop(self) -> None:
        with closing(self._parts.collector):
            self._loop("batches", self._collect)

    def _examine_loop(self) -> None:
        with closing(self._parts.examiner):
            self._loop("receipts", self._examine)

    def _collect(self) -> float:
        collector = self._parts.collector
        done = collector.step(should_stop=self._stopping.is_set, wait=self._look)
        if self._parts.indexed is not None:
            done += self._parts.indexed.step()
        return 0.0 if done or collector.is_busy else self._poll

    def _examine(self) -> float:
        examiner = self._parts.examiner
        done = examiner.step(should_stop=self._stopping.is_set, wait=self._look)
        return 0.0 if done or examiner.is_busy else self._poll

    def _guard(self, loop: Callable[[], None]) -> None:
        try:
            loop()
        except BaseException as error:
            self._failure = self._failure or error
            self._stopping.set()

    def _loop(self, name: str, work: Callable[[], float]) -> None:
        """`work` says how long to wait before it is done again."""
        backoff = FIRST_BACKOFF
        while not self._stopping.is_set():
            try:
                wait, backoff = work(), FIRST_BACKOFF
            except RetryableError as error:
                log.warning("retrying", loop=name, wait=backoff, error=str(error))
                wait, backoff = backoff, min(MAX_BACKOFF, backoff * 2)
            self._stopping.wait(wait)
