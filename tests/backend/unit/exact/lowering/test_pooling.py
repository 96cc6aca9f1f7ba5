"""MaxPool and ArgMax against onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from assay.exact.lowering import UnsupportedModel, check_model, lower
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.support.exactness import assert_exact, assert_refused, extremes, model, node, run_onnxruntime

OUTSIDE = ("in the padding alone", "larger than the padded", "read in two ways")
"""Why a drawn window may be refused."""
SCALE = {"s": np.array(0.031, np.float32), "z": np.array(3, np.uint8)}


def drawn(dtype: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray[Any, Any]:
    return extremes(dtype, shape, np.random.default_rng(seed))


def is_taken(artifact: bytes) -> bool:
    report = check_model(artifact)
    assert report.is_exact or any(reason in str(report.findings[0]) for reason in OUTSIDE)
    return report.is_exact


@st.composite
def windows(draw: st.DrawFn) -> tuple[tuple[int, ...], dict[str, Any]]:
    rank = draw(st.integers(1, 3))
    each = lambda low, high: draw(st.lists(st.integers(low, high), min_size=rank, max_size=rank))  # noqa: E731
    kernel = each(1, 3)
    attributes: dict[str, Any] = {"kernel_shape": kernel, "strides": each(1, 3)}
    if draw(st.booleans()):
        attributes["ceil_mode"] = 1
    if draw(st.integers(0, 3)) == 0:
        attributes["auto_pad"] = draw(st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"]))
    else:
        attributes["dilations"] = each(1, 2)
        attributes["pads"] = [draw(st.integers(0, taps - 1)) for taps in kernel * 2]
    sizes = each(4, 7) if rank < 3 else each(4, 5)
    return (2, 2, *sizes), attributes


@given(windows(), st.sampled_from(["u1", "i1"]), st.sampled_from([12, 21, 22]), st.integers(0, 99))
@settings(max_examples=120)
def test_lower_max_pool__eight_bits__equals_onnxruntime(
    window: Any, dtype: str, opset: int, seed: int
) -> None:
    shape, attributes = window
    x = {"x": drawn(dtype, shape, seed)}
    artifact = model([node("MaxPool", ["x"], **attributes)], x, opset=opset)
    assume(is_taken(artifact))
    assert_exact(artifact, x)


@given(windows(), st.sampled_from([10, 11, 12, 22]), st.integers(0, 99))
@settings(max_examples=40)
def test_lower_max_pool__dequantised_floats__equals_onnxruntime(window: Any, opset: int, seed: int) -> None:
    shape, attributes = window
    x = {"x": drawn("u1", shape, seed)}
    nodes = [node("DequantizeLinear", ["x", "s", "z"], ["h"]), node("MaxPool", ["h"], **attributes)]
    artifact = model(nodes, x, SCALE, opset=opset)
    assume(is_taken(artifact))
    assert_exact(artifact, x)


def test_lower_max_pool__float_input__refused() -> None:
    x = {"x": drawn("f4", (2, 2, 5))}
    assert_refused(model([node("MaxPool", ["x"], kernel_shape=[2])], x), "between -0 and +0")


def test_lower_max_pool__window_in_the_padding_alone__refused() -> None:
    x = {"x": drawn("u1", (2, 2, 3))}
    pooled = node("MaxPool", ["x"], kernel_shape=[2], dilations=[5], pads=[1, 3])
    artifact = model([pooled], x)
    finding_words = ("pads as long as the kernel",)
    assert_refused(artifact, *finding_words)
    inner = node("MaxPool", ["x"], kernel_shape=[2], dilations=[4], pads=[1, 1])
    assert_refused(model([inner], x), "in the padding alone")


def test_lower_max_pool__indices_used__refused() -> None:
    x = {"x": drawn("u1", (2, 2, 5))}
    pooled = node("MaxPool", ["x"], ["y", "i"], kernel_shape=[2])
    with pytest.raises(UnsupportedModel, match="'i' is not computed"):
        lower(model([pooled], x, outputs=["y", "i"]))


@pytest.mark.parametrize("between", [[], [node("Identity", ["h"], ["i"]), node("Mul", ["i", "one"], ["h2"])]])
def test_lower_max_pool__after_pad__refused(between: list[Any]) -> None:
    """onnxruntime's optimiser merges the two, so that negative values win over padded zeros."""
    x = {"x": -np.ones((2, 2, 5, 5), np.int8)}
    constants = {"p": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64), "one": np.array(1, np.int8)}
    last = between[-1].output[0] if between else "h"
    pooled = node("MaxPool", [last], kernel_shape=[2, 2], strides=[2, 2])
    artifact = model([node("Pad", ["x", "p"], ["h"]), *between, pooled], x, constants, opset=18)
    assert_refused(artifact, "takes a Pad before it into its own pads")
    if between:
        return
    plain, optimised = (run_onnxruntime(artifact, x, optimised=o)[0] for o in (False, True))
    assert not np.array_equal(plain, optimised)


