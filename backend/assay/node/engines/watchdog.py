"""Stops runs that take too long, wherever they run: in a thread, or inline in the event loop."""

from __future__ import annotations

import itertools
import threading
import time
from typing import Final, Protocol

TICK_SECONDS: Final = 0.05
"""A run is stopped so much after its time at most, and a little."""
IDLE_SECONDS: Final = 2.0
"""Without any run for so long, the thread sleeps until the next one, which then wakes it."""


class Stoppable(Protocol):
    """`onnxruntime.RunOptions`."""

    terminate: bool


class Watchdog:
    """One thread for all runs of a process; it starts with the first. Thread-safe."""

    def __init__(self) -> None:
        self._runs: dict[int, tuple[float, Stoppable]] = {}
        self._tokens = itertools.count()
        self._wake = threading.Event()
        self._is_idle = False
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    def arm(self, run: Stoppable, seconds: float) -> int:
        """Set `run.terminate` after `seconds` unless it is disarmed before; answers what disarms it."""
        token = next(self._tokens)
        self._runs[token] = (time.monotonic() + seconds, run)
        if self._thread is None:
            self._start()
        elif self._is_idle:
            self._wake.set()
        return token

    def disarm(self, token: int) -> bool:
        """Whether its time had not come: then `terminate` is not set, now or later."""
        return time.monotonic() < self._runs.pop(token)[0]

    def _start(self) -> None:
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="run-watchdog", daemon=True)
                self._thread.start()

    def _watch(self) -> None:
        last_run = time.monotonic()
        while True:
            now = time.monotonic()
            for deadline, run in self._runs.copy().values():
                last_run = now
                if now >= deadline:
                    run.terminate = True
            if now - last_run < IDLE_SECONDS:
                time.sleep(TICK_SECONDS)
                continue
            self._is_idle = True
            if not self._runs:  # looked at after saying so: who arms now either is seen here or wakes
                self._wake.wait()
            self._wake.clear()
            self._is_idle = False
            last_run = time.monotonic()
