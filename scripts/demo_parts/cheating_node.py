"""A node process like any other, but for one output element in one answer of ONE_IN, to which it adds one.

python -m scripts.demo_parts.cheating_node --data FOLDER

When it is disputed it stands by its lie: its trace has the element as it was signed.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnxruntime as ort
from assay.cli.logs import configure_logs
from assay.commitments.tensors import commit_tensors
from assay.exact.game import TraceView
from assay.node.config import load_config
from assay.node.engine import Result
from assay.node.oip import Array
from assay.node.process import NodeProcess
from assay.node.runtime import Model
from assay.node.tracing import TraceSource, disagreement
from assay.types import Hash32, Receipt

from tests.support.tampered_trace import TamperedTrace

from .world import ONE_IN

ELEMENT = 7
WHEN = ONE_IN // 2
"""Which of each ONE_IN answers is wrong, counted from 0."""


class CheatingModel(Model):
    """Adds one to ELEMENT of the first output, once in ONE_IN runs."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._count = itertools.count()

    def _run(self, arrays: Sequence[Array], options: ort.RunOptions) -> Result:
        honest = super()._run(arrays, options)
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
        build_model=CheatingModel,
        wrap_traces=CheatingTraces,
    )
    process.run()


if __name__ == "__main__":
    main()
