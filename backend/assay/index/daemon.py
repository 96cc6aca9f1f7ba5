"""The index process: the follower in the calling thread; batch checks, program checks and probes in threads
of their own.

Each loop has two branches: RetryableError waits and goes on, anything else stops the whole process loudly.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing

import structlog

from assay.errors import RetryableError
from assay.index.batches import BatchChecker
from assay.index.download import LOOK_SECONDS
from assay.index.follower import Follower, Outcome, Step
from assay.index.probe import PERIOD, Prober
from assay.index.programs import ProgramChecker

log = structlog.get_logger(__name__)

FIRST_BACKOFF, MAX_BACKOFF = 0.5, 30.0


class Daemon:
    """`run` returns after `stop`, or raises what ended it. `poll`: seconds between looks for a new block."""

    def __init__(
        self,
        follower: Follower,
        checker: BatchChecker,
        prober: Prober | None,
        programs: ProgramChecker | None = None,
        *,
        poll: float = 1.0,
        probe_period: float = PERIOD,
    ) -> None:
        self._follower, self._checker, self._prober = follower, checker, prober
        self._programs = programs
        self._poll, self._probe_period = poll, probe_period
        self._stopping = threading.Event()
        self._failure: BaseException | None = None

    def stop(self) -> None:
        """Safe from signal handlers and other threads; `run` returns within a window's time."""
        self._stopping.set()

    def run(self, on_step: Callable[[Step], None] = lambda step: None) -> None:
        self._follower.prepare()
        threads = [threading.Thread(target=self._guard, args=(self._check_loop,), name="batch-checks")]
        if self._programs is not None:
            threads.append(threading.Thread(target=self._guard, args=(self._program_loop,), name="programs"))
        if self._prober is not None:
            threads.append(threading.Thread(target=self._guard, args=(self._probe_loop,), name="probes"))
        for thread in threads:
            thread.start()
        try:
            self._follow_loop(on_step)
        finally:
            self._stopping.set()
            for thread in threads:
                thread.join()
        if self._failure is not None:
            raise self._failure

    def _guard(self, loop: Callable[[], None]) -> None:
        try:
            loop()
        except BaseException as error:
            self._failure = error
            self._stopping.set()

    def _follow_loop(self, on_step: Callable[[Step], None]) -> None:
        def follow() -> float:
            step = self._follower.step()
            on_step(step)
            return 0.0 if step.outcome is Outcome.ADVANCED and step.number < step.head else self._poll

        self._loop("follow", follow)

    def _check_loop(self) -> None:
        checker, wait = self._checker, min(LOOK_SECONDS, self._poll)

        def check() -> float:
            done = checker.step(should_stop=self._stopping.is_set, wait=wait)
            return 0.0 if done or checker.is_busy else self._poll

        with closing(checker):
            self._loop("check", check)

    def _program_loop(self) -> None:
        programs = self._programs
        assert programs is not None
        self._loop(
            "programs", lambda: 0.0 if programs.step(should_stop=self._stopping.is_set) else self._poll
        )

    def _probe_loop(self) -> None:
        prober = self._prober
        assert prober is not None

        def probe() -> float:
            started = time.monotonic()
            prober.step()
            return max(0.1, self._probe_period - (time.monotonic() - started))

        self._loop("probe", probe)

    def _loop(self, name: str, work: Callable[[], float]) -> None:
        """`work` says how long to wait before it is done again."""
        backoff = FIRST_BACKOFF
        while not self._stopping.is_set():
            try:
                wait = work()
                backoff = FIRST_BACKOFF
            except RetryableError as error:
                log.warning("retrying", loop=name, wait=backoff, error=str(error))
                wait, backoff = backoff, min(MAX_BACKOFF, backoff * 2)
            self._stopping.wait(wait)
