"""Waits for the lock that lets this process settle and defend, works while it has it, and waits again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

import structlog

from assay.errors import FatalError, RetryableError
from assay.node.receipts.log import ReceiptLog
from assay.node.receipts.postgresql import PostgresDatabase
from assay.node.settlement.leadership import Candidate, Lease
from assay.node.settlement.sending import RunningThreads, Sending
from assay.node.settlement.shared_outbox import SharedOutbox

LOOK_SECONDS: Final = 1.0
"""Between two looks at the lock, of the holder and of those who wait."""
RETRY_SECONDS: Final = 5.0

_log = structlog.get_logger(__name__)


class Standby(threading.Thread):
    """`start_work` starts the threads that send, with the lease that they write through."""

    def __init__(
        self,
        candidate: Candidate,
        start_work: Callable[[Lease], RunningThreads],
        fail: Callable[[FatalError], None],
        *,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        super().__init__(name="standby", daemon=True)
        self._candidate = candidate
        self._start_work = start_work
        self._fail = fail
        self._look_seconds = look_seconds
        self._stopping = threading.Event()
        self.leads = False

    def run(self) -> None:
        told = ""
        while not self._stopping.is_set():
            pause = self._look_seconds
            try:
                if lease := self._candidate.acquire():
                    self._lead(lease)
                told = ""
            except RetryableError as error:
                if told != str(error):
                    _log.warning("it waits", thread=self.name, error=str(error))
                told, pause = str(error), RETRY_SECONDS
            except FatalError as error:
                _log.error("stopped", thread=self.name, error=str(error))
                self._fail(error)
                return
            except Exception as error:
                _log.error("failed; it is tried again", thread=self.name, exc_info=error)
                pause = RETRY_SECONDS
            self._stopping.wait(pause)
        self._candidate.close()

    def _lead(self, lease: Lease) -> None:
        try:
            work = self._start_work(lease)
            self.leads = True
            _log.info("this process settles", log=lease.name)
            try:
                while not self._stopping.wait(self._look_seconds) and lease.is_held():
                    pass
            finally:
                self.leads = False
                _log.info("this process settles no more", log=lease.name)
                if not self._stopping.is_set():
                    lease.release()  # whatever the threads are at, they write nothing any more
                work.stop()
        finally:
            lease.release()

    def stop(self) -> None:
        """Let the threads end their step, give the lock back."""
        self._stopping.set()
        self.join()


def stand_by(log: ReceiptLog, sending: Sending) -> Standby:
    """Started: a thread that sends through the shared `log` whenever it has the lock."""
    database = log.database
    assert isinstance(database, PostgresDatabase)
    candidate = Candidate(database, log.domain, log.node)
    made = Standby(candidate, lambda lease: sending.start(lease, SharedOutbox(lease)), sending.fail)
    made.start()
    return made
