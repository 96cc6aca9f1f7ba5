"""Traces of disputed receipts, computed from kept data when a dispute opens; a few stay in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from assay.chain.contracts import NodeRegistry
from assay.errors import RequestError, RetryableError
from assay.exact.evaluator import memory_per_row
from assay.exact.trace import Trace, run_trace
from assay.types import Hash32, SignedReceipt
from assay.watch.evidence import Evidence
from assay.watch.examine import DEFAULT_MAX_MEMORY, input_problem, rows_of, signed_data
from assay.watch.programs import Programs

KEEP_TRACES: Final = 16
"""As many as disputes are open by default: each has a move every few blocks."""
KEEP_WHOLE: Final = 4
"""Of them those that also keep tensors."""
Progress = Callable[[int, int], None]


class NoTraceError(RequestError):
    """The receipt's inputs are none of its program's: it has no trace, so its node cannot assert one."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="no_trace")


class Traces:
    """One thread's."""

    def __init__(
        self,
        nodes: NodeRegistry,
        programs: Programs,
        evidence: Evidence,
        *,
        max_memory: int = DEFAULT_MAX_MEMORY,
    ) -> None:
        self._nodes, self._programs, self._evidence = nodes, programs, evidence
        self._max_memory = max_memory
        self._traces: OrderedDict[Hash32, Trace] = OrderedDict()

    def get(self, digest: Hash32, signed: SignedReceipt, on_progress: Progress | None = None) -> Trace:
        """Raises NoTraceError, NoProgramError, RetryableError (data or artifact cannot be had now, or not
        the memory)."""
        if digest in self._traces:
            return self._latest(digest)
        receipt = signed.receipt
        program = self._programs.get(receipt.version_id)
        data = signed_data(receipt, self._evidence.get(self._nodes.node(receipt.node).endpoint, digest))
        if (problem := input_problem(program, data.inputs)) is not None:
            raise NoTraceError(problem)
        arrays = [tensor.array for tensor in data.inputs]
        if (memory := rows_of(program, arrays) * memory_per_row(program)) > self._max_memory:
            raise RetryableError(
                f"its trace takes about {memory} bytes of memory, above {self._max_memory} (--max-memory)"
            )
        try:
            trace = run_trace(program, arrays, on_progress=on_progress)
        except MemoryError as error:
            raise RetryableError("its trace takes more memory than there is") from error
        self._traces[digest] = trace
        while len(self._traces) > KEEP_TRACES:
            self._traces.popitem(last=False)
        return self._latest(digest)

    def _latest(self, digest: Hash32) -> Trace:
        self._traces.move_to_end(digest)
        for older in list(self._traces.values())[:-KEEP_WHOLE]:
            older.forget_tensors()
        return self._traces[digest]
