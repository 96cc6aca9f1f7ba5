"""Traces that a node keeps while it is under several disputes at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from assay.commitments.public_data import ReceiptData, named_tensors
from assay.exact import trace as traces
from assay.exact.evaluator import evaluate
from assay.node.disputes import tracing
from assay.node.disputes.tracing import KEPT_TRACES, KEPT_WHOLE, LogTraces
from assay.types import ZERO_ADDRESS, ZERO_HASH, Hash32, Receipt

from tests.support.exact_version import exact_version, row


class FromMemory(LogTraces):
    """Its receipts' inputs are given here, by the first byte of their digests."""

    def __init__(self) -> None:
        super().__init__(Path(), cast(Any, None), cast(Any, None), 1)
        self._program_of_all = exact_version().program

    def _data(self, receipt: Receipt, digest: Hash32) -> ReceiptData:
        inputs = [row(seed=digest[0])]
        outputs = evaluate(self._program_of_all, inputs)
        return ReceiptData(named_tensors(["x"], inputs), named_tensors(["y"], outputs))

    def _program(self, version_id: Hash32) -> Any:
        return self._program_of_all


def test_trace__many_disputes_in_turn__computes_each_trace_once(monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[object] = []
    real = traces.run_trace

    def run(*arguments: Any, **options: Any) -> Any:
        computed.append(arguments)
        return real(*arguments, **options)

    monkeypatch.setattr(traces, "run_trace", run)
    receipt = Receipt(ZERO_ADDRESS, ZERO_ADDRESS, ZERO_HASH, ZERO_HASH, ZERO_HASH, 1, 1, 1)
    digests = [Hash32(bytes([n]) * 32) for n in range(KEPT_TRACES)]
    source, chunks = FromMemory(), []
    for _ in range(3):
        chunks.append([source.trace(receipt, digest).chunk(0, 0) for digest in digests])
        whole = [one for one in source._traces.values() if one._cache]
        assert len(whole) <= KEPT_WHOLE + 1  # what was asked of the last is forgotten with the next
    assert len(computed) == KEPT_TRACES
    assert chunks[0] == chunks[1] == chunks[2]
    source.trace(receipt, Hash32(b"\xff" * 32))
    assert len(source._traces) == tracing.KEPT_TRACES
