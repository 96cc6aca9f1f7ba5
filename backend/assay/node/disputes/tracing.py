"""Traces of the node's own receipts, from what its log kept: what it answers disputes with."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import numpy as np
import structlog

from assay.chain.contracts import ModelRegistry
from assay.commitments.public_data import ReceiptData
from assay.commitments.tensors import CHUNK_BYTES, hash_commitments
from assay.errors import AssayError
from assay.exact.game import TraceView
from assay.exact.program import Program, Signature
from assay.node.models.artifacts import ArtifactCache
from assay.node.models.exactness import lower_artifact
from assay.node.receipts.database import Database
from assay.node.receipts.log import read_data
from assay.types import Hash32, Receipt

if TYPE_CHECKING:
    from assay.exact.trace import Trace

KEPT_PROGRAMS: Final = 2
KEPT_TRACES: Final = 16
"""By receipt: whoever opens many disputes at once must not make the node compute each trace for each move."""
KEPT_WHOLE: Final = 2
"""Of them those that also keep tensors; the others keep roots, inputs and outputs."""

V = TypeVar("V")

_log = structlog.get_logger(__name__)


class Undefendable(AssayError):  # noqa: N818 - named after what it is
    """The node has no honest answer to a dispute; says why and what its operator can do."""


class TraceSource(Protocol):
    """Where the defender's traces come from; called by its thread alone."""

    def trace(self, receipt: Receipt, digest: Hash32) -> TraceView:
        """Of the receipt's inputs. Raises Undefendable, RetryableError."""
        ...


class LogTraces:
    """Inputs from the log, the program from the artifact; keeps the last few of each."""

    def __init__(
        self,
        log: Database,
        models: ModelRegistry,
        artifacts: ArtifactCache,
        max_artifact: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._models = models
        self._artifacts = artifacts
        self._max_artifact = max_artifact
        self._clock = clock
        self._programs: OrderedDict[Hash32, Program] = OrderedDict()
        self._traces: OrderedDict[Hash32, Trace] = OrderedDict()

    def trace(self, receipt: Receipt, digest: Hash32) -> TraceView:
        """Raises Undefendable, RetryableError, ArtifactRefused."""
        if digest not in self._traces:
            data = self._data(receipt, digest)
            trace = self._run(self._program(receipt.version_id), data, digest)
            _keep(self._traces, digest, trace, KEPT_TRACES)
        self._traces.move_to_end(digest)
        for older in list(self._traces.values())[:-KEPT_WHOLE]:
            older.forget_tensors()
        return self._traces[digest]

    def _data(self, receipt: Receipt, digest: Hash32) -> ReceiptData:
        with self._log.session() as connection:
            data = read_data(connection, digest)
        if data is None:
            raise Undefendable(
                f"{self._log.name} has no inputs of receipt 0x{digest.hex()}: this node's key signed it, but "
                "not from here; bring back the log that has it, or look who else holds the key"
            )
        if data.input_hash != receipt.input_hash:
            raise Undefendable(
                f"{self._log.name} has other inputs for receipt 0x{digest.hex()} than it was signed for: the "
                "log is damaged; bring back a copy of it"
            )
        return data

    def _program(self, version_id: Hash32) -> Program:
        if version_id not in self._programs:
            version = self._models.version(version_id)
            path = self._artifacts.fetch(version.artifact, self._max_artifact)
            program = lower_artifact(path.read_bytes())
            if program.root != version.program_root:
                raise Undefendable(
                    f"version 0x{version_id.hex()} has program root 0x{version.program_root.hex()} on the "
                    f"chain, its artifact lowers to 0x{program.root.hex()}: nothing can be proven of it"
                )
            _keep(self._programs, version_id, program, KEPT_PROGRAMS)
        self._programs.move_to_end(version_id)
        return self._programs[version_id]

    def _run(self, program: Program, data: ReceiptData, digest: Hash32) -> Trace:
        from assay.exact.trace import run_trace

        started = self._clock()
        trace = run_trace(program, [tensor.array for tensor in data.inputs])
        _log.info(
            "trace computed",
            receipt="0x" + digest.hex(),
            kernels=len(program.kernels),
            seconds=round(self._clock() - started, 3),
        )
        return trace


def _keep(kept: OrderedDict[Hash32, V], key: Hash32, value: V, most: int) -> None:
    while len(kept) >= most:
        kept.popitem(last=False)
    kept[key] = value


def disagreement(trace: TraceView, receipt: Receipt, data: ReceiptData | None = None) -> str:
    """In what the trace is not one of the receipt; empty: in nothing, as far as roots tell.

    With the `data` that was signed, the first wrong output element is named.
    """
    program = trace.program
    if _signature_hash(program, program.inputs, trace.input_roots, trace.rows) != receipt.input_hash:
        return "the trace is of other inputs than the receipt"
    roots = [trace.roots[output.kernel] for output in program.outputs]
    if _signature_hash(program, program.outputs, roots, trace.rows) == receipt.output_hash:
        return ""
    named = _first_wrong(trace, data) if data else ""
    return named or "the computed outputs hash to another value than the signed one"


def _signature_hash(
    program: Program, ports: tuple[Signature, ...], roots: Sequence[bytes], rows: int
) -> Hash32:
    """`input_hash` or `output_hash` from tensor roots (SPEC.md §2)."""
    leading = (rows,) if program.batched else ()
    return hash_commitments(
        sha256(
            bytes((2, port.dtype, len(leading + port.dims)))
            + b"".join(dim.to_bytes(4, "big") for dim in leading + port.dims)
            + root
        ).digest()
        for port, root in zip(ports, roots, strict=True)
    )


def _first_wrong(trace: TraceView, data: ReceiptData) -> str:
    for output, port in zip(data.outputs, trace.program.outputs, strict=True):
        signed = output.array.reshape(-1)
        per_chunk = CHUNK_BYTES // signed.dtype.itemsize
        for position in range(-(-signed.size // per_chunk)):
            first = position * per_chunk
            claimed = signed[first : first + per_chunk]
            raw = trace.chunk(port.kernel, position)
            if raw == claimed.tobytes():
                continue
            true = np.frombuffer(raw, signed.dtype)
            differing = np.flatnonzero(claimed.view(np.uint8) != true.view(np.uint8))
            at = int(differing[0]) // signed.dtype.itemsize
            return (
                f"output {output.name!r} element {first + at} was signed as {claimed[at]}; it is {true[at]}"
            )
    return ""
