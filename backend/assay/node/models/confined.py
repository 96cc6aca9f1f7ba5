"""Runs a module of this package as a limited child: a clean environment, a folder of its own, one process
group that is killed as a whole, and an answer of bounded length."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import Any, Final

MAX_ANSWER: Final = 1 << 20
_KEPT: Final = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH")
_ONE_THREAD: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True, slots=True)
class Outcome:
    """`answer`: what the child wrote, cut off after MAX_ANSWER bytes. `status`: None if its time ran out."""

    answer: bytes
    status: int | None


def run_confined(module: str, job: dict[str, Any], seconds: float) -> Outcome:
    """`python -m module` with `job` as one line of JSON on its standard input; its process group has ended
    when this returns."""
    with tempfile.TemporaryDirectory(prefix="assay-sandbox-") as folder:
        child = subprocess.Popen(  # noqa: S603 - a module of this package
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env=_environment(folder),
            start_new_session=True,
        )
        try:
            answer, in_time = _exchange(child, (json.dumps(job) + "\n").encode(), seconds)
        finally:
            _kill(child)
        return Outcome(answer, child.returncode if in_time else None)


def _environment(folder: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return kept | dict.fromkeys(_ONE_THREAD, "1") | {"HOME": folder, "TMPDIR": folder}


def _exchange(child: subprocess.Popen[bytes], job: bytes, seconds: float) -> tuple[bytes, bool]:
    """What it writes until it closes its output, and whether it did so in time."""
    assert child.stdin is not None
    assert child.stdout is not None
    deadline = time.monotonic() + seconds
    with contextlib.suppress(BrokenPipeError), child.stdin as pipe:
        pipe.write(job)
    parts: list[bytes] = []
    size = 0
    with selectors.DefaultSelector() as selector, child.stdout as pipe:
        selector.register(pipe, selectors.EVENT_READ)
        while size < MAX_ANSWER:
            if not selector.select(max(deadline - time.monotonic(), 0)):
                return b"".join(parts), False
            part = os.read(pipe.fileno(), 1 << 16)
            if not part:
                return b"".join(parts), _has_ended(child, deadline)
            parts.append(part)
            size += len(part)
    return b"".join(parts), True


def _has_ended(child: subprocess.Popen[bytes], deadline: float) -> bool:
    """Waits without reaping it: its number must stay its own until its group was killed."""
    while time.monotonic() < deadline:
        if os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None:
            return True
        time.sleep(0.005)
    return False


def _kill(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
