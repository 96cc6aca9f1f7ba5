"""Cast against onnxruntime."""

from __future__ import annotations

import numpy as np
import pytest
from assay.commitments.tensors import onnx_dtype

from tests.support.exactness import assert_exact, assert_refused, extremes, model, node

NUMBERS = ("u1", "i1", "u2", "i2", "i4", "i8", "u4", "u8", "?")


@pytest.mark.parametrize("opset", [10, 13, 21, 25])
@pytest.mark.parametrize("source", NUMBERS)
def test_lower_cast__integers_and_bool__equals_onnxruntime(source: str, opset: int) -> None:
    """To each other and to float32, in one model: wrapped, rounded, or not zero."""
    x = {"x": extremes(source, (2, 60), np.random.default_rng(3))}
    targets = [*NUMBERS, "f4"]
    for some in (targets[:5], targets[5:]):
        nodes = [node("Cast", ["x"], [f"y{to}"], to=onnx_dtype(np.dtype(to))) for to in some]
        assert_exact(model(nodes, x, outputs=[f"y{to}" for to in some], opset=opset), x)


def test_lower_cast__floats_to_bool_and_themselves__equals_onnxruntime() -> None:
    x = {"x": np.append(extremes("f4", (2, 60), np.random.default_rng(3)), np.full((2, 1), -0.0, "f4"), 1)}
    nodes = [node("Cast", ["x"], ["a"], to=9), node("Cast", ["x"], ["b"], to=1)]
    assert_exact(model(nodes, x, outputs=["a", "b"]), x)


@pytest.mark.parametrize(
    ("target", "low", "high"),
    [
        ("u1", -0.99, 255.99),
        ("i1", -128.9, 127.9),
        ("i2", -32768.5, 32767.5),
        ("u2", -0.5, 65535.5),
        ("i4", -(2.0**31), 2147483520.0),
        ("i8", -(2.0**63), 9.2e18),
        ("u4", -0.5, 4294967040.0),
    ],
)
def test_lower_cast__bounded_floats_to_integers__equals_onnxruntime(
    target: str, low: float, high: float
) -> None:
    random = np.random.default_rng(3)
    x = {"x": np.append(extremes("f4", (2, 60), random), random.uniform(low, high, (2, 60)).astype("f4"), 1)}
    bounds = {"lo": np.array(low, np.float32), "hi": np.array(high, np.float32)}
    nodes = [node("Clip", ["x", "lo", "hi"], ["h"]), node("Cast", ["h"], to=onnx_dtype(np.dtype(target)))]
    assert_exact(model(nodes, x, bounds), x)


def test_lower_cast__unbounded_floats_to_integers__refused() -> None:
    x = {"x": np.ones((2, 3), np.float32)}
    assert_refused(model([node("Cast", ["x"], to=6)], x), "outside int32, where CPUs differ", "Clip")


def test_lower_cast__to_float16__refused() -> None:
    x = {"x": np.ones((2, 3), np.float32)}
    assert_refused(model([node("Cast", ["x"], to=10)], x), "fp16 is not in the profile")
