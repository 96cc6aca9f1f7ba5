"""Judging a receipt: what is right, what is wrong, and what would take more than the watcher has."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from math import prod
from typing import cast

import pytest
from assay.chain.contracts import NodeRegistry
from assay.commitments.public_data import ReceiptData, named_tensors
from assay.errors import RetryableError
from assay.exact.assembler import Expression
from assay.exact.evaluator import evaluate, memory_per_row
from assay.exact.program import Affine, Kernel, Operand, Program, Signature, Source
from assay.types import ZERO_ADDRESS, ZERO_HASH, Hash32, Receipt, SignedReceipt
from assay.watch.evidence import Evidence
from assay.watch.examine import Finding, examine
from assay.watch.programs import Programs
from assay.watch.traces import KEEP_TRACES, KEEP_WHOLE, Traces
from assay.watch.values import DataState, Verdict

from tests.support.exact_version import exact_version, row

MUCH = 1 << 62


def huge() -> Program:
    """A row of 2^31 − 1 int64 elements, all of them the input's only one: 16 GiB."""
    extent = (1 << 31) - 1
    operand = Operand(Source.INPUT, 7, 1, Affine(0, ()))
    kernel = Kernel(7, (extent,), (), (operand,), Expression().operand(0).code)
    return Program(False, (Signature(7, (1,), name="x"),), (Signature(7, (extent,), 0, "y"),), (kernel,))


def signed(rows: int, *, wrong: bool = False) -> tuple[Receipt, ReceiptData, Program]:
    program = exact_version().program
    inputs = [row(rows=rows)]
    outputs = [array.copy() for array in evaluate(program, inputs)]
    if wrong:
        outputs[0].reshape(-1)[1] += 1
    data = ReceiptData(named_tensors(["x"], inputs), named_tensors(["y"], outputs))
    hashes = data.input_hash, data.output_hash
    return Receipt(ZERO_ADDRESS, ZERO_ADDRESS, ZERO_HASH, *hashes, 1, 1, 1), data, program


def test_examine__true_and_false_outputs__are_told_apart() -> None:
    assert examine(*signed(3), max_work=MUCH) == Finding(DataState.AVAILABLE, Verdict.RIGHT, "")
    found = examine(*signed(3, wrong=True), max_work=MUCH)
    assert found.verdict is Verdict.WRONG
    assert "element 1" in found.reason


def test_examine__slices_of_one_row__give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assay.watch.examine.SLICE_BYTES", 1)
    assert examine(*signed(3), max_work=MUCH).verdict is Verdict.RIGHT


def test_examine__more_steps_than_allowed__is_skipped() -> None:
    assert examine(*signed(3), max_work=1).verdict is Verdict.SKIPPED


def test_examine__row_that_takes_more_memory_than_allowed__is_not_even_tried() -> None:
    """A stranger's program may ask for a tensor that no laptop holds: that must not end the watcher."""
    _, data, _ = signed(1)
    program = huge()
    assert memory_per_row(program) > 8 * prod(program.kernels[0].domain)
    inputs = named_tensors(["x"], [row()[0, :8].copy().view("<i8")])
    asked = replace(data, inputs=inputs)
    receipt = Receipt(ZERO_ADDRESS, ZERO_ADDRESS, ZERO_HASH, asked.input_hash, ZERO_HASH, 1, 1, 1)
    found = examine(receipt, asked, program, max_work=MUCH)
    assert found.verdict is Verdict.SKIPPED
    assert "memory" in found.reason


def sources() -> tuple[Callable[[int], Traces], SignedReceipt, int]:
    """Traces of one receipt of three rows by what they may take, the receipt, and the bytes of a row."""
    receipt, data, program = signed(3)

    class Kept:
        def get(self, *_: object) -> object:
            return json.dumps(data.to_json()).encode()

        def node(self, _: object) -> object:
            return self

        endpoint = ""

    class Known:
        def get(self, _: object) -> Program:
            return program

    def traces(max_memory: int) -> Traces:
        return Traces(
            cast(NodeRegistry, Kept()),
            cast(Programs, Known()),
            cast(Evidence, Kept()),
            max_memory=max_memory,
        )

    return traces, SignedReceipt(receipt, bytes(65)), memory_per_row(program)


def test_traces_get__more_memory_than_allowed__waits_for_more() -> None:
    traces, item, per_row = sources()
    assert traces(3 * per_row).get(ZERO_HASH, item).rows == 3
    with pytest.raises(RetryableError, match="--max-memory"):
        traces(3 * per_row - 1).get(ZERO_HASH, item)


def test_traces_get__many_disputes_in_turn__are_computed_once() -> None:
    traces, item, _ = sources()
    source = traces(MUCH)
    digests = [Hash32(bytes([n]) * 32) for n in range(KEEP_TRACES)]
    first = [source.get(digest, item) for digest in digests]
    for trace, digest in zip(first, digests, strict=True):
        assert source.get(digest, item) is trace
        trace.chunk(0, 0)
    assert sum(bool(trace._cache) for trace in first) == KEEP_WHOLE
