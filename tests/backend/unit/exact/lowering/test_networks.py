"""Whole networks as onnxruntime's quantiser writes them: layouts, fusions and threads change nothing."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from assay.cli.quantising import QUANTISED, run_quantiser
from assay.exact.lowering import adjust_scales, check_model, lower
from onnx import helper
from onnxruntime.quantization import CalibrationDataReader

from tests.support.exactness import assert_exact, run_program, same_bits
from tests.support.onnx_models import build_model, tensor, value
from tests.support.random_networks import random_network

IMAGES = np.random.default_rng(1).normal(size=(12, 3, 12, 12)).astype(np.float32)


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self) -> None:
        self.batches = iter([{"x": IMAGES}])

    def get_next(self) -> dict[str, Any] | None:
        return next(self.batches, None)


def residual_network() -> onnx.ModelProto:
    """Float: convolutions with residual sums, x · sigmoid(x), pools, Concat, Gemm."""
    random = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []
    counter = itertools.count()

    def add(op_type: str, inputs: list[str], **attributes: Any) -> str:
        name = f"{op_type}{next(counter)}"
        nodes.append(helper.make_node(op_type, inputs, [name], name=name, **attributes))
        return name

    def convolve(x: str, inner: int) -> str:
        names = [f"w{next(counter)}", f"b{next(counter)}"]
        arrays = random.normal(size=(8, inner, 3, 3), scale=0.2), random.normal(size=8, scale=0.1)
        weights.extend(tensor(n, a.astype(np.float32)) for n, a in zip(names, arrays, strict=True))
        return add("Conv", [x, *names], pads=[1, 1, 1, 1])

    x = add("Relu", [convolve("x", 3)])
    for step in range(4):
        x = add("Relu" if step % 2 else "LeakyRelu", [add("Add", [convolve(x, 8), x])])
    x = add("Mul", [x, add("Sigmoid", [x])])
    x = add("AveragePool", [x], kernel_shape=[2, 2], strides=[2, 2])
    x = add("Flatten", [add("GlobalAveragePool", [add("Concat", [x, x], axis=1)])])
    weights.append(tensor("head", random.normal(size=(16, 10)).astype(np.float32)))
    weights.append(tensor("offset", np.zeros(10, np.float32)))
    nodes.append(helper.make_node("Gemm", [x, "head", "offset"], ["y"], name="head"))
    sizes = [value("x", ["rows", 3, 12, 12])], [value("y", ["rows", 10])]
    return build_model(nodes, *sizes, weights)


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = Path(tmp_path_factory.mktemp("models"), "float.onnx")
    onnx.save(residual_network(), path)
    model = run_quantiser(path, reader=_Reader(), operators=QUANTISED)
    return adjust_scales(model.SerializeToString(deterministic=True))


def test_lower__quantisers_residual_network__equals_onnxruntime(quantised: bytes) -> None:
    kinds = {node.op_type for node in onnx.load_from_string(quantised).graph.node}
    assert {"QLinearAdd", "QLinearSigmoid", "QLinearConcat", "QLinearAveragePool", "QGemm"} <= kinds
    assert_exact(quantised, {"x": IMAGES})


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("level", ["ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL"])
def test_lower__every_level_and_two_threads__equals_onnxruntime(
    quantised: bytes, level: str, threads: int
) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    session = onnxruntime.InferenceSession(quantised, options, providers=["CPUExecutionProvider"])
    (theirs,) = session.run(None, {"x": IMAGES})
    (mine,) = run_program(lower(quantised), {"x": IMAGES})
    assert same_bits(mine, theirs)


def _is_exact_after_adjusting(seed: int) -> bool:
    case = random_network(seed)
    adjusted = adjust_scales(case.artifact)
    if not check_model(adjusted).is_exact:
        return False
    assert_exact(adjusted, case.feeds)
    return True


def test_lower__random_networks__equal_onnxruntime() -> None:
    assert sum(map(_is_exact_after_adjusting, range(15))) >= 14


@pytest.mark.deep
def test_lower__many_random_networks__equal_onnxruntime() -> None:
    assert sum(map(_is_exact_after_adjusting, range(100, 400))) >= 290
