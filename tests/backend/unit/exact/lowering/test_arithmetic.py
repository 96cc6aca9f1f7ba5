"""Elementwise arithmetic against onnxruntime; and what is refused because CPUs differ."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from assay.exact.lowering import lower
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.exactness import assert_exact, assert_refused, extremes, model, node, run_onnxruntime

INTEGERS = ("u1", "i1", "u2", "i2", "i4", "i8", "u4", "u8")
ORDERED = ("u1", "i1", "i4", "i8", "u4", "u8")
BROADCAST = (
    ((2, 3, 4), (2, 3, 4)),
    ((2, 3, 4), (2, 1, 4)),
    ((2, 1, 4), (2, 3, 1)),
    ((2, 33), (2, 1)),
    ((2, 37), (2, 37)),
)
POSITIVE = {"lo": np.array(0.25, np.float32), "hi": np.array(100, np.float32)}


def drawn(dtype: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray[Any, Any]:
    return extremes(dtype, shape, np.random.default_rng(seed))


def limited(name: str, bounds: tuple[str, str] = ("lo", "hi")) -> list[Any]:
    """Nodes that bound input `name` as `name`b."""
    return [node("Clip", [name, *bounds], [f"{name}b"])]


@given(
    st.sampled_from(["Add", "Sub", "Mul"]),
    st.sampled_from([*INTEGERS, "f4"]),
    st.sampled_from(BROADCAST),
    st.integers(0, 99),
)
@settings(max_examples=80)
def test_lower_binary__two_inputs__equals_onnxruntime(
    op_type: str, dtype: str, shapes: Any, seed: int
) -> None:
    feeds = {
        name: drawn(dtype, shape, seed + k) for k, (name, shape) in enumerate(zip("ab", shapes, strict=True))
    }
    assert_exact(model([node(op_type, ["a", "b"])], feeds), feeds)


@pytest.mark.parametrize("opset", [10, 13, 14])
@pytest.mark.parametrize("dtype", ["f4", "i4", "i8", "u4", "u8"])
@pytest.mark.parametrize("op_type", ["Add", "Sub", "Mul", "Div"])
def test_lower_binary__constant_operand__equals_onnxruntime(op_type: str, dtype: str, opset: int) -> None:
    x = {"x": drawn(dtype, (3, 41))}
    for constant in (
        np.array(3, dtype),
        np.array([[1], [2], [3]], dtype)[:1],
        drawn(dtype, (41,), 7) | 1 if dtype != "f4" else np.linspace(0.1, 9, 41, dtype="f4"),
    ):
        if op_type == "Div" and constant.size > 1 and dtype.startswith("i"):
            constant = np.abs(constant // 2) + 1  # noqa: PLW2901 - no -1 below the least integer
        assert_exact(model([node(op_type, ["x", "c"])], x, {"c": constant}, opset=opset), x)


@given(st.sampled_from(INTEGERS), st.integers(0, 99))
@settings(max_examples=30)
def test_lower_div__integers_by_constants__toward_zero(dtype: str, seed: int) -> None:
    x = {"x": drawn(dtype, (3, 40), seed)}
    divisors = drawn(dtype, (40,), seed + 1)
    divisors[divisors == 0] = 3
    if dtype.startswith("i"):
        divisors[divisors == -1] = -7
    assert_exact(model([node("Div", ["x", "c"])], x, {"c": divisors}), x)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_lower_div__integer_divisor_may_be_zero__refused(dtype: str) -> None:
    feeds = {"a": drawn(dtype, (2, 3)), "b": drawn(dtype, (2, 3), 1)}
    assert_refused(
        model([node("Div", ["a", "b"])], feeds), "divisor may be zero", "ends onnxruntime's process"
    )


@pytest.mark.parametrize("dtype", ["i1", "i2", "i4", "i8"])
def test_lower_div__least_integer_by_minus_one__refused(dtype: str) -> None:
    x = {"x": drawn(dtype, (2, 3))}
    artifact = model([node("Div", ["x", "c"])], x, {"c": np.array([-1, 1, 2], dtype)})
    assert_refused(artifact, "least integer by -1")


def test_lower_div__floats_with_bounded_divisor__equals_onnxruntime() -> None:
    feeds = {"a": drawn("f4", (2, 50)), "b": drawn("f4", (2, 50), 1)}
    assert_exact(model([*limited("b"), node("Div", ["a", "bb"])], feeds, POSITIVE), feeds)


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ([node("Div", ["a", "b"])], ("zero by zero", "Clip")),
        ([node("Mul", ["a", "b"], ["h"]), node("Sub", ["h", "h"])], ("infinity from infinity",)),
        (
            [node("Mul", ["a", "b"], ["h"]), node("Add", ["h", "h"], ["i"]), node("Sub", ["i", "h"])],
            ("infinity from infinity",),
        ),
        ([node("Mul", ["a", "a"], ["h"]), node("Mul", ["h", "b"])], ("zero by infinity",)),
        ([node("Mul", ["a", "a"], ["h"]), node("Div", ["h", "h"])], ("zero by zero",)),
    ],
)
def test_lower_binary__nan_could_arise__refused(nodes: list[Any], words: tuple[str, ...]) -> None:
    feeds = {"a": drawn("f4", (2, 5)), "b": drawn("f4", (2, 5), 1)}
    assert_refused(model(nodes, feeds), *words)


def test_lower_binary__overflow_to_infinity__equals_onnxruntime() -> None:
    feeds = {"a": drawn("f4", (2, 200)), "b": drawn("f4", (2, 200), 1)}
    assert np.isinf(assert_exact(model([node("Mul", ["a", "b"])], feeds), feeds)[0]).any()


@pytest.mark.parametrize("order", [["x", "zero"], ["zero", "x"]])
def test_lower_add__float_zero_constant__refused(order: list[str]) -> None:
    """onnxruntime's NoopElimination leaves the node out, and −0 + 0 stays −0."""
    x = {"x": drawn("f4", (2, 5))}
    zero = {"zero": np.zeros((), np.float32)}
    assert_refused(model([node("Add", order)], x, zero), "optimiser leaves this zero out")


