"""The residual network of `scripts/bench exact`, small: its trace is onnxruntime's answer, step by step."""

from __future__ import annotations

import numpy as np
import pytest
from assay.exact.lowering import lower
from assay.exact.program import Source
from assay.exact.step import run_step
from assay.exact.trace import Trace, run_trace
from assay.exact.vectorised.values import STORAGE

from scripts.benches.exact import build_row, build_session
from scripts.benches.resnet import build_resnet


@pytest.fixture(scope="module")
def artifact() -> bytes:
    return build_resnet(size=40, classes=10)


@pytest.fixture(scope="module")
def trace(artifact: bytes) -> Trace:
    image = np.random.default_rng(1).uniform(-4, 4, (2, 3, 40, 40)).astype(np.float32)
    return run_trace(lower(artifact), [image])


def test_build_resnet__trace__is_onnxruntimes_answer(artifact: bytes, trace: Trace) -> None:
    (expected,) = build_session(artifact).run(None, {"image": trace.inputs[0]})
    assert trace.outputs[0].tobytes() == expected.tobytes()
    assert expected.std() > 0.05


def test_build_resnet__activations__spread_over_their_range(trace: Trace) -> None:
    for number, kernel in enumerate(trace.program.kernels):
        if kernel.op_type in ("QLinearConv", "QLinearAdd") and kernel.dtype == 2:
            values = np.frombuffer(trace.tensor(number), np.uint8)
            assert len(np.unique(values)) > 20, kernel.name
            assert np.mean(values == 255) < 0.05, kernel.name


def test_build_resnet__sampled_elements__are_the_scalar_interpreters(trace: Trace) -> None:
    rng = np.random.default_rng(2)
    for number, kernel in enumerate(trace.program.kernels):
        arrays = [
            trace.program.constants[operand.root].reshape(-1).view(STORAGE[operand.dtype])
            if operand.source is Source.CONSTANT
            else trace.inputs[0].reshape(-1).view(np.uint32)
            if operand.source is Source.INPUT
            else np.frombuffer(trace.tensor(operand.index), STORAGE[operand.dtype])
            for operand in kernel.operands
        ]
        tensor = np.frombuffer(trace.tensor(number), STORAGE[kernel.dtype])
        element = int(rng.integers(tensor.size))
        (row, inside), acc = divmod(element, kernel.elements), kernel.init
        for step in range(kernel.steps):
            acc = run_step(kernel, row, inside, step, acc, lambda k, at, arrays=arrays: int(arrays[k][at]))
        assert acc == int(tensor[element]), kernel.name


def test_build_row__with_a_bound__tells_the_share_of_it() -> None:
    assert build_row("a", 10.0, "x", 20.0)["ratio"] == 0.5
    assert build_row("a", 10.0, "x")["ratio"] is None
