"""An engine whose runs happen on another server, which is trusted with nothing that it has not shown.

Each connection is verified before its first answer is used: an exact version's self-test runs on it, since
behind one address there may be several servers, or another one after a restart. While no server passes, the
version is not served; it comes back by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from assay.commitments.tensors import commit_tensors
from assay.errors import AssayError
from assay.node.engines.batching import Batching
from assay.node.engines.engine import EngineStatistics, ExecutorStatistics, Job, Result
from assay.node.engines.fair_queue import Entry, FairQueue
from assay.node.errors import RunFailed, Unavailable
from assay.node.oip.protocol import Array
from assay.node.remote.connection import Connection, ConnectionFailed
from assay.node.remote.executor import MAX_RETRY_AFTER, Executor, NotTheVersion
from assay.types import Hash32

TRIES: Final = 2
"""A run whose connection was lost is sent once more: it changes nothing there, and nothing is signed before
its answer."""
MAX_WAIT: Final = 10.0
"""Seconds between two attempts at an executor that is down."""
LEAST_WAITING: Final = 16
"""Jobs, or two a connection, that may wait however long they take."""
_SHARE: Final = 0.1
"""Of the newest answer in the average rate."""
_BATCHING: Final = Batching(1, "another server runs it: it gets one request at a time on each connection")

_log = structlog.get_logger(__name__)
Reference = Callable[[Sequence[Array]], Hash32]
"""What the outputs must hash to, computed in this process; called in a thread."""


@dataclass(frozen=True, slots=True)
class RemoteRules:
    """The executor is asked every `health_seconds` whether it is ready, and verified anew every
    `recheck_seconds`, each connection as well. `spot_check`: the share of answers computed here too. Who
    would wait for a connection for more than `wait_seconds`, at the rate of late, is refused."""

    connections: int = 8
    max_waiting: int = 512
    max_waiting_bytes: int = 256 << 20
    health_seconds: float = 2.0
    recheck_seconds: float = 60.0
    spot_check: float = 0.0
    wait_seconds: float = 0.5


@dataclass(slots=True)
class Waiting:
    job: Job
    since: float


@dataclass(slots=True)
class Verified:
    """A connection that passed in the engine's `generation`, at `at`."""

    connection: Connection
    binary: bool
    generation: int
    at: float