def test_lower_sub__float_negative_zero_constant__refused() -> None:
    x = {"x": np.array([[0.0, -0.0]], np.float32)}
    constants = {"n": np.array(-0.0, np.float32), "two": np.array(2, np.float32)}
    nodes = [node("Mul", ["x", "two"], ["a"]), node("Sub", ["a", "n"], ["b"]), node("Mul", ["b", "two"])]
    artifact = model(nodes, x, constants)
    assert_refused(artifact, "optimiser leaves this zero out")
    plain, optimised = (run_onnxruntime(artifact, x, optimised=o)[0] for o in (False, True))
    assert plain.tobytes() != optimised.tobytes()


def test_lower_div__one_by_floats__refused() -> None:
    """onnxruntime's DivMulFusion makes b / x of (1 / x) · b, which rounds once instead of twice."""
    feeds = {"x": np.array([[3.0, 7, 11, 49]], np.float32), "b": np.array([[5.0, 3, 7, 49]], np.float32)}
    nodes = [
        *limited("x"),
        node("Div", ["one", "xb"], ["h"]),
        node("Mul", ["h", "b"]),
    ]
    artifact = model(nodes, feeds, POSITIVE | {"one": np.array(1, np.float32)})
    assert_refused(artifact, "merge 1 / x with a Mul")
    plain, optimised = (run_onnxruntime(artifact, feeds, optimised=o)[0] for o in (False, True))
    assert plain.tobytes() != optimised.tobytes()


@pytest.mark.parametrize(("op_type", "neutral"), [("Sub", 0), ("Mul", 1), ("Div", 1), ("Add", -0.0)])
def test_lower_binary__neutral_constant_between_nodes__equals_onnxruntime(
    op_type: str, neutral: float
) -> None:
    """What onnxruntime's optimiser may leave out changes nothing, −0 included."""
    x = {"x": np.array([[0.0, -0.0, 1.5, -1e-45]], np.float32)}
    nodes = [node("Mul", ["x", "two"], ["a"]), node(op_type, ["a", "n"], ["b"]), node("Mul", ["b", "two"])]
    constants = {"n": np.array(neutral, np.float32), "two": np.array(2, np.float32)}
    assert_exact(model(nodes, x, constants), x)


@given(
    st.sampled_from(["Min", "Max"]),
    st.sampled_from(ORDERED),
    st.integers(1, 9),
    st.sampled_from([12, 13, 21]),
)
@settings(max_examples=40)
def test_lower_extremum__integers__equals_onnxruntime(
    op_type: str, dtype: str, count: int, opset: int
) -> None:
    feeds = {f"x{k}": drawn(dtype, (2, 1 + 2 * (k % 2)), k) for k in range(min(count, 8))}
    names = [*feeds, *["x0"] * (count - len(feeds))]
    assert_exact(model([node(op_type, names)], feeds, opset=opset), feeds)


@pytest.mark.parametrize("opset", [10, 13])
@pytest.mark.parametrize("op_type", ["Min", "Max"])
def test_lower_extremum__floats_of_which_one_may_be_zero__equals_onnxruntime(
    op_type: str, opset: int
) -> None:
    x = {"x": np.append(drawn("f4", (1, 40)), np.array([[0.0, -0.0]], "f4"), 1)}
    nodes = [node(op_type, ["x", "c"], ["h"]), node(op_type, ["h", "d"])]
    constants = {"c": np.array(-1.5, np.float32), "d": np.array(2.5, np.float32)}
    assert_exact(model(nodes, x, constants, opset=opset), x)


