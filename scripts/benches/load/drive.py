"""Runs plans in a generator process on its core, and the responder that shows the generator's own limit."""

from __future__ import annotations

import contextlib
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from scripts.benches.load.cores import on_cores
from scripts.benches.load.plan import Load, Plan

ROOT = Path(__file__).resolve().parents[3]
TIMEOUT_SECONDS = 300


class RefusedError(RuntimeError):
    """The server refused requests of a load in which every request is right."""


def drive(plan: Plan, cores: Sequence[int]) -> Load:
    """The load of `plan`, its generator on `cores`. Raises RefusedError if an answer was not a 200,
    RuntimeError if the generator failed."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, name) for name in ("plan", "load")]
        paths[0].write_bytes(pickle.dumps(plan))
        command = [sys.executable, "-m", "scripts.benches.load", *map(str, paths)]
        with on_cores(cores):
            process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)
        try:
            _, errors = process.communicate(timeout=TIMEOUT_SECONDS)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        if process.returncode:
            raise RuntimeError(f"the load generator failed: {errors.decode(errors='replace')[-1500:]}")
        load: Load = pickle.loads(paths[1].read_bytes())
    if load.refusal:
        raise RefusedError(f"answers were not 200 ({load.statuses}); the first: {load.refusal[:600]!r}")
    return load


@contextlib.contextmanager
def responding(request_bytes: int, answer_bytes: int, cores: Sequence[int]) -> Iterator[int]:
    """The port of a responder for requests and answers of those sizes."""
    command = [sys.executable, "-m", "scripts.benches.load.responder", str(request_bytes), str(answer_bytes)]
    with on_cores(cores):
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()
