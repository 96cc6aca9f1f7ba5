"""Runs a version in this process: what is waiting is batched, short runs in the event loop, long ones in
threads."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from dataclasses import dataclass
from typing import Final

import structlog

from assay.node.engines.batch_run import Batch
from assay.node.engines.batching import Batching, batch_key, row_count
from assay.node.engines.engine import EngineStatistics, Job
from assay.node.engines.fair_queue import Entry, FairQueue
from assay.node.engines.lanes import Lanes
from assay.node.engines.pauses import Pauses
from assay.node.engines.run_times import RunTimes
from assay.node.engines.runtime import OutOfTime, SessionRunner
from assay.node.errors import RunFailed, Unavailable

MAX_RETRY_AFTER: Final = 60
MAX_LOOKS: Final = 64
"""At the sockets, for more requests, before a run."""
RUN_SECONDS: Final = 0.05
"""Of runs in the event loop after another, at most."""
LEAST_ROWS: Final = 16
"""Rows, or two batches, that may wait however long they take."""
_SHARE: Final = 0.1
"""Of the newest run in the average rate."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class EngineRules:
    """`lanes`: runs of one engine at the same time in threads, of `threads` threads each. `inline_seconds`:
    runs that are expected to take less are run in the event loop. The queue holds what has not started; who
    would wait there for more than `wait_seconds` is refused."""

    run_seconds: float = 10.0
    threads: int = 1
    lanes: int = 1
    inline_seconds: float = 0.001
    max_waiting: int = 128
    max_waiting_bytes: int = 256 << 20
    max_batch_bytes: int = 64 << 20
    wait_seconds: float = 0.5


