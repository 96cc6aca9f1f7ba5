"""The log's tables, filled by a process beside the node's.

In the node's own process, rows by the thousand would take the interpreter's lock and the processor from the
event loop when they come, not when there is time. The child works when the processor has nothing else to do,
until it is told to hurry. All that it is given is on disk in the journal: nothing is lost with it, and
another takes its place.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import structlog

from assay.errors import FatalError
from assay.node.receipts.import_child import ANSWER, MAX_PROBLEM, MESSAGE
from assay.node.receipts.journal_mark import Mark

_MODULE: Final = "assay.node.receipts.import_child"
ATTEMPTS: Final = 3
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

    @property
    def pid(self) -> int | None:
        return None if self._child is None else self._child.pid

    def open(self) -> None:
        if self._child is None:
            self._child = self._start()

    def take(self, payload: bytes, mark: Mark, *, hurried: bool) -> None:
        """Raises FatalError."""
        message = MESSAGE.pack(mark.epoch, mark.number, hurried, len(payload)) + payload
        status: int | None = None
        for _ in range(ATTEMPTS):
            if self._child is None:
                self._child = self._start()
            problem = _ask(self._child, message)
            if problem is not None:
                break
            status = self._end()
            _log.warning("the process that fills the log's tables ended", log=str(self._file), status=status)
        else:
            raise FatalError(
                f"the process that fills its tables ended {ATTEMPTS} times, at last with status {status}; "
                "see whether memory ran out, then start the node again: the journal has everything"
            )
        if problem:
            raise FatalError(problem)

    def close(self) -> None:
        """When it has answered everything."""
        self._end()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(  # noqa: S603 - a module of this package
            [sys.executable, "-P", "-m", _MODULE, str(self._file), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={name: os.environ[name] for name in _KEPT if name in os.environ},
            # A terminal's Ctrl-C is for the node. No session of its own: Linux shares the processor among
            # sessions first (autogroup), so that the child's low priority would count for nothing.
            process_group=0,
        )

    def _end(self) -> int | None:
        child, self._child = self._child, None
        if child is None:
            return None
        for pipe in (child.stdin, child.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()
        try:
            return child.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            return child.wait()


def _ask(child: subprocess.Popen[bytes], message: bytes) -> str | None:
    """What it says went wrong, nothing if nothing did; None if it is gone."""
    assert child.stdin is not None and child.stdout is not None
    try:
        child.stdin.write(message)
        child.stdin.flush()
    except OSError:
        return None
    head = child.stdout.read(ANSWER.size)
    if len(head) != ANSWER.size:
        return None
    (length,) = ANSWER.unpack(head)
    if length > MAX_PROBLEM:
        return None
    problem = child.stdout.read(length)
    return problem.decode("utf-8", "replace") if len(problem) == length else None
