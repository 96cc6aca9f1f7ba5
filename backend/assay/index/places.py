"""A few nodes asked at once, so that slow ones keep nobody waiting for long.

PLACES turns run at once, one a node, a thread each. A turn of SLOW_SECONDS is slow, and so is its node for a
while. Such nodes get all places but one. The last is for others; one of them that turns out to be slow is put
off once it has had the time to show that it gives nothing, if somebody who is not slow waits. So who is not
slow waits for no slow node, and for each other that is before it no longer than that time (decisions/0023).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future
from concurrent.futures import wait as wait_for
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

import structlog

from assay.disk import DiskFullError
from assay.errors import RetryableError
from assay.index.download import LOOK_SECONDS, Interrupted, ShouldStop, go_on
from assay.index.turns import STEP_SECONDS, Turns
from assay.types import Address

PLACES: Final = 4
SLOW_SECONDS: Final = 30.0
SLOW_FOR: Final = 3_600.0
"""Seconds for which a node is slow after a slow turn, unless it has had one that was not."""
R = TypeVar("R")

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Turn(Generic[R]):
    """`was_slow`: its node was, when it began. `put_off`: it is to end without having been finished."""

    began: float
    was_slow: bool
    ended: float | None = None
    put_off: threading.Event = field(default_factory=threading.Event)
    future: Future[R] = field(default_factory=Future)

    def took(self, now: float) -> float:
        """Seconds so far."""
        return (now if self.ended is None else self.ended) - self.began


class Places(Generic[R]):
    """Belongs to one thread, which begins turns and takes what came of them. `patience`: seconds after which
    a silent node is told to give nothing; a turn begins nothing more after STEP_SECONDS.
    """

    def __init__(
        self,
        name: str,
        places: int = PLACES,
        *,
        patience: float = SLOW_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name, self._places, self._patience, self._clock = name, places, patience, clock
        self._turns = Turns(clock)
        self._slow_until: dict[Address, float] = {}
        self._running: dict[Address, _Turn[R]] = {}
        self._failures: list[BaseException] = []

    @property
    def is_busy(self) -> bool:
        return bool(self._running)

    def step(
        self,
        due: Callable[[], Iterable[Address]],
        turn: Callable[[Address, ShouldStop], R],
        should_stop: ShouldStop,
        wait: float,
    ) -> int:
        """How many turns ended or, of nodes that are `due` then, began. Where none did, one is waited for
        `wait` seconds."""
        ended = len(self.ended())
        begun = self.fill(due(), turn, should_stop)
        return ended + begun or len(self.ended(wait))

    def fill(
        self,
        nodes: Iterable[Address],
        turn: Callable[[Address, ShouldStop], R],
        should_stop: ShouldStop = go_on,
    ) -> int:
        """Begin turns of `nodes`, which come by age, where there are places; how many began. Who took least
        time of late goes first. A turn ends soon after it is told to stop, as it likes or with Interrupted.
        """
        begun = 0
        for node in self._turns.order(nodes):
            if should_stop():
                break
            if node in self._running:
                continue
            is_slow = self._clock() < self._slow_until.get(node, 0.0)
            if is_slow and self._slow() >= self._places - 1:
                continue
            if len(self._running) >= self._places:
                if is_slow:
                    continue
                self._make_room()
                break
            self._begin(node, turn, should_stop, is_slow)
            begun += 1
        return begun

    def _begin(
        self, node: Address, turn: Callable[[Address, ShouldStop], R], should_stop: ShouldStop, is_slow: bool
    ) -> None:
        this = _Turn[R](self._clock(), is_slow)

        def run() -> None:
            try:
                found = turn(node, lambda: should_stop() or this.put_off.is_set())
            except BaseException as error:
                this.ended = self._clock()
                this.future.set_exception(error)
            else:
                this.ended = self._clock()
                this.future.set_result(found)

        threading.Thread(target=run, name=self._name).start()
        self._running[node] = this

    def _slow(self) -> int:
        now = self._clock()
        return sum(turn.was_slow or turn.took(now) >= SLOW_SECONDS for turn in self._running.values())

    def _make_room(self) -> None:
        """All places are taken, and somebody who is not slow waits: if all turns are slow, the youngest of
        those whose node was not gives way, in its time."""
        turns, now = self._running.items(), self._clock()
        late = max(SLOW_SECONDS, self._patience + STEP_SECONDS)
        given_up = [item for item in turns if not item[1].was_slow and item[1].took(now) >= late]
        if not given_up or self._slow() < self._places or any(turn.put_off.is_set() for _, turn in turns):
            return
        node, youngest = max(given_up, key=lambda item: item[1].began)
        log.info("put off: others wait", what=self._name, node=node, seconds=round(youngest.took(now)))
        youngest.put_off.set()

    def ended(self, seconds: float = 0.0) -> list[R]:
        """What came of turns that are over, waiting for the first at most so long. Raises what ended one,
        once nothing came of others."""
        futures = [turn.future for turn in self._running.values()]
        wait_for(futures, seconds, return_when=FIRST_COMPLETED)
        over = [(node, turn) for node, turn in self._running.items() if turn.future.done()]
        found = [turn.future.result() for node, turn in over if self._take(node, turn)]
        if self._failures and not found:
            raise self._worst()
        return found

    def _worst(self) -> BaseException:
        """What nobody can mend by trying again, else any: what is tried again fails again."""
        failures, self._failures = self._failures, []
        return next((error for error in failures if not isinstance(error, RetryableError)), failures[0])

    def _take(self, node: Address, turn: _Turn[R]) -> bool:
        """Whether something came of it. Who met a full disk goes last: others may have less."""
        del self._running[node]
        error, now = turn.future.exception(), self._clock()
        seconds = turn.took(now)
        is_full = isinstance(error, DiskFullError)
        self._turns.took(node, max(seconds, 2 * STEP_SECONDS) if is_full else seconds)
        self._slow_until = {name: until for name, until in self._slow_until.items() if until > now}
        if seconds >= SLOW_SECONDS or turn.put_off.is_set():
            self._slow_until[node] = now + SLOW_FOR
        else:
            self._slow_until.pop(node, None)
        if error is not None and not isinstance(error, Interrupted):
            self._failures.append(error)
        return error is None

    def charge(self, node: Address, seconds: float) -> None:
        """What was spent on what came of its turn: it goes after those who took less."""
        self._turns.took(node, seconds)

    def close(self) -> None:
        """End all turns, and wait for that. Raises what nobody can mend by trying again."""
        for turn in self._running.values():
            turn.put_off.set()
        wait_for([turn.future for turn in self._running.values()])
        for node, turn in list(self._running.items()):
            self._take(node, turn)
        if self._failures and not isinstance(error := self._worst(), RetryableError):
            raise error


@contextmanager
def alone(lock: threading.Lock, should_stop: ShouldStop) -> Iterator[None]:
    """What turns do one after another. Raises Interrupted: told to stop while another does it."""
    while not lock.acquire(timeout=LOOK_SECONDS):
        if should_stop():
            raise Interrupted("it was not its turn before the stop: it is done another time")
    try:
        yield
    finally:
        lock.release()
