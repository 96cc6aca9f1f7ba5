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
from concurrent.futures import Future, ThreadPoolExecutor
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
PATIENCE_SECONDS: Final = 0.25
"""Of the processor, and in which time: with less a transaction of tens of milliseconds lasts for seconds."""
LOWEST: Final = 19
HURRIED: Final = 5
"""Priorities (nice): of a processor that others want it gets a quarter, and needs a tenth."""


def serve(tables: LocalTables, messages: BinaryIO, answers: BinaryIO) -> None:
    """Until `messages` end. What is not `hurried` is done while the processor has nothing else to do, by a
    thread that stays like this: nobody may raise his own priority. If it always has, that is not waited for:
    a transaction once begun keeps others from the log."""
    with ThreadPoolExecutor(1, initializer=_stand_back) as at_ease:
        idle = _Idle(at_ease)
        while len(head := messages.read(MESSAGE.size)) == MESSAGE.size:
            epoch, number, hurried, synced, length = MESSAGE.unpack(head)
            payload, mark = messages.read(length), Mark(epoch, number)
            if len(payload) != length:
                return
            problem = b""
            try:
                if hurried or not idle.is_found():
                    tables.take(payload, mark, hurried=hurried, synced=synced)
                else:
                    at_ease.submit(tables.take, payload, mark, hurried=False, synced=synced).result()
            except Exception as error:
                problem = (str(error) or repr(error)).encode("utf-8", "replace")[:MAX_PROBLEM]
            answers.write(ANSWER.pack(len(problem)) + problem)
            answers.flush()


class _Idle:
    """Whether the processor has time for a thread that stands back: it works a little, for nobody."""

    def __init__(self, at_ease: ThreadPoolExecutor) -> None:
        self._at_ease = at_ease
        self._trial: tuple[float, Future[None]] | None = None

    def is_found(self) -> bool:
        """In at most PATIENCE_SECONDS."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            begun, trial = self._trial = self._trial or (time.monotonic(), self._at_ease.submit(_try))
            try:
                trial.result(max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                return False
            self._trial = None
            if time.monotonic() - begun <= PATIENCE_SECONDS:  # not one that an earlier call gave up
                return True


def _try() -> None:
    """Without the interpreter's lock, which a thread that waits for the processor would keep."""
    begun = time.thread_time()
    while time.thread_time() - begun < TRIAL_SECONDS:
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
