"""The threads in which one engine runs what takes too long for the event loop."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Final

from assay.node.engines.batch_run import Batch
from assay.node.engines.runtime import SessionRunner

_WORK: Final = True
_END: Final = False


class Lanes:
    """`count` threads at most. Each, when it gets to run, takes what is waiting by then, until nothing is: so
    what arrives while the processor is busy with other things is in the batch.

    `take`, called with `lock` held, gives the next batch; `done` is called in the event loop after each run.
    `wake` and `busy` are for who holds `lock`.
    """

    def __init__(
        self,
        runner: SessionRunner,
        count: int,
        lock: threading.Lock,
        take: Callable[[], Batch | None],
        done: Callable[[Batch], None],
    ) -> None:
        self.busy = 0
        self._runner: SessionRunner | None = runner
        self._count = count
        self._lock = lock
        self._take = take
        self._done = done
        self._started = 0
        self._work: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None

    def wake(self) -> None:
        """One more thread looks for work, if one is free. First called in the event loop."""
        if self.busy >= self._count or self._runner is None:
            return
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        self.busy += 1
        if self.busy > self._started:
            self._started += 1
            threading.Thread(
                target=self._serve, args=(self._runner, self._loop), name="model", daemon=True
            ).start()
        self._work.put(_WORK)

    def stop(self) -> None:
        """End the threads when they have nothing more to do."""
        for _ in range(self._started):
            self._work.put(_END)
        self._runner = None

    def _serve(self, runner: SessionRunner, loop: asyncio.AbstractEventLoop) -> None:
        while self._work.get():
            while (batch := self._next()) is not None:
                batch.run(runner)
                try:
                    loop.call_soon_threadsafe(self._done, batch)
                except RuntimeError:  # the loop has ended: nobody waits any more
                    return
                del batch

    def _next(self) -> Batch | None:
        with self._lock:
            batch = self._take()
            if batch is None:
                self.busy -= 1
            return batch
