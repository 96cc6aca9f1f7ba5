"""Fills the tables of a node's log beside the node: `python -m assay.node.receipts.import_child FILE PARENT`.

in:   epoch:u64 ‖ number:u64 ‖ hurried:u8 ‖ synced:u8 ‖ length:u32 ‖ entries (`journal_entries`)
out:  length:u32 ‖ what went wrong; nothing: the entries are in the tables, and on disk if `synced`

One answer for each message, in order. It ends with its input; nobody else tells it to: whoever stops a node
stops it in order, and its last receipts are to get into the tables.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from hashlib import pbkdf2_hmac
from pathlib import Path
from struct import Struct
from typing import BinaryIO, Final

from assay.node.child import end_with_parent
from assay.node.receipts.database import SqliteDatabase
from assay.node.receipts.importing import Importer, LocalTables
from assay.node.receipts.journal_mark import Mark

MESSAGE: Final = Struct(">QQ??I")
ANSWER: Final = Struct(">I")
MAX_PROBLEM: Final = 4096
TRIAL_SECONDS: Final = 0.003
LONG_TRIAL_SECONDS: Final = 0.02
PATIENCE_SECONDS: Final = 0.25
"""Of the processor, and in which time: with less a transaction of tens of milliseconds lasts for seconds. A
busy one gives a thread that stands back a slice of up to 4 ms now and then: the long one needs several."""
LOWEST: Final = 19
HURRIED: Final = 5
"""Priorities (nice): of a processor that others want it gets a quarter, and needs a tenth."""


def serve(tables: LocalTables, messages: BinaryIO, answers: BinaryIO) -> None:
    """Until `messages` end."""
    with ThreadPoolExecutor(1, initializer=_stand_back) as thread:
        at_ease = _AtEase(thread)
        while len(head := messages.read(MESSAGE.size)) == MESSAGE.size:
            epoch, number, hurried, synced, length = MESSAGE.unpack(head)
            payload, mark = messages.read(length), Mark(epoch, number)
            if len(payload) != length:
                return
            problem = b""
            try:
                work = partial(tables.take, payload, mark, hurried=hurried, synced=synced)
                if hurried:
                    work()
                else:
                    at_ease.run(work)
            except Exception as error:
                problem = (str(error) or repr(error)).encode("utf-8", "replace")[:MAX_PROBLEM]
            answers.write(ANSWER.pack(len(problem)) + problem)
            answers.flush()


class _AtEase:
    """Works while the processor has nothing else to do, by a thread that stays like this: nobody may raise
    his own priority. Where it always has, the caller works: a transaction once begun keeps others from the
    log. First the thread has to get some of the processor, for nothing; more after work that was slow."""

    def __init__(self, thread: ThreadPoolExecutor) -> None:
        self._thread = thread
        self._trial: tuple[float, Future[None]] | None = None
        self._needed = TRIAL_SECONDS

    def run(self, work: Callable[[], None]) -> None:
        if not self._has_time():
            work()
            return
        begun = time.monotonic()
        self._thread.submit(work).result()
        self._needed = TRIAL_SECONDS if _since(begun) <= PATIENCE_SECONDS else LONG_TRIAL_SECONDS

    def _has_time(self) -> bool:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            begun, trial = self._trial or (time.monotonic(), self._thread.submit(_try, self._needed))
            self._trial = begun, trial
            try:
                trial.result(max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                return False
            self._trial = None
            if _since(begun) <= PATIENCE_SECONDS:  # not one that was given up earlier
                return True


def _since(begun: float) -> float:
    return time.monotonic() - begun


def _try(seconds: float) -> None:
    """Without the interpreter's lock, which a thread that waits for the processor would keep."""
    begun = time.thread_time()
    while time.thread_time() - begun < seconds:
        pbkdf2_hmac("sha256", b"", b"", 500)


def _stand_back() -> None:
    _set_priority(LOWEST)
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def _set_priority(nice: int) -> None:
    """Of this thread alone, which is so on Linux; where the system does not let it, it works as others do."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)


def _end_with(parent: int) -> bool:
    """Be killed when the node is, however that ends: the next one must find nobody at its tables. Whether
    the node is there."""
    end_with_parent()
    return os.getppid() == parent


def main(file: str, parent: str) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if not _end_with(int(parent)):
        return
    _set_priority(HURRIED)
    answers = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what anything prints is no answer
    with (
        os.fdopen(answers, "wb") as out,
        contextlib.closing(SqliteDatabase(Path(file)).open_file()) as connection,
    ):
        serve(LocalTables(Importer(connection)), sys.stdin.buffer, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
