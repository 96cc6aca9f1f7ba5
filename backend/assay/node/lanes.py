"""The threads in which one engine runs what takes too long for the event loop."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable

from assay.node.batch_run import Batch
from assay.node.runtime import SessionRunner


class Lanes:
    """`count` threads at most, each started when there is work that none of the others is free for. Belongs
    to the event loop, in which `done` is called after each run."""

    def __init__(self, runner: SessionRunner, count: int, done: Callable[[Batch], None]) -> None:
        self._runner: SessionRunner | None = runner
        self._count = count
        self._done = done
        self._busy = 0
        self._started = 0
        self._work: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()

    @property
    def busy(self) -> int:
        return self._busy

    @property
    def is_free(self) -> bool:
        return self._busy < self._count

    def put(self, batch: Batch) -> None:
        self._busy += 1
        if self._busy > self._started:
            self._started += 1
            loop = asyncio.get_running_loop()
            threading.Thread(target=self._serve, args=(self._runner, loop), name="model", daemon=True).start()
        self._work.put(batch)

    def stop(self) -> None:
        """End the threads, which are idle."""
        for _ in range(self._started):
            self._work.put(None)
        self._runner = None

    def _serve(self, runner: SessionRunner, loop: asyncio.AbstractEventLoop) -> None:
        while (batch := self._work.get()) is not None:
            batch.run(runner)
            try:
                loop.call_soon_threadsafe(self._finish, batch)
            except RuntimeError:  # the loop has ended: nobody waits any more
                return
            del batch

    def _finish(self, batch: Batch) -> None:
        self._busy -= 1
        self._done(batch)
