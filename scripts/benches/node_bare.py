"""The least that a machine spends on a signed answer: the libraries' own calls in a loop, without a server.

No sockets, no parsing, no Python but the loop. No node, whatever it is written in, answers much more than
this that signs, recovers, hashes and syncs by these libraries on the core that runs the model.
"""

from __future__ import annotations

import os
import secrets
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import coincurve
import numpy as np

from scripts.benches.stage import ROOT
from scripts.benches.workloads import Workload

BATCH = 16
ENTRY_BYTES = 420
"""Of a paid receipt in the journal."""


@dataclass(frozen=True)
class Bare:
    """Answers a second, each in a batch of BATCH; `alone`: milliseconds of a paid one that is by itself."""

    paid: float
    signed: float
    alone: float


def measure_bare(workload: Workload, seconds: float) -> Bare:
    """On the core that this thread is on. Of each part the median call counts."""
    key, digest = coincurve.PrivateKey(), secrets.token_bytes(32)
    signature = key.sign_recoverable(digest, hasher=None)
    row = workload.row.tobytes()
    rows = np.concatenate([workload.row] * BATCH)
    share = seconds / 6
    recover = time_of(
        lambda: coincurve.PublicKey.from_signature_and_message(signature, digest, hasher=None), share
    )
    sign = time_of(lambda: key.sign_recoverable(digest, hasher=None), share)
    hashing = time_of(lambda: sha256(row).digest(), share)
    batch = time_of(lambda: workload.run(rows), share) / BATCH
    one = time_of(lambda: workload.run(workload.row), share)
    sync = time_of_sync(share)
    signed = sign + hashing + batch + sync / BATCH
    return Bare(1 / (signed + recover), 1 / signed, (recover + sign + hashing + one + sync) * 1e3)


def time_of(call: Callable[[], object], seconds: float) -> float:
    """The median of as many calls as take `seconds`, in seconds."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while (started := time.perf_counter()) < end or not times:
        call()
        times.append(time.perf_counter() - started)
    return float(np.median(times))


def time_of_sync(seconds: float) -> float:
    """Of a receipt's bytes, on disk when the write returns, in a file that has its blocks."""
    with tempfile.TemporaryDirectory(dir=ROOT / ".cache" / "benches") as folder:
        path = Path(folder) / "journal"
        with path.open("wb") as file:
            file.write(bytes(1 << 20))
            file.flush()
            os.fsync(file.fileno())
        descriptor = os.open(path, os.O_RDWR | os.O_DSYNC)
        entry = secrets.token_bytes(ENTRY_BYTES)
        try:
            return time_of(lambda: os.pwrite(descriptor, entry, 0), seconds)
        finally:
            os.close(descriptor)
