"""The threads beside the server: a step repeated until it is stopped."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

import structlog

from assay.chain.errors import InsufficientFunds
from assay.errors import FatalError, RetryableError

FUNDS_WAIT: Final = 30.0
"""Seconds between two looks whether somebody has sent gas."""

_log = structlog.get_logger(__name__)


class RepeatingThread(threading.Thread):
    """Runs `step` every `poll_seconds` until `stop`. A FatalError ends it and is told to `on_failure`.

    Whatever else goes wrong is told and tried again: a silent thread would lose money and disputes.
    """

    def __init__(
        self,
        name: str,
        step: Callable[[], object],
        poll_seconds: float,
        on_failure: Callable[[FatalError], None],
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._step = step
        self._poll_seconds = poll_seconds
        self._on_failure = on_failure
        self._stopping = threading.Event()

    def run(self) -> None:
        while not self._stopping.is_set():
            pause = self._poll_seconds
            try:
                self._step()
            except RetryableError as error:
                _log.warning("it waits", thread=self.name, error=str(error))
            except InsufficientFunds as error:
                _log.error("signer cannot pay gas; send it funds", thread=self.name, error=str(error))
                pause = max(pause, FUNDS_WAIT)
            except FatalError as error:
                _log.error("stopped", thread=self.name, error=str(error))
                self._on_failure(error)
                return
            except Exception as error:
                _log.error("failed; it is tried again", thread=self.name, exc_info=error)
            self._stopping.wait(pause)

    def stop(self, timeout: float) -> None:
        """Finish the step at hand; a transaction under way stays in the outbox for the next start."""
        self._stopping.set()
        self.join(timeout)