@pytest.mark.parametrize("op_type", ["Min", "Max"])
def test_lower_extremum__floats_may_be_zeros_of_both_signs__refused(op_type: str) -> None:
    feeds = {"a": drawn("f4", (2, 5)), "b": drawn("f4", (2, 5), 1)}
    assert_refused(model([node(op_type, ["a", "b"])], feeds), "between -0 and +0", "DequantizeLinear")


@given(
    st.sampled_from(ORDERED), st.integers(0, 99), st.sampled_from([12, 13, 21]), st.booleans(), st.booleans()
)
@settings(max_examples=40)
def test_lower_clip__integers__equals_onnxruntime(
    dtype: str, seed: int, opset: int, low: bool, high: bool
) -> None:
    x = {"x": drawn(dtype, (2, 40), seed)}
    bounds = {"lo": drawn(dtype, (), seed + 1), "hi": drawn(dtype, (), seed + 2)}
    used = {name: bound for name, bound in bounds.items() if {"lo": low, "hi": high}[name]}
    names = ["x", "lo" if low else "", "hi" if high else ""]
    assert_exact(model([node("Clip", names)], x, used, opset=opset), x)


@pytest.mark.parametrize(("low", "high"), [(-1.5, 2.5), (0.5, None), (None, -0.5), (2.5, 1.5), (-3e38, 3e38)])
@pytest.mark.parametrize("opset", [10, 11, 12, 13])
def test_lower_clip__floats__equals_onnxruntime(low: float | None, high: float | None, opset: int) -> None:
    x = {"x": np.append(drawn("f4", (1, 80)), np.array([[0.0, -0.0]], "f4"), 1)}
    if opset < 11:
        if low and high and low > high:
            return  # refused, see below
        bounds = {name: bound for name, bound in (("min", low), ("max", high)) if bound is not None}
        artifact = model([node("Clip", ["x"], **bounds)], x, opset=opset)
    else:
        constants = {
            name: np.array(bound, np.float32)
            for name, bound in (("lo", low), ("hi", high))
            if bound is not None
        }
        names = ["x", "" if low is None else "lo", "" if high is None else "hi"]
        artifact = model([node("Clip", names)], x, constants, opset=opset)
    assert_exact(artifact, x)


def test_lower_clip__attributes_crossed__refused() -> None:
    x = {"x": drawn("f4", (2, 5))}
    assert_refused(model([node("Clip", ["x"], min=2.0, max=1.0)], x, opset=10), "min is above max")


@pytest.mark.parametrize("low", [0.0, -0.0])
def test_lower_clip__float_bound_of_zero__refused(low: float) -> None:
    x = {"x": drawn("f4", (2, 5))}
    artifact = model([node("Clip", ["x", "lo"])], x, {"lo": np.array(low, np.float32)})
    assert_refused(artifact, "between -0 and +0")


def test_lower_clip__bound_is_computed__refused() -> None:
    feeds = {"x": drawn("i4", (2, 5)), "lo": drawn("i4", (2,))}
    assert_refused(model([node("Clip", ["x", "lo"])], feeds), "computed, not constant")


@pytest.mark.parametrize("dtype", ["i1", "i4"])
def test_lower_relu__integers__equals_onnxruntime(dtype: str) -> None:
    x = {"x": drawn(dtype, (2, 40))}
    assert_exact(model([node("Relu", ["x"])], x), x)


def test_lower_relu__float_input__refused() -> None:
    x = {"x": drawn("f4", (2, 5))}
    assert_refused(model([node("Relu", ["x"])], x), "-0 on x86 and +0 on aarch64", "QOperator")


@pytest.mark.parametrize("opset", [13, 21])
def test_lower_relu__dequantised_values__equals_onnxruntime(opset: int) -> None:
    """DequantizeLinear gives no −0."""
    x = {"x": drawn("i1", (2, 60))}
    constants = {"s": np.array(0.037, np.float32), "z": np.array(-5, np.int8)}
    nodes = [node("DequantizeLinear", ["x", "s", "z"], ["h"]), node("Relu", ["h"])]
    assert_exact(model(nodes, x, constants, opset=opset), x)


@pytest.mark.parametrize("op_type", ["Add", "Sub", "Mul", "Div"])
def test_lower_binary__eight_bits_before_opset_14__refused(op_type: str) -> None:
    feeds = {"a": drawn("u1", (2, 5)), "b": drawn("u1", (2, 5))}
    assert_refused(model([node(op_type, ["a", "b"])], feeds, opset=13), "A is uint8")


def test_lower_binary__constant_meets_the_batch_axis__refused() -> None:
    x = {"x": drawn("i4", (2, 5))}
    artifact = model([node("Add", ["x", "c"])], x, {"c": np.arange(10, dtype=np.int32).reshape(2, 5)})
    assert_refused(artifact, "meets the batch axis")


def test_lower__same_model_twice__same_root() -> None:
    x = {"x": drawn("i4", (2, 5))}
    artifact = model([node("Add", ["x", "x"])], x)
    assert lower(artifact).root == lower(artifact).root
