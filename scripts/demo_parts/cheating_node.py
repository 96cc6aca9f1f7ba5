"""A node process like any other, but for one output element in one answer of ONE_IN, to which it adds one.

python -m scripts.demo_parts.cheating_node --data FOLDER

When it is disputed it stands by its lie: its trace has the element as it was signed.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import click
import numpy as np
from assay.cli.logs import configure_logs
from assay.commitments.tensors import commit_tensors
from assay.exact.game import TraceView
from assay.node.config import load_config
from assay.node.disputes.tracing import TraceSource, disagreement
from assay.node.engines.engine import Engine, Job, Result
from assay.node.process import NodeProcess
from assay.types import Hash32, Receipt

from tests.support.tampered_trace import TamperedTrace

from .world import ONE_IN

ELEMENT = 7
WHEN = ONE_IN // 2
"""Which of each ONE_IN answers is wrong, counted from 0."""


class CheatingEngine:
    """Adds one to ELEMENT of the first output, once in ONE_IN answers."""

    def __init__(self, honest: Engine) -> None:
        self.inputs, self.outputs, self.statistics = honest.inputs, honest.outputs, honest.statistics
        self._honest = honest
        self._count = itertools.count()

    @property
    def waiting(self) -> int:
        return self._honest.waiting

    @property
    def memory_bytes(self) -> int:
        return self._honest.memory_bytes

    def submit(self, job: Job) -> None:
        done = job.done
        job.done = lambda outcome: done(outcome if isinstance(outcome, Exception) else self._tamper(outcome))
        self._honest.submit(job)

    async def close(self) -> None:
        await self._honest.close()

    def _tamper(self, honest: Result) -> Result:
        if next(self._count) % ONE_IN != WHEN:
            return honest
        first, *others = honest.outputs
        wrong = first.copy()
        wrong.flat[ELEMENT] += 1
        outputs = (wrong, *others)
        return Result(outputs, commit_tensors(outputs))


class CheatingTraces:
    """The traces of the log's inputs, changed where the signed answer was."""

    def __init__(self, honest: TraceSource) -> None:
        self._honest = honest

    def trace(self, receipt: Receipt, digest: Hash32) -> TraceView:
        trace = self._honest.trace(receipt, digest)
        if not disagreement(trace, receipt):
            return trace
        output = trace.program.outputs[0].kernel
        element = np.frombuffer(trace.chunk(output, 0), np.float32)[ELEMENT] + np.float32(1)
        return TamperedTrace(trace, {output: {ELEMENT: int(element.view(np.uint32))}})


@click.command()
@click.option("--data", "folder", type=click.Path(path_type=Path, exists=True), required=True)
def main(folder: Path) -> None:
    """Serve as `assay node run` does, and cheat."""
    configure_logs(as_json=False)
    process = NodeProcess(
        folder,
        load_config(folder),
        progress=lambda text: click.echo(text, err=True),
        wrap_engine=CheatingEngine,
        wrap_traces=CheatingTraces,
    )
    process.run()


if __name__ == "__main__":
    main()
