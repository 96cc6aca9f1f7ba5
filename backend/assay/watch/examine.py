"""Judges one receipt: are the tensors that its node gives those it signed, and is the output the program's?

Pure: bytes in, a finding out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from assay.commitments.public_data import NamedTensor, ReceiptData
from assay.commitments.tensors import OIP_TO_ONNX, hash_commitments, tensor_commitment
from assay.errors import RequestError
from assay.exact.evaluator import evaluate, memory_per_row
from assay.exact.program import Program
from assay.types import Hash32, Receipt
from assay.watch.explain import first_output_difference
from assay.watch.values import DataState, Verdict

SLICE_BYTES: Final = 256 << 20
"""About what the rows that are evaluated together may take."""
DEFAULT_MAX_MEMORY: Final = 4 << 30


@dataclass(frozen=True, slots=True)
class Finding:
    data: DataState
    verdict: Verdict
    reason: str


def parse_data(body: bytes) -> ReceiptData:
    """`GET /v1/receipts/{digest}/data`. Raises RequestError on anything else."""
    try:
        return ReceiptData.from_json(orjson.loads(body))
    except (ValueError, TypeError, RecursionError) as error:
        raise RequestError(f"not receipt data: {error}", code="receipt_data") from error


def signed_data(receipt: Receipt, body: bytes) -> ReceiptData:
    """The tensors given for a receipt. Raises RequestError unless the inputs are those that were signed."""
    data = parse_data(body)
    if data.input_hash != receipt.input_hash:
        raise RequestError("the inputs given are not those that were signed", code="receipt_data")
    return data


def examine(
    receipt: Receipt,
    data: ReceiptData,
    program: Program,
    *,
    max_work: int,
    max_memory: int = DEFAULT_MAX_MEMORY,
) -> Finding:
    """`data` as `signed_data` gave it; steps and bytes of memory that a re-execution may take."""
    if (problem := input_problem(program, data.inputs)) is not None:
        return Finding(
            DataState.AVAILABLE, Verdict.WRONG, f"the signed inputs are none of the program's: {problem}"
        )
    arrays = [tensor.array for tensor in data.inputs]
    rows = rows_of(program, arrays)
    if (work := rows * work_of(program)) > max_work:
        return Finding(
            DataState.AVAILABLE, Verdict.SKIPPED, f"re-executing it takes {work} steps, above {max_work}"
        )
    if (memory := memory_per_row(program)) > max_memory:
        return Finding(
            DataState.AVAILABLE,
            Verdict.SKIPPED,
            f"re-executing a row takes about {memory} bytes of memory, above {max_memory}",
        )
    try:
        outputs = compute(program, arrays)
    except (RequestError, MemoryError) as error:
        return Finding(DataState.AVAILABLE, Verdict.SKIPPED, f"it cannot be re-executed here: {error}")
    if hash_of(program, outputs, rows) == receipt.output_hash:
        return Finding(DataState.AVAILABLE, Verdict.RIGHT, "")
    return Finding(DataState.AVAILABLE, Verdict.WRONG, describe_difference(program, data, outputs, receipt))


def input_problem(program: Program, inputs: Sequence[NamedTensor]) -> str | None:
    """Why a program cannot have run on these tensors, or None."""
    if len(inputs) != len(program.inputs):
        return f"{len(inputs)} tensors instead of {len(program.inputs)}"
    rows: set[int] = set()
    for tensor, signature in zip(inputs, program.inputs, strict=True):
        dims = tensor.shape
        if program.batched:
            if not dims or dims[0] < 1:
                return f"{tensor.name[:80]!r} has no rows"
            rows.add(dims[0])
            dims = dims[1:]
        if (OIP_TO_ONNX[tensor.dtype], dims) != (signature.dtype, signature.dims):
            return f"{tensor.name[:80]!r} is {tensor.dtype}{list(tensor.shape)}"
        try:
            _ = tensor.array
        except RequestError as error:
            return str(error)
    return f"their rows differ: {sorted(rows)}" if len(rows) > 1 else None


def rows_of(program: Program, inputs: Sequence[NDArray[Any]]) -> int:
    return int(inputs[0].shape[0]) if program.batched and inputs else 1


def work_of(program: Program) -> int:
    """Steps of all kernels for one row."""
    return sum(kernel.elements * kernel.steps for kernel in program.kernels)


def compute(program: Program, inputs: Sequence[NDArray[Any]]) -> list[bytes]:
    """The outputs' row-major little-endian bytes; rows in slices, so that memory is bounded."""
    if not program.batched:
        return [bytes(output) for output in _evaluate(program, inputs)]
    parts: list[list[bytes]] = [[] for _ in program.outputs]
    step = max(1, SLICE_BYTES // memory_per_row(program))
    for start in range(0, rows_of(program, inputs), step):
        outputs = _evaluate(program, [array[start : start + step] for array in inputs])
        for part, output in zip(parts, outputs, strict=True):
            part.append(bytes(output))
    return [b"".join(part) for part in parts]


def _evaluate(program: Program, inputs: Sequence[NDArray[Any]]) -> Iterator[bytes]:
    for output in evaluate(program, inputs):
        yield np.ascontiguousarray(output).tobytes()


def hash_of(program: Program, outputs: Sequence[bytes], rows: int) -> Hash32:
    """`output_hash` of the outputs' bytes."""
    return hash_commitments(
        tensor_commitment(one.dtype, ((rows, *one.dims) if program.batched else one.dims), data)
        for one, data in zip(program.outputs, outputs, strict=True)
    )


def describe_difference(
    program: Program, data: ReceiptData, outputs: Sequence[bytes], receipt: Receipt
) -> str:
    """Where the published outputs differ from the true ones, if they are those that were signed."""
    found = first_output_difference(program, data, outputs, receipt)
    return found or "the outputs do not hash to what was signed"