def test_lower_max_pool__unsigned_after_pad_of_zeros__equals_onnxruntime() -> None:
    """0 is the least uint8: merged or not, it wins over nothing."""
    x = {"x": drawn("u1", (2, 2, 5, 5))}
    nodes = [node("Pad", ["x", "p"], ["h"]), node("MaxPool", ["h"], kernel_shape=[2, 2], strides=[2, 2])]
    assert_exact(model(nodes, x, {"p": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64)}, opset=18), x)


@given(
    st.sampled_from(["f4", "u1", "i1", "i4"]),
    st.sampled_from([1, 2, -1, -2]),
    st.booleans(),
    st.booleans(),
    st.integers(0, 99),
)
@settings(max_examples=80)
def test_lower_arg_max__ties_and_extremes__equals_onnxruntime(
    dtype: str, axis: int, last: bool, keep: bool, seed: int
) -> None:
    random = np.random.default_rng(seed)
    values = extremes(dtype, (3,), random)
    x = {"x": random.choice(values, (2, int(random.integers(1, 40)), 5)).astype(dtype)}
    if dtype == "f4":
        x["x"][random.random(x["x"].shape) < 0.5] *= np.float32(0)
    found = node("ArgMax", ["x"], axis=axis, keepdims=int(keep), select_last_index=int(last))
    assert_exact(model([found], x), x)


@pytest.mark.parametrize("opset", [10, 11])
def test_lower_arg_max__earlier_definitions__equals_onnxruntime(opset: int) -> None:
    x = {"x": drawn("f4", (3, 50))}
    assert_exact(model([node("ArgMax", ["x"], axis=1)], x, opset=opset), x)


def test_lower_arg_max__bounded_int64__equals_onnxruntime() -> None:
    x = {"x": drawn("i4", (3, 50))}
    assert_exact(model([node("Cast", ["x"], ["h"], to=7), node("ArgMax", ["h"], axis=1)], x), x)


def test_lower_arg_max__any_int64__refused() -> None:
    x = {"x": drawn("i8", (3, 50))}
    assert_refused(model([node("ArgMax", ["x"], axis=1)], x), "too large to be ranked", "int32")


def test_lower_arg_max__default_axis__refused() -> None:
    x = {"x": drawn("u1", (3, 50))}
    assert_refused(model([node("ArgMax", ["x"])], x), "along the batch axis")


def test_lower_arg_max__dequantised__equals_onnxruntime() -> None:
    """onnxruntime may rank before it dequantises."""
    x = {"x": drawn("u1", (3, 50))}
    nodes = [node("DequantizeLinear", ["x", "s", "z"], ["h"]), node("ArgMax", ["h"], axis=1)]
    assert_exact(model(nodes, x, SCALE), x)
    assert run_onnxruntime(model(nodes, x, SCALE), x)[0].shape == (3, 1)


def test_lower_max_pool__window_of_a_hostile_file__is_refused_at_once() -> None:
    """Its places are not walked through one by one."""
    x = {"x": np.zeros((1, 1, 4), np.uint8)}
    pooled = node("MaxPool", ["x"], kernel_shape=[2**31 - 1], pads=[2**30, 2**30])
    assert_refused(model([pooled], x), "at most 16777216")
