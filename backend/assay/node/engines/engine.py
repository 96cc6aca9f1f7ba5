"""What runs one loaded version, whatever runs it: a session of this process, or a server behind this node."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from assay.node.engines.batching import Batching
from assay.node.observability.counting import POWERS, SECONDS, Distribution
from assay.node.oip.protocol import Array
from assay.types import Address, Hash32, TensorSpec

_ALONE: Final = Batching(1, "this engine runs one request at a time")


@dataclass(slots=True)
class Result:
    """All outputs of one request in signature order, and their hash."""

    outputs: tuple[Array, ...]
    output_hash: Hash32


@dataclass(slots=True)
class Job:
    """One request's inputs, in signature order. `done` is called once, in the event loop, with the result or
    with what went wrong (RunFailed, Unavailable). `consumer`: whose share of the engine it takes. Set
    `cancelled` when nobody waits for it any more: if it has not started it is left out, without `done`."""

    inputs: tuple[Array, ...]
    consumer: Address
    done: Callable[[Result | Exception], None]
    cancelled: bool = False


@dataclass(slots=True)
class ExecutorStatistics:
    """The server that runs a version, since it was loaded: `problem` empty: it is in use. `seconds` of its
    answers, from sending; `failures` by what they were."""

    url: str
    problem: str = ""
    failures: dict[str, int] = field(default_factory=dict)
    seconds: Distribution = field(default_factory=lambda: Distribution(SECONDS))

    def failed(self, what: str) -> None:
        self.failures[what] = self.failures.get(what, 0) + 1


@dataclass(slots=True)
class EngineStatistics:
    """What an engine has done since it was loaded. Seconds are summed; `by_rows`: runs and their seconds by
    the rows of the run. `batching` as it is now; `executor`, where another server runs the version."""

    jobs: int = 0
    failed: int = 0
    refused: int = 0
    cancelled: int = 0
    queue_seconds: float = 0.0
    by_rows: dict[int, tuple[int, float]] = field(default_factory=dict)
    batch_rows: Distribution = field(default_factory=lambda: Distribution(POWERS))
    run_seconds: Distribution = field(default_factory=lambda: Distribution(SECONDS))
    last_done: float = 0.0
    batching: Batching = _ALONE
    executor: ExecutorStatistics | None = None

    def ran(self, jobs: int, rows: int, seconds: float, queue_seconds: float = 0.0) -> None:
        """One run of that many rows, which answered `jobs`, who waited `queue_seconds` together."""
        self.jobs += jobs
        self.queue_seconds += queue_seconds
        self.batch_rows.observe(rows)
        self.run_seconds.observe(seconds)
        runs, total = self.by_rows.get(rows, (0, 0.0))
        self.by_rows[rows] = (runs + 1, total + seconds)
        self.last_done = time.time()


class Engine(Protocol):
    """Belongs to the server's event loop."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    statistics: EngineStatistics

    @property
    def waiting(self) -> int:
        """Jobs submitted and not done."""

    @property
    def memory_bytes(self) -> int:
        """What it holds of this node's memory while loaded."""

    def submit(self, job: Job) -> None:
        """Take a job. Raises Unavailable `busy` if the queue, or the consumer's share of it, is full."""

    async def close(self) -> None:
        """Finish what was submitted, then let go of everything."""


async def run_job(engine: Engine, inputs: tuple[Array, ...], consumer: Address) -> Result:
    """Submit and wait. Raises what `submit` raises or `done` is given; cancelled, it takes the job back."""
    future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()

    def done(outcome: Result | Exception) -> None:
        if future.done():
            return
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    job = Job(inputs, consumer, done)
    engine.submit(job)
    try:
        return await future
    except asyncio.CancelledError:
        job.cancelled = True
        raise
