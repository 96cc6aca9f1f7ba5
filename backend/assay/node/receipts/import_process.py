"""The log's tables, filled by a process beside the node's.

In the node's own process, rows by the thousand would take the interpreter's lock and the processor from the
event loop when they come, not when there is time. The child works when the processor has nothing else to do,
unless that never is, or until it is told to hurry. All that it is given is on disk in the journal: nothing is
lost with it, and another takes its place; so it does if the child does not answer in time.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Final

import structlog

from assay.errors import FatalError
from assay.node.receipts.import_child import ANSWER, MAX_PROBLEM, MESSAGE
from assay.node.receipts.journal_mark import Mark

_MODULE: Final = "assay.node.receipts.import_child"
ATTEMPTS: Final = 3
HURRIED_SECONDS: Final = 60.0
"""In which what is wanted is answered: longer than others keep the log locked."""
EASY_SECONDS: Final = 300.0
"""In which anything is: beside a busy processor what is at ease may wait for long."""
SLICE_SECONDS: Final = 1.0
"""How often it is looked whether that is wanted by now."""
END_SECONDS: Final = 30.0
_KEPT: Final = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "PYTHONDONTWRITEBYTECODE", "LANG", "LC_ALL", "TZ")
"""Of the environment: the child needs none of the node's secrets."""

_log = structlog.get_logger(__name__)


class ImportProcess:
    """`Tables` that belong to one thread, from the first `take` to `close`: the child ends with the thread
    that started it (prctl(2), PR_SET_PDEATHSIG)."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._child: subprocess.Popen[bytes] | None = None
        self._is_hurried: Callable[[], bool] = bool

    @property
    def pid(self) -> int | None:
        return None if self._child is None else self._child.pid

    def open(self, is_hurried: Callable[[], bool]) -> None:
        self._is_hurried = is_hurried
        if self._child is None:
            self._child = self._start()

    def take(self, payload: bytes, mark: Mark, *, hurried: bool, synced: bool) -> None:
        """Raises FatalError."""
        for _ in range(ATTEMPTS):
            if self._child is None:
                self._child = self._start()
            message = MESSAGE.pack(mark.epoch, mark.number, hurried, synced, len(payload)) + payload
            limit = _Limit(self._is_hurried, hurried=hurried)
            try:
                problem = _ask(self._child, message, limit)
                break
            except TimeoutError:
                self._end(at_once=True)
                failure, hurried = f"did not answer within {limit.seconds:g} s", True
            except (OSError, EOFError):
                failure = f"ended with status {self._end()}"
            _log.warning(f"the process that fills the log's tables {failure}", log=str(self._file))
        else:
            raise FatalError(
                f"the process that fills its tables failed {ATTEMPTS} times: at last it {failure}; see "
                "whether memory ran out, the disk hangs, or another program keeps the log locked, then start "
                "the node again: the journal has everything"
            )
        if problem:
            raise FatalError(problem)

    def close(self) -> None:
        """When it has answered everything, or what it has not does not matter any more."""
        self._end()

    def _start(self) -> subprocess.Popen[bytes]:
        """Raises FatalError."""
        command = [sys.executable, "-P", "-m", _MODULE, str(self._file), str(os.getpid())]
        try:
            child = subprocess.Popen(  # noqa: S603 - a module of this package
                command,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={name: os.environ[name] for name in _KEPT if name in os.environ},
                # A terminal's Ctrl-C is for the node. No session of its own: Linux shares the processor among
                # sessions first (autogroup), so that the child's low priority would count for nothing.
                process_group=0,
            )
        except OSError as error:
            raise FatalError(
                f"the process that fills its tables cannot be started: {error}; see whether memory, "
                "processes or open files ran out, then start the node again: the journal has everything"
            ) from None
        for pipe in _pipes(child):
            os.set_blocking(pipe.fileno(), False)  # this end of it
        return child

    def _end(self, *, at_once: bool = False) -> int | None:
        """Its status; None if the disk keeps even a killed one, which does nothing any more."""
        child, self._child = self._child, None
        if child is None:
            return None
        for pipe in _pipes(child):
            pipe.close()
        if not at_once:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return child.wait(END_SECONDS)
        child.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return child.wait(END_SECONDS)
        return None


class _Limit:
    """Until when a message is to be answered; sooner from when what was at ease is wanted."""

    def __init__(self, is_hurried: Callable[[], bool], *, hurried: bool) -> None:
        self._is_hurried, self._hurried = is_hurried, hurried
        self.seconds = HURRIED_SECONDS if hurried else EASY_SECONDS
        self._end = time.monotonic() + self.seconds

    def wait(self, pipe: IO[bytes], events: int) -> None:
        """For these (poll(2)), or the pipe's end. Raises TimeoutError."""
        poll = select.poll()
        poll.register(pipe, events)
        while not poll.poll(1000 * min(max(self._left(), 0.0), SLICE_SECONDS)):
            if self._left() <= 0:
                raise TimeoutError

    def _left(self) -> float:
        now = time.monotonic()
        if not self._hurried and self._is_hurried():
            self._hurried, self.seconds = True, HURRIED_SECONDS
            self._end = min(self._end, now + HURRIED_SECONDS)
        return self._end - now


def _pipes(child: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    """To it and from it."""
    assert child.stdin is not None and child.stdout is not None
    return child.stdin, child.stdout


def _ask(child: subprocess.Popen[bytes], message: bytes, limit: _Limit) -> str:
    """What it says went wrong, nothing if nothing did. Raises TimeoutError; OSError, EOFError if it ended."""
    into, out = _pipes(child)
    rest = memoryview(message)
    while rest:
        limit.wait(into, select.POLLOUT)
        rest = rest[into.write(rest) or 0 :]
    (length,) = ANSWER.unpack(_read(out, ANSWER.size, limit))
    if length > MAX_PROBLEM:
        raise EOFError
    return _read(out, length, limit).decode("utf-8", "replace")


def _read(pipe: IO[bytes], size: int, limit: _Limit) -> bytes:
    data = b""
    while len(data) < size:
        limit.wait(pipe, select.POLLIN)
        more = pipe.read(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data
