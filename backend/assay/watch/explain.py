"""A dispute in words: which tensor and element, what was claimed, what is true, who won. Pure.

For the watcher, `assay dispute show` and the demo. `program` and `trace` are those of whoever explains;
without them names and true values are not known, and the words say less.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from assay.chain.disputes import DisputeRecord
from assay.commitments.public_data import ReceiptData
from assay.commitments.tensors import ONNX_TO_NUMPY
from assay.errors import RequestError
from assay.exact.dispute import decode_element, element_width
from assay.exact.game import Phase, Side
from assay.exact.program import Kernel, Program
from assay.types import Receipt


class TensorView(Protocol):
    """What is needed of a trace; `assay.exact.trace.Trace` is one."""

    def tensor(self, kernel: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Claim:
    """One element that a node claimed. Values are the game's integers; `true` None: nobody computed it."""

    kernel: int
    element: int
    """Over all rows."""
    dtype: int
    claimed: int
    true: int | None
    tensor: str
    """The ONNX node or tensor, for people; `kernel n` without a program."""
    op_type: str
    place: str
    """`element 7`, in a request of several rows `element 7 of row 2`."""

    @property
    def claimed_text(self) -> str:
        return value_text(self.dtype, self.claimed)

    @property
    def true_text(self) -> str | None:
        return None if self.true is None else value_text(self.dtype, self.true)


def claim_of(record: DisputeRecord, program: Program | None, trace: TensorView | None) -> Claim | None:
    """The element that the challenger pointed at; None before that."""
    state = next((m.state for m in record.moves if m.phase is Phase.SELECT_ELEMENT), None)
    if state is None:
        return None
    kernel = kernel_at(program, state.kernel)
    return Claim(
        kernel=state.kernel,
        element=state.element,
        dtype=state.dtype,
        claimed=state.after,
        true=None if trace is None else true_element(trace, state.kernel, state.element, state.dtype),
        tensor=tensor_name(program, state.kernel),
        op_type=kernel.op_type if kernel is not None else "",
        place=place_text(state.element, None if kernel is None else kernel.elements, state.rows),
    )


def kernel_at(program: Program | None, index: int) -> Kernel | None:
    return program.kernels[index] if program is not None and index < len(program.kernels) else None


def tensor_name(program: Program | None, index: int) -> str:
    """The ONNX node that a kernel comes from; what is computed on the way to its result is named besides."""
    kernel = kernel_at(program, index)
    if program is None or kernel is None or not (kernel.name or kernel.output):
        return f"kernel {index}"
    if not kernel.name:
        return kernel.output
    is_result = all(one.name != kernel.name for one in program.kernels[index + 1 :])
    return kernel.name if is_result or not kernel.output else f"{kernel.output} of {kernel.name}"


def place_text(element: int, elements: int | None, rows: int) -> str:
    if elements and rows > 1:
        return f"element {element % elements} of row {element // elements}"
    return f"element {element}"


def value_text(dtype: int, value: int) -> str:
    """An integer as it is, a float32's bit pattern as its shortest decimal."""
    if ONNX_TO_NUMPY[dtype].kind == "f":
        return str(np.float32(struct.unpack("<f", struct.pack("<I", value & 0xFFFFFFFF))[0]))
    return str(value)


def true_element(trace: TensorView, kernel: int, element: int, dtype: int) -> int | None:
    width = element_width(dtype)
    data = trace.tensor(kernel)[element * width : (element + 1) * width]
    return decode_element(dtype, data) if len(data) == width else None


def claim_sentence(node: str, claim: Claim) -> str:
    """`node 0x… claimed element 7 of /conv2 is 131; it is 130`."""
    said = f"node {node} claimed {claim.place} of {claim.tensor} is {claim.claimed_text}"
    if claim.true is None:
        return said
    return f"{said}, and it is" if claim.true == claim.claimed else f"{said}; it is {claim.true_text}"


def verdict(record: DisputeRecord, program: Program | None, trace: TensorView | None) -> str:
    """One sentence: what was claimed, what is true, and how it ended or stands."""
    claim = claim_of(record, program, trace)
    if claim is not None:
        lost = record.closing is not None and record.closing.node_won
        return claim_sentence(record.node, claim) + ("; the challenger lost" if lost else "")
    return _without_claim(record)


def _without_claim(record: DisputeRecord) -> str:
    """Nobody pointed at an element."""
    closing = record.closing
    if closing is None:
        return f"node {record.node} is asked to show how it computed receipt 0x{record.opened.digest.hex()}"
    if closing.node_won:
        return f"challenger {record.challenger} did not go on, so node {record.node} won"
    if closing.phase is Phase.FORFEIT:
        return f"node {record.node} committed to data beyond the end of a tensor"
    return (
        f"node {record.node} did not show how it computed what it signed: no answer to {closing.phase.name}"
    )


def standing_text(record: DisputeRecord, now: int) -> str:
    """Whose move it is and how long is left, or how it ended."""
    if record.closing is not None:
        winner = "the node" if record.closing.node_won else "the challenger"
        return f"closed at {record.closing.phase.name}: {winner} won"
    left = record.state.deadline - now
    if record.state.phase is Phase.FORFEIT:
        return "the node has lost; anybody may close it"
    who = "the node" if record.side is Side.NODE else "the challenger"
    if left < 0:
        return f"{who} owed {record.state.phase.name} {-left} s ago; anybody may close it"
    return f"{who} owes {record.state.phase.name} within {left} s"


def first_output_difference(
    program: Program, data: ReceiptData, outputs: Sequence[bytes], receipt: Receipt
) -> str | None:
    """`claimed element 3 of output y is 12; it is 11`; None if the outputs are not those that were signed."""
    try:
        if data.output_hash != receipt.output_hash:
            return None
    except RequestError:
        return None
    for i, (claimed, true) in enumerate(zip(data.outputs, outputs, strict=False)):
        signature = program.outputs[i]
        if len(claimed.data) != len(true):
            return f"claimed {len(claimed.data)} bytes of output {signature.name or i}; they are {len(true)}"
        if claimed.data == true:
            continue
        ours, theirs = np.frombuffer(true, np.uint8), np.frombuffer(claimed.data, np.uint8)
        width = element_width(signature.dtype)
        element = int(np.flatnonzero(ours != theirs)[0]) // width
        at = slice(element * width, (element + 1) * width)
        rows = len(true) // (signature.elements * width) if program.batched else 1
        return (
            f"claimed {place_text(element, signature.elements, rows)} of output {signature.name or i} is "
            f"{value_text(signature.dtype, decode_element(signature.dtype, claimed.data[at]))}; it is "
            f"{value_text(signature.dtype, decode_element(signature.dtype, true[at]))}"
        )
    return None
