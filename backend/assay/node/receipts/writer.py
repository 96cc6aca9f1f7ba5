"""Group commit: one thread writes to the log whatever requests are waiting, in one transaction, then wakes
them all."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable
from typing import Final, Protocol

import structlog

from assay.commitments.signing import SigningKey
from assay.errors import FatalError
from assay.node.receipts.entries import Acknowledge, Issue, LoggedReceipt
from assay.node.receipts.log import ReceiptLog

MAX_GROUP: Final = 512

Item = Issue | Acknowledge
Done = Callable[[LoggedReceipt | Exception | None], None]
Outcome = LoggedReceipt | None | BaseException
Waiting = tuple[Item, "asyncio.Future[LoggedReceipt | None]"]

_log = structlog.get_logger(__name__)


class ReceiptWriter(Protocol):
    """What puts receipts on disk; belongs to the event loop that called `start`."""

    @property
    def waiting(self) -> int:
        """Items that are not on disk yet."""

    def start(self) -> None: ...

    async def stop(self) -> None:
        """Write what is waiting, then let go of the log."""

    def submit(self, item: Item) -> asyncio.Future[LoggedReceipt | None]:
        """Resolves when the item is on disk: with the receipt for an `Issue`, with None for an `Acknowledge`.

        Raises FatalError after a failed write or after `stop`.
        """

    def put(self, item: Item, done: Done) -> None:
        """`submit` with a callback in the loop instead of a future."""


class Writer:
    """Owns the log's write connection from `start` to `stop`. `submit` belongs to the event loop that called
    `start`.

    A write that fails for any reason but a voucher used twice is fatal: `on_failure` is called once, in the
    loop, and every later `submit` is refused.
    """

    def __init__(self, log: ReceiptLog, key: SigningKey, on_failure: Callable[[FatalError], None]) -> None:
        self._log = log
        self._key = key
        self._on_failure = on_failure
        self._queue: queue.SimpleQueue[Waiting | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="receipts-writer", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._failure: FatalError | None = None
        self._stopped = False

    @property
    def waiting(self) -> int:
        return self._queue.qsize()

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self) -> None:
        """Write what is waiting, then end the thread."""
        if self._stopped or self._loop is None:
            return
        self._stopped = True
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def submit(self, item: Item) -> asyncio.Future[LoggedReceipt | None]:
        """Resolves when the item is on disk: with the receipt for an `Issue`, with None for an `Acknowledge`.

        Raises FatalError after a failed write or after `stop`.
        """
        if self._failure is not None or self._loop is None or self._stopped:
            raise self._failure or FatalError("the receipts log is closed; the node is stopping")
        future = self._loop.create_future()
        self._queue.put((item, future))
        return future

    def put(self, item: Item, done: Done) -> None:
        """As `ReceiptWriter.put`."""

        def tell(future: asyncio.Future[LoggedReceipt | None]) -> None:
            if future.cancelled():
                return
            error = future.exception()
            done(error if isinstance(error, Exception) else future.result())

        self.submit(item).add_done_callback(tell)

    def _run(self) -> None:
        running = True
        while running:
            first = self._queue.get()
            if first is None:
                return
            group = [first]
            while len(group) < MAX_GROUP:
                try:
                    item = self._queue.get_nowait()
                except queue.Empty:
                    break
                if item is None:
                    running = False
                    break
                group.append(item)
            self._deliver(group, self._write(group))

    def _write(self, group: list[Waiting]) -> list[Outcome]:
        try:
            return [*self._log.write([item for item, _ in group], self._key)]
        except sqlite3.IntegrityError as error:
            if len(group) > 1:
                return [self._write([waiting])[0] for waiting in group]
            return [error]
        except Exception as error:
            _log.error("receipts log failed", log=self._log.name, error=str(error))
            failure = FatalError(
                f"cannot write the receipts log {self._log.name}: {error}; no signature leaves without it. "
                "Check free space and permissions, then start the node again"
            )
            return [failure] * len(group)

    def _deliver(self, group: list[Waiting], outcomes: list[Outcome]) -> None:
        assert self._loop is not None
        pairs = [(future, outcome) for (_, future), outcome in zip(group, outcomes, strict=True)]
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._resolve, pairs)

    def _resolve(self, pairs: list[tuple[asyncio.Future[LoggedReceipt | None], Outcome]]) -> None:
        for future, outcome in pairs:
            if isinstance(outcome, FatalError) and self._failure is None:
                self._failure = outcome
                self._on_failure(outcome)
            if future.cancelled():
                continue
            if isinstance(outcome, BaseException):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)
