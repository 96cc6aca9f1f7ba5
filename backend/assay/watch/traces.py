"""Traces of disputed receipts, computed from kept data when a dispute opens; a few stay in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from assay.chain.contracts import NodeRegistry
from assay.errors import RequestError
from assay.exact.trace import Trace, run_trace
from assay.types import Hash32, SignedReceipt
from assay.watch.evidence import Evidence
from assay.watch.examine import input_problem, signed_data
from assay.watch.programs import Programs

KEEP_TRACES: Final = 4
Progress = Callable[[int, int], None]


class NoTraceError(RequestError):
    """The receipt's inputs are none of its program's: it has no trace, so its node cannot assert one."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="no_trace")


class Traces:
    """One thread's."""

    def __init__(self, nodes: NodeRegistry, programs: Programs, evidence: Evidence) -> None:
        self._nodes, self._programs, self._evidence = nodes, programs, evidence
        self._traces: OrderedDict[Hash32, Trace] = OrderedDict()

    def get(self, digest: Hash32, signed: SignedReceipt, on_progress: Progress | None = None) -> Trace:
        """Raises NoTraceError, NoProgramError, RetryableError (data or artifact cannot be had now)."""
        if digest in self._traces:
            self._traces.move_to_end(digest)
            return self._traces[digest]
        receipt = signed.receipt
        program = self._programs.get(receipt.version_id)
        data = signed_data(receipt, self._evidence.get(self._nodes.node(receipt.node).endpoint, digest))
        if (problem := input_problem(program, data.inputs)) is not None:
            raise NoTraceError(problem)
        trace = run_trace(program, [tensor.array for tensor in data.inputs], on_progress=on_progress)
        self._traces[digest] = trace
        while len(self._traces) > KEEP_TRACES:
            self._traces.popitem(last=False)
        return trace