class RemoteEngine:
    """Belongs to one event loop. `problem` empty: it serves. `on_problem` is told of every change."""

    def __init__(
        self,
        executor: Executor,
        rules: RemoteRules = RemoteRules(),
        on_problem: Callable[[str], None] = lambda _: None,
        reference: Reference | None = None,
        *,
        memory_bytes: int = 0,
    ) -> None:
        self.inputs = executor.inputs
        self.outputs = executor.outputs
        self.memory_bytes = memory_bytes
        self.health = ExecutorStatistics(executor.target.url)
        self.statistics = EngineStatistics(batching=_BATCHING, executor=self.health)
        self.problem = "its executor was not asked yet"
        self._executor = executor
        self._rules = rules
        self._on_problem = on_problem
        self._reference = reference
        self._queue: FairQueue[Waiting] = FairQueue(rules.max_waiting, rules.max_waiting_bytes)
        self._queued = asyncio.Semaphore(0)
        self._running = 0
        self._jobs_per_second = 0.0
        self._generation = 0
        self._wrong = ""
        self._closing = False
        self._trouble = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Verify the executor for the first time; `problem` says what came of it."""
        await self._examine(verify=True)
        self._tasks = [asyncio.create_task(self._watch())]
        self._tasks += [asyncio.create_task(self._work()) for _ in range(self._rules.connections)]

    @property
    def waiting(self) -> int:
        return len(self._queue) + self._running

    def submit(self, job: Job) -> None:
        if self.problem or self._closing:
            raise Unavailable(self.problem or "this version is being unloaded; ask again", retry_after=5)
        size = sum(array.nbytes for array in job.inputs)
        entry = Entry(Waiting(job, time.perf_counter()), job.consumer, 1, size, None)
        if not self._queue.push(entry):
            self.statistics.refused += 1
            raise self._busy(job)
        self._queued.release()

    def _busy(self, job: Job) -> Unavailable:
        """`retry_after`: until what waits now was answered, by the rate of late."""
        waiting, rate = len(self._queue), self._jobs_per_second
        seconds = math.ceil(waiting / rate) if rate else 1
        return Unavailable(
            f"{waiting} requests wait for this version, {self._queue.waiting(job.consumer)} of them yours; "
            "ask again later, with fewer at a time, or ask another node",
            code="busy",
            retry_after=min(max(seconds, 1), MAX_RETRY_AFTER),
        )

    async def close(self) -> None:
        """Finish what was submitted, for as long as one answer may take; then let go."""
        self._closing = True
        deadline = time.monotonic() + self._executor.target.seconds
        while self.waiting and self._tasks and time.monotonic() < deadline:  # noqa: ASYNC110 - seldom, short
            await asyncio.sleep(0.01)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._fail_waiting("this version is being unloaded; ask again")
        await asyncio.sleep(0)  # closed connections are let go of by the event loop

    # Runs

    async def _work(self) -> None:
        """One connection and what runs on it."""
        kept: Verified | None = None
        try:
            while True:
                await self._queued.acquire()
                for entry in self._queue.pop_batch(1, 0, lambda one: one.job.cancelled):
                    self._running += 1
                    try:
                        kept = await self._answer(entry.item, kept)
                    finally:
                        self._running -= 1
        finally:
            if kept is not None:
                kept.connection.close()

    def _pace(self, seconds: float) -> None:
        """How many jobs may wait, from how long one took beside the others."""
        self.health.seconds.observe(seconds)
        rate = self._running / max(seconds, 1e-6)
        known = self._jobs_per_second
        self._jobs_per_second = known + _SHARE * (rate - known) if known else rate
        least = max(2 * self._rules.connections, LEAST_WAITING)
        self._queue.max_rows = max(self._jobs_per_second * self._rules.wait_seconds, least)

    async def _answer(self, waiting: Waiting, kept: Verified | None) -> Verified | None:
        job, started = waiting.job, time.perf_counter()
        self.statistics.queue_seconds += started - waiting.since
        for tries_left in reversed(range(TRIES)):
            try:
                kept = await self._trusted(kept)
                sent = time.perf_counter()
                outputs = await self._executor.run(kept.connection, job.inputs, binary=kept.binary)
                self._pace(time.perf_counter() - sent)
                await self._spot_check(job, outputs)
            except ConnectionFailed as error:
                self.health.failed("connection")
                if tries_left:
                    continue
                self._set_down(f"its executor does not answer: {error}")
            except NotTheVersion as error:
                self.health.failed("not_the_version")
                self._set_down(str(error))
            except (RunFailed, Unavailable) as error:
                self.health.failed("refused" if isinstance(error, Unavailable) else "run")
                if isinstance(error, Unavailable):
                    self._trouble.set()
                self._give(job, error)
                return kept
            except asyncio.CancelledError:
                self._give(job, Unavailable("this version was unloaded; ask again, or ask another node"))
                raise
            except Exception as error:
                self.health.failed("unread")
                _log.error("executor's answer not read", exc_info=error)
                self._give(job, RunFailed("the executor's answer could not be read"))
                return kept
            else:
                if kept.generation != self._generation:  # the executor failed a check meanwhile
                    break
                rows = outputs[0].shape[0] if outputs[0].ndim else 1
                self.statistics.ran(1, rows, time.perf_counter() - started)
                self._give(job, Result(outputs, commit_tensors(outputs)))
                return kept
            break
        if kept is not None:
            kept.connection.close()
        self._give(job, Unavailable(self.problem or "its executor failed; ask again", retry_after=2))
        return None

    def _give(self, job: Job, outcome: Result | Exception) -> None:
        if isinstance(outcome, Exception):
            self.statistics.failed += 1
        if job.cancelled:
            self.statistics.cancelled += 1
        else:
            job.done(outcome)

    async def _trusted(self, kept: Verified | None) -> Verified:
        """The connection, if it is open and was verified of late, else a new one. Raises ConnectionFailed,
        NotTheVersion, Unavailable, RunFailed."""
        if kept is not None:
            fresh = time.monotonic() - kept.at < self._rules.recheck_seconds
            if kept.connection.is_open and kept.generation == self._generation and fresh:
                return kept
            kept.connection.close()
        return await self._verified()

    async def _verified(self) -> Verified:
        generation = self._generation
        connection = await self._executor.target.connect()
        try:
            binary = await self._executor.verify(connection)
        except (Unavailable, RunFailed) as error:
            connection.close()
            raise NotTheVersion(f"its executor cannot be verified: {error}") from None
        except AssayError:
            connection.close()
            raise
        except Exception as error:
            connection.close()
            _log.error("executor cannot be verified", executor=self._executor.target.url, exc_info=error)
            raise NotTheVersion(_unread(error)) from None
        except BaseException:
            connection.close()
            raise
        return Verified(connection, binary, generation, time.monotonic())

    async def _spot_check(self, job: Job, outputs: tuple[Array, ...]) -> None:
        """A share of the answers is computed here as well. One that is wrong ends the version's service until
        the operator loads it again: its stake is at risk, and a self-test did not show it."""
        if self._reference is None or random.random() >= self._rules.spot_check:
            return
        true = await asyncio.to_thread(self._reference, job.inputs)
        if commit_tensors(outputs) != true:
            self._wrong = (
                "its executor gave a wrong answer, which was not signed; its operator must load it anew"
            )
            _log.error("executor's answer is wrong", executor=self._executor.target.url, expected=true.hex())
            raise NotTheVersion(self._wrong)

    # Health

    async def _watch(self) -> None:
        """At once where somebody met trouble; ever more rarely while it lasts."""
        wait, verified = self._rules.health_seconds, time.monotonic()
        while not self._wrong:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._trouble.wait()
            self._trouble.clear()
            is_due = bool(self.problem) or time.monotonic() - verified >= self._rules.recheck_seconds
            if is_due:
                verified = time.monotonic()
            await self._examine(verify=is_due)
            wait = min(wait * 2, MAX_WAIT) if self.problem else self._rules.health_seconds

    async def _examine(self, *, verify: bool) -> None:
        """Verify it, or only ask it whether it is ready, on a connection of its own."""
        try:
            connection = await self._executor.target.connect()
            try:
                if verify:
                    await self._executor.verify(connection)
                else:
                    await self._executor.check_ready(connection)
            finally:
                connection.close()
        except AssayError as error:
            self.health.failed("check")
            self._set_down(f"its executor cannot be used: {error}")
            self._trouble.clear()
        except Exception as error:  # the watch must not end with it
            self.health.failed("check")
            _log.error("executor cannot be verified", executor=self._executor.target.url, exc_info=error)
            self._set_down(_unread(error))
            self._trouble.clear()
        else:
            if self.problem and not self._wrong:
                self.problem = self.health.problem = ""
                self._on_problem("")

    def _set_down(self, problem: str) -> None:
        """From now on no answer of a connection of before is used."""
        self._generation += 1
        self._trouble.set()
        problem = self._wrong or problem
        self.health.problem = problem
        if problem != self.problem:
            self.problem = problem
            self._on_problem(problem)
        self._fail_waiting(problem)

    def _fail_waiting(self, problem: str) -> None:
        while entries := self._queue.pop_batch(self._rules.max_waiting, self._rules.max_waiting_bytes):
            for entry in entries:
                self._give(entry.item.job, Unavailable(problem, retry_after=5))


def _unread(error: Exception) -> str:
    return f"its executor's answers cannot be read: {type(error).__name__} {str(error)[:200]}"
