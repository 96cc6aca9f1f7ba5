"""From an artifact that passed to an engine that is warm: session, first runs, what may be batched."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from assay.commitments.tensors import OIP_TO_NUMPY
from assay.node.engines.batching import AUTOMATIC_ROWS, Batching, has_dynamic_rows, join_rows
from assay.node.engines.engine import Engine
from assay.node.engines.local_engine import EngineRules, LocalEngine
from assay.node.engines.probing import probe
from assay.node.engines.run_times import RunTimes
from assay.node.engines.runtime import SessionRunner, build_session
from assay.node.engines.watchdog import Watchdog
from assay.node.errors import ArtifactRefused, RunFailed
from assay.node.oip.protocol import Array
from assay.types import TensorSpec

WARM_RUNS = 5
SIZE_RUNS = 3
SLOWER = 1.03
"""So much more processor time a row a larger batch may take, for what it saves around the run."""
NEVER = -1.0
"""Of `inline_seconds`: what may take any time is not run in the event loop, which would stand still."""
BATCH_SECONDS = 0.05
"""A batch is not made so large that it would take longer: who is in it waits for all of it."""


@dataclass(frozen=True, slots=True)
class Loadable:
    """A version that passed the sandbox, as far as running it needs. `obstacle`: why its rows may not be run
    together, by its graph or program; `max_batch`: rows, 0 as many as pay, 1 never; `name` for the log."""

    artifact: bytes | Path = field(repr=False)
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    is_exact: bool = False
    obstacle: str = ""
    max_batch: int = 0
    memory_bytes: int = 0
    name: str = ""

    @property
    def has_steady_runs(self) -> bool:
        """Whether a run's time follows from the size of what is asked: of other graphs, one number of a
        request may decide about the size of all that is computed."""
        return self.is_exact or not self.obstacle


def same_engine(engine: Engine) -> Engine:
    """The engine as it is."""
    return engine


class LocalEngines:
    """Opens versions in this process. SYNC: call `open` in a thread."""

    def __init__(self, rules: EngineRules) -> None:
        self._rules = rules
        self._watchdog = Watchdog()

    def open(self, version: Loadable) -> LocalEngine:
        """Raises ArtifactRefused `load_failed`, `run_failed`."""
        rules = self._rules if version.has_steady_runs else replace(self._rules, inline_seconds=NEVER)
        session = build_session(version.artifact, threads=rules.threads, is_optimised=not version.is_exact)
        runner = SessionRunner(session, version.inputs, version.outputs, self._watchdog, rules.run_seconds)
        times = warm_up(runner, version.inputs)
        batching = choose_batching(runner, version, times)
        return LocalEngine(
            runner, batching, rules, memory_bytes=version.memory_bytes, times=times, name=version.name
        )


def warm_up(runner: SessionRunner, inputs: Sequence[TensorSpec]) -> RunTimes:
    """The first runs, of one row. Raises ArtifactRefused `run_failed` if one does not end in time."""
    arrays = zeros(inputs)
    size = sum(array.nbytes for array in arrays)
    seconds = []
    for _ in range(WARM_RUNS):
        started = time.thread_time()
        try:
            runner.run(arrays)
        except RunFailed as error:
            raise ArtifactRefused(f"a run of one row, of zeros, failed: {error}", code="run_failed") from None
        seconds.append(time.thread_time() - started)
        if sum(seconds) > 1:
            break
    times = RunTimes()
    times.record(size, min(seconds))
    return times


def choose_batching(runner: SessionRunner, version: Loadable, times: RunTimes) -> Batching:
    """By what is known of the version, then by trying. Without `max_batch`, only if its rows do not depend in
    a single bit on what they are batched with: then a repeated request gets the same answer. Of exact
    versions that is so with it as well: another answer costs the stake."""
    if version.max_batch == 1:
        return Batching(1, "max_batch is 1")
    if version.obstacle:
        return Batching(1, version.obstacle)
    if not has_dynamic_rows(version.inputs) or not has_dynamic_rows(version.outputs):
        return Batching(1, "not every input and output has a first dimension of any size")
    row = times.predict(sum(array.nbytes for array in zeros(version.inputs)))
    rows = version.max_batch or rows_in_time(row)
    if rows == 1:
        return Batching(1, f"a row takes {row * 1e3:.0f} ms: batches would only make requests wait")
    found = probe(runner, rows, exactly=version.is_exact or not version.max_batch)
    if found:
        return Batching(1, found)
    return Batching(version.max_batch or quickest_size(runner, version.inputs, rows))


def rows_in_time(row_seconds: float) -> int:
    """As many rows as a batch may have, each of which takes so long."""
    return max(1, min(AUTOMATIC_ROWS, int(BATCH_SECONDS / row_seconds)))


def quickest_size(
    runner: SessionRunner,
    inputs: Sequence[TensorSpec],
    most: int,
    clock: Callable[[], float] = time.thread_time,
) -> int:
    """Rows, from 2 to `most`, of the batches in which a row of zeros takes the least processor time (seconds
    by `clock`): of larger ones, a processor's caches may not hold what is between two operators. Raises
    ArtifactRefused `run_failed`."""
    arrays = zeros(inputs)
    sizes = [most]
    while sizes[-1] > 3:
        sizes.append(sizes[-1] // 2)
    row_seconds = {}
    for size in sizes:
        rows, seconds = join_rows([arrays] * size), []
        for _ in range(SIZE_RUNS):
            started = clock()
            try:
                runner.run(rows)
            except RunFailed as error:
                raise ArtifactRefused(f"a run of {size} rows failed: {error}", code="run_failed") from None
            seconds.append(clock() - started)
        row_seconds[size] = min(seconds) / size
    least = min(row_seconds.values())
    return max(size for size, seconds in row_seconds.items() if seconds <= least * SLOWER)


def zeros(inputs: Sequence[TensorSpec]) -> list[Array]:
    """One row of zeros and empty strings, every open dimension 1."""
    arrays = []
    for spec in inputs:
        shape = tuple(1 if dim == -1 else dim for dim in spec.shape)
        dtype = OIP_TO_NUMPY[spec.dtype]
        arrays.append(np.full(shape, "", dtype=object) if dtype.kind == "O" else np.zeros(shape, dtype))
    return arrays
