"""Where, comparisons and logic against onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.exactness import assert_exact, assert_refused, extremes, model, node

NUMBERS = ("f4", "u1", "i1", "u2", "i2", "i4", "i8", "u4", "u8")
COMPARISONS = ("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual")
SHAPES = (((2, 3, 4), (2, 3, 4)), ((2, 3, 1), (2, 1, 4)), ((2, 1), (2, 70)))


def drawn(dtype: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray[Any, Any]:
    array = extremes(dtype, shape, np.random.default_rng(seed))
    if dtype == "f4":
        array[np.random.default_rng(seed + 1).random(shape) < 0.1] = -0.0
    return array


@given(
    st.sampled_from(COMPARISONS),
    st.sampled_from(NUMBERS),
    st.sampled_from(SHAPES),
    st.sampled_from([10, 11, 12, 13, 16, 21]),
    st.integers(0, 99),
)
@settings(max_examples=80)
def test_lower_comparison__any_numbers__equals_onnxruntime(
    op_type: str, dtype: str, shapes: Any, opset: int, seed: int
) -> None:
    if op_type.endswith("OrEqual"):
        opset = max(opset, 12)
    if op_type == "Equal":
        opset = max(opset, 11)
    feeds = {
        name: drawn(dtype, shape, seed + k) for k, (name, shape) in enumerate(zip("ab", shapes, strict=True))
    }
    assert_exact(model([node(op_type, ["a", "b"])], feeds, opset=opset), feeds)


def test_lower_equal__floats_before_opset_11__refused() -> None:
    feeds = {"a": drawn("f4", (2, 3)), "b": drawn("f4", (2, 3))}
    assert_refused(model([node("Equal", ["a", "b"])], feeds, opset=10), "A is fp32")


@pytest.mark.parametrize("op_type", ["And", "Or", "Xor", "Equal"])
@pytest.mark.parametrize("shapes", SHAPES)
def test_lower_logic__bools__equals_onnxruntime(op_type: str, shapes: Any) -> None:
    feeds = {name: drawn("?", shape, k) for k, (name, shape) in enumerate(zip("ab", shapes, strict=True))}
    assert_exact(model([node(op_type, ["a", "b"])], feeds), feeds)


def test_lower_not__bools__equals_onnxruntime() -> None:
    feeds = {"a": drawn("?", (2, 30))}
    assert_exact(model([node("Not", ["a"])], feeds), feeds)


@given(st.sampled_from(["u1", "i1", "i4", "i8", "u4"]), st.sampled_from(SHAPES), st.integers(0, 99))
@settings(max_examples=30)
def test_lower_where__integers__equals_onnxruntime(dtype: str, shapes: Any, seed: int) -> None:
    feeds = {
        "c": drawn("?", shapes[0], seed),
        "x": drawn(dtype, shapes[1], seed + 1),
        "z": drawn(dtype, shapes[0], seed + 2),
    }
    assert_exact(model([node("Where", ["c", "x", "z"])], feeds), feeds)


def test_lower_where__floats_without_negative_zero__equals_onnxruntime() -> None:
    feeds = {"c": drawn("?", (2, 40)), "q": drawn("u1", (2, 40))}
    nodes = [node("Cast", ["q"], ["x"], to=1), node("Where", ["c", "x", "z"])]
    assert_exact(model(nodes, feeds, {"z": np.array(-1.5, np.float32)}), feeds)


def test_lower_where__floats_may_be_negative_zero__refused() -> None:
    feeds = {"c": drawn("?", (2, 4)), "x": drawn("f4", (2, 4)), "z": drawn("f4", (2, 4))}
    assert_refused(model([node("Where", ["c", "x", "z"])], feeds), "turns -0 into +0")
