"""Threads for what may take minutes: a slow hub's download, a file's first run. They keep no process."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def run_beside(work: Callable[[], T]) -> T:
    """What `work` gives, or raises. Cancelled, it is left to itself: the process may end before it does,
    which the event loop's own threads would not let it."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def end(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, failure = None, None
        try:
            result = work()
        except BaseException as error:
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits any more
            loop.call_soon_threadsafe(end, result, failure)

    threading.Thread(target=run, name="loading", daemon=True).start()
    return await future