class LocalEngine:
    """`submit` and `close` belong to one event loop. `times` knows the runs of the warm-up; `name` is the
    version's, for the log."""

    def __init__(
        self,
        runner: SessionRunner,
        batching: Batching,
        rules: EngineRules,
        *,
        memory_bytes: int,
        times: RunTimes,
        name: str = "",
    ) -> None:
        self.inputs = runner.inputs
        self.outputs = runner.outputs
        self.batching = batching
        self.memory_bytes = memory_bytes
        self.statistics = EngineStatistics(batching=batching)
        self._name = name
        self._pauses = Pauses()
        self._resuming: asyncio.TimerHandle | None = None
        self._runner: SessionRunner | None = runner
        self._rules = rules
        self._times = times
        self._lock = threading.Lock()
        self._queue: FairQueue[Job] = FairQueue(rules.max_waiting, rules.max_waiting_bytes)
        self._lanes = Lanes(runner, rules.lanes, self._lock, self._take_in_lane, self._finish)
        self._waiting = 0
        self._flush_due = False
        self._looked = 0
        self._flushed = 0.0
        """When the last runs in the event loop ended."""
        self._arrived = False
        self._drained: asyncio.Event | None = None
        self._rows_per_second = 0.0

    @property
    def waiting(self) -> int:
        return self._waiting

    @property
    def queued(self) -> int:
        """Jobs that have not started."""
        return len(self._queue)

    def submit(self, job: Job) -> None:
        if self._drained is not None:
            raise Unavailable("this version is being unloaded; ask again, or ask another node", retry_after=1)
        inputs = job.inputs
        size = sum([array.nbytes for array in inputs])
        rows = row_count(inputs) if self.batching.max_rows > 1 else 0
        key = batch_key(inputs) if rows else id(job)  # of its own: it is joined with nothing
        with self._lock:
            if not self._queue.push(Entry(job, job.consumer, rows or 1, size, key, time.perf_counter())):
                self.statistics.refused += 1
                raise self._busy(job)
        self._waiting += 1
        self._arrived = True
        self._flush_soon()

    def _busy(self, job: Job) -> Unavailable:
        """`retry_after`: until what waits now has run, by the rate of late."""
        rate, mine = self._rows_per_second, self._queue.waiting(job.consumer)
        seconds = math.ceil(self._queue.rows / rate) if rate else 1
        return Unavailable(
            f"{len(self._queue)} requests wait for this version, {mine} of them yours; ask again later, with "
            "fewer at a time, or ask another node",
            code="busy",
            retry_after=min(max(seconds, 1), MAX_RETRY_AFTER),
        )

    def _flush_soon(self) -> None:
        """After everything that the event loop has at hand: requests that it has read are in the queue
        then, and those that arrived while it read them."""
        if not self._flush_due:
            self._flush_due = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        """One run in the event loop; or see to it that a lane works.

        While each look at the sockets finds more requests, they are read first, up to a batch: that is no
        waiting, for a look takes microseconds and what it finds is there. While whole batches wait, runs take
        as long as the loop was at other things: however many requests there are to refuse, half of the time
        is for those that were let in.
        """
        self._flush_due = False
        if self._arrived and self._looked < MAX_LOOKS and self._queue.rows < self.batching.max_rows:
            self._arrived = False
            self._looked += 1
            self._flush_soon()
            return
        self._looked = 0
        begun = time.perf_counter()
        allowed = min(begun - self._flushed, RUN_SECONDS)
        while self._run_here():
            if self._queue.rows < self.batching.max_rows or time.perf_counter() - begun >= allowed:
                if len(self._queue):
                    self._flush_soon()
                break
        self._flushed = time.perf_counter()

    def _run_here(self) -> bool:
        """One run in the event loop. False: nothing waits, or a lane is to see to it."""
        with self._lock:
            if not len(self._queue):
                return False
            if not self._is_short():
                self._lanes.wake()
                return False
            batch = self._take()
        if batch is not None:
            assert self._runner is not None
            batch.run(self._runner)
            self._finish(batch)
        return True

    def _is_short(self) -> bool:
        """Whether to run the next batch in the event loop: not while a lane is busy, whose core it would
        take."""
        if self._lanes.busy:
            return False
        size = min(self._queue.bytes, self._queue.bytes * self.batching.max_rows // max(self._queue.rows, 1))
        return self._times.predict(size) <= self._rules.inline_seconds

    def _take(self) -> Batch | None:
        """The next batch; with the lock held, in any thread."""
        before = len(self._queue)
        tasks = self._queue.pop_batch(self.batching.max_rows, self._rules.max_batch_bytes, _is_cancelled)
        cancelled = before - len(self._queue) - len(tasks)
        if not tasks and not cancelled:
            return None
        rows, size = sum([task.rows for task in tasks]), sum([task.size for task in tasks])
        return Batch(tasks, rows, size, cancelled)

    def _take_in_lane(self) -> Batch | None:
        batch = self._take()
        if len(self._queue):
            self._lanes.wake()
        return batch

    def _finish(self, batch: Batch) -> None:
        """In the event loop: hand out what a run gave."""
        self._waiting -= len(batch.tasks) + batch.cancelled
        self.statistics.cancelled += batch.cancelled
        if batch.problem is not None:
            self._stop_batching(batch.problem, batch.rows)
        if batch.tasks:
            self._count(batch)
        for task, result in zip(batch.tasks, batch.results, strict=True):
            self.statistics.failed += isinstance(result, Exception)
            try:
                task.item.done(result)
            except Exception as error:
                context = {"message": "what waited for a run failed", "exception": error}
                asyncio.get_running_loop().call_exception_handler(context)
        self._check_drained()

    def _stop_batching(self, problem: RunFailed, rows: int) -> None:
        """For good if rows went missing, which is the model's way. That a batch ran out of time may have been
        one request's doing: for a while, longer each time."""
        reason = f"{problem} (a batch of {rows} rows)"
        if not isinstance(problem, OutOfTime):
            self._keep_alone(Batching(1, reason))
        elif self.batching.max_rows > 1:
            tried, loop = self.batching, asyncio.get_running_loop()
            pause = self._pauses.take(loop.time())
            self._keep_alone(Batching(1, reason, time.time() + pause))
            self._resuming = loop.call_later(pause, self._resume, tried)

    def _keep_alone(self, why: Batching) -> None:
        if self._resuming is not None:
            self._resuming.cancel()
        self.batching = self.statistics.batching = why
        _log.warning("requests are run one by one", version=self._name, batching=str(why))

    def _resume(self, batching: Batching) -> None:
        self._resuming = None
        self.batching = self.statistics.batching = batching
        _log.info("requests are batched again", version=self._name, batching=str(batching))

    def _count(self, batch: Batch) -> None:
        self._times.record(batch.size, batch.cpu_seconds)
        queued = sum([batch.started - task.since for task in batch.tasks])
        self.statistics.ran(len(batch.tasks), batch.rows, batch.seconds, queued)
        rate = batch.rows * max(self._lanes.busy, 1) / max(batch.seconds, 1e-6)
        self._rows_per_second += _SHARE * (rate - self._rows_per_second) if self._rows_per_second else rate
        least = max(2 * self.batching.max_rows, LEAST_ROWS)
        self._queue.max_rows = max(self._rows_per_second * self._rules.wait_seconds, least)

    def _check_drained(self) -> None:
        if self._drained is not None and not self._waiting:
            self._drained.set()

    async def close(self) -> None:
        """Finish what was submitted, then let go of the session."""
        if self._drained is None:
            self._drained = asyncio.Event()
            self._check_drained()
        await self._drained.wait()
        if self._resuming is not None:
            self._resuming.cancel()
        self._lanes.stop()
        self._runner = None


def _is_cancelled(job: Job) -> bool:
    return job.cancelled
