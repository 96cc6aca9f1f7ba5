"""Lowers a file in a child process with limits on memory and time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from assay.programs.lowering import Lowering
from assay.types import ProgramOutcome

MAX_ANSWER: Final = 4 << 20
POLL: Final = 0.25


@dataclass(frozen=True, slots=True)
class LoweringLimits:
    """`memory` in bytes of address space, `seconds` of processor and of clock."""

    memory: int = 4 << 30
    seconds: int = 120


DEFAULT_LIMITS: Final = LoweringLimits()


def lower_bounded(
    path: Path,
    limits: LoweringLimits = DEFAULT_LIMITS,
    should_stop: Callable[[], bool] = lambda: False,
) -> Lowering:
    """Never raises for what a file does: that is an outcome FAILED with its reason, as is being stopped."""
    job = {"path": str(path.resolve()), "memory": limits.memory, "cpu_seconds": limits.seconds}
    kept = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    environment |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    child = subprocess.Popen(
        [sys.executable, "-m", "assay.programs.child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
    )
    try:
        answer = _answer(child, (json.dumps(job) + "\n").encode(), limits, should_stop)
    finally:
        if child.poll() is None:
            child.kill()
            child.communicate()
    if answer is None or child.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        reason = f"lowering it took more than {limits.seconds} s, or the system ended it"
        return Lowering(ProgramOutcome.FAILED, reason=reason)
    try:
        return Lowering.from_json(json.loads(answer[:MAX_ANSWER]))
    except (ValueError, KeyError, TypeError):
        ended = f"the process that lowered it ended with status {child.returncode} and no answer"
        return Lowering(ProgramOutcome.FAILED, reason=f"{ended} (out of memory, or a crash)")


def _answer(
    child: subprocess.Popen[bytes], job: bytes, limits: LoweringLimits, should_stop: Callable[[], bool]
) -> bytes | None:
    """What the child writes; None if it did not end in time."""
    deadline = time.monotonic() + limits.seconds
    sent: bytes | None = job
    while time.monotonic() < deadline and not should_stop():
        try:
            return child.communicate(sent, timeout=POLL)[0]
        except subprocess.TimeoutExpired:
            sent = None  # communicate remembers what it still has to write
    return None
