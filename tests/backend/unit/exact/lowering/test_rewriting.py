"""What onnxruntime's optimiser rewrites into other arithmetic is refused, and really differs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from tests.support.exactness import (
    assert_exact,
    assert_refused,
    model,
    node,
    run_onnxruntime,
    same_bits,
)

Array = np.ndarray[Any, Any]
PADS = {"p": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64)}


def assert_settings_differ(artifact: bytes, feeds: Mapping[str, Array]) -> None:
    plain, optimised = (run_onnxruntime(artifact, feeds, optimised=on)[0] for on in (False, True))
    assert not same_bits(plain, optimised)


def padded_pool(dtype: Any, *between: str) -> tuple[bytes, dict[str, Array]]:
    random = np.random.default_rng(0)
    feeds = {"x": random.integers(1, 100, (2, 2, 6, 6)).astype(dtype)}
    if dtype == np.int8:
        feeds["x"] = -feeds["x"]
    chain = ["q", *(f"q{number}" for number in range(len(between)))]
    nodes = [node("Pad", ["x", "p"], ["q"])]
    nodes += [node(op, [chain[k]], [chain[k + 1]]) for k, op in enumerate(between)]
    nodes.append(node("MaxPool", [chain[-1]], kernel_shape=[3, 3], pads=[0, 0, 0, 0]))
    return model(nodes, feeds, PADS, opset=17), feeds


def test_lower_max_pool__int8_after_pad__refused() -> None:
    artifact, feeds = padded_pool(np.int8)
    assert_refused(artifact, "Pad", "attribute pads")
    assert_settings_differ(artifact, feeds)


def test_lower_max_pool__int8_after_pad_and_identity__refused() -> None:
    assert_refused(padded_pool(np.int8, "Identity")[0], "Pad")


def test_lower_max_pool__uint8_after_pad__equals_onnxruntime() -> None:
    assert_exact(*padded_pool(np.uint8))


def test_lower_cast__float_of_an_integer_product__refused() -> None:
    random = np.random.default_rng(0)
    feeds = {"a": random.integers(0, 256, (4, 8)).astype(np.uint8), "s": np.float32([[1], [2], [3], [4]])}
    constants = {"b": random.integers(-64, 64, (8, 3)).astype(np.int8), "t": np.array(0.01, np.float32)}
    constants |= {"bias": np.ones(3, np.float32), "a0": np.array(7, np.uint8), "b0": np.array(0, np.int8)}
    nodes = [
        node("MatMulInteger", ["a", "b", "a0", "b0"], ["m"]),
        node("Cast", ["m"], ["f"], to=1),
        node("Mul", ["s", "t"], ["u"]),
        node("Mul", ["f", "u"], ["g"]),
        node("Add", ["g", "bias"]),
    ]
    artifact = model(nodes, feeds, constants)
    assert_refused(artifact, "fuses", "DequantizeLinear")
    assert_settings_differ(artifact, feeds)


def test_lower_mul__by_a_reciprocal__refused() -> None:
    feeds = {"x": np.array([[7]], np.int32), "z": np.array([[21]], np.int32)}
    constants = {"one": np.array(1, np.int32), "low": np.array(3, np.int32), "high": np.array(9, np.int32)}
    nodes = [
        node("Clip", ["x", "low", "high"], ["c"]),
        node("Div", ["one", "c"], ["r"]),
        node("Mul", ["r", "z"]),
    ]
    artifact = model(nodes, feeds, constants)
    assert_refused(artifact, "y / x")
    assert_settings_differ(artifact, feeds)


@pytest.mark.parametrize("between", [[], ["Relu"], ["Neg"]])
def test_lower_quantize_linear__of_dequantised_floats__refused(between: list[str]) -> None:
    feeds = {"x": np.arange(12, dtype=np.uint8).reshape(3, 4)}
    constants = {"s": np.array(0.1, np.float32), "t": np.array(0.3, np.float32)}
    chain = ["d", *(f"d{number}" for number in range(len(between)))]
    nodes = [node("DequantizeLinear", ["x", "s"], ["d"])]
    nodes += [node(op, [chain[k]], [chain[k + 1]]) for k, op in enumerate(between)]
    nodes.append(node("QuantizeLinear", [chain[-1], "t"]))
    if between == ["Neg"]:
        assert_refused(model(nodes, feeds, constants), "not in the profile")
    else:
        assert_refused(model(nodes, feeds, constants), "fuses", "QOperator")


def clipped(low: float, high: float) -> tuple[bytes, dict[str, Array]]:
    feeds = {"x": np.array([[0, 1e-9, 7e-9, 1e-7, 2.3e-7, 1]], np.float32)}
    constants = {"s": np.array(1e-9, np.float32), "z": np.array(0, np.uint8)}
    nodes = [node("Clip", ["x"], ["c"], min=low, max=high), node("QuantizeLinear", ["c", "s", "z"])]
    return model(nodes, feeds, constants, opset=10), feeds


@pytest.mark.parametrize("bounds", [(1e-12, 2e-7), (5e-9, 1.0)])
def test_lower_quantize_linear__clip_that_cuts_little_off__refused(bounds: tuple[float, float]) -> None:
    artifact, feeds = clipped(*bounds)
    assert_refused(artifact, "Clip", "larger scale")
    assert_settings_differ(artifact, feeds)
