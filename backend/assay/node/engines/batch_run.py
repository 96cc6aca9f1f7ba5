"""One run of a session for one or several jobs; in whatever thread."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from assay.node.engines.batching import hash_outputs, join_rows, part_rows
from assay.node.engines.engine import Job, Result
from assay.node.engines.fair_queue import Entry
from assay.node.engines.runtime import OutOfTime, SessionRunner
from assay.node.errors import RunFailed


@dataclass(slots=True)
class Batch:
    """Tasks of one run, their rows and input bytes together, and how many were left out as cancelled. After
    the run: a result for each, when it began, how long it took, how long of that the processor worked on it,
    and why these should rather not have been run together, OutOfTime or WrongRows."""

    tasks: list[Entry[Job]]
    rows: int
    size: int
    cancelled: int = 0
    started: float = 0.0
    results: list[Result | Exception] = field(default_factory=list)
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    problem: RunFailed | None = None

    def run(self, runner: SessionRunner) -> None:
        """All together; if that fails each alone, so that none suffers from its neighbours."""
        self.started, worked = time.perf_counter(), time.thread_time()
        if not self.tasks:
            return
        together = _run(runner, self.tasks)
        if isinstance(together, list):
            self.results.extend(together)
        elif len(self.tasks) == 1:
            self.results.append(together)
        else:
            if isinstance(together, OutOfTime | WrongRows):
                self.problem = together
            for task in self.tasks:
                alone = _run(runner, [task])
                self.results += alone if isinstance(alone, list) else [alone]
        self.seconds = time.perf_counter() - self.started
        self.cpu_seconds = time.thread_time() - worked


class WrongRows(RunFailed):
    """A batch came back with other rows than went in."""

    def __init__(self) -> None:
        super().__init__("a batch came back with other rows than went in")


def _run(runner: SessionRunner, tasks: Sequence[Entry[Job]]) -> list[Result] | Exception:
    try:
        outputs = runner.run(join_rows([task.item.inputs for task in tasks]))
        if len(tasks) == 1:
            return [Result(tuple(outputs), hash_outputs(outputs))]
        parts = part_rows(outputs, [task.rows for task in tasks])
        if parts is None:
            return WrongRows()
        return [Result(part, hash_outputs(part)) for part in parts]
    except Exception as error:
        return error
