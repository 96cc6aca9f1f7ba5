"""Views against onnxruntime: they give the same elements and cost no kernel but the output's copy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from assay.exact.lowering import lower
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from tests.support.exactness import assert_exact, assert_refused, extremes, model, node

X = {"x": np.arange(2 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 3, 4, 5)}


def shaped(op_type: str, opset: int, given: list[int] | None, **attributes: Any) -> bytes:
    """The operator over X; `given`: its second input."""
    constants = {} if given is None else {"s": np.array(given, np.int64)}
    return model([node(op_type, ["x", *constants], **attributes)], X, constants, opset=opset)


@pytest.mark.parametrize("opset", [10, 13, 14, 19, 21, 23, 25])
@pytest.mark.parametrize("shape", [[-1, 60], [0, -1], [0, 0, 20], [-1, 5, 4, 3], [0, 3, 0, 5, 1], [0, 60, 1]])
def test_lower_reshape__batch_axis_kept__equals_onnxruntime(opset: int, shape: list[int]) -> None:
    assert_exact(shaped("Reshape", opset, shape), X)


@pytest.mark.parametrize(
    ("shape", "word"),
    [
        ([2, 60], "keep the batch axis"),
        ([-1, 30], "do not fill"),
        ([60, -1], "keep the batch axis"),
        ([0, 7, -1], "do not fill"),
        ([0, -1, -1], "do not fill"),
        ([0, 60, 1, 1, 0], "copies an axis"),
    ],
)
def test_lower_reshape__batch_axis_lost_or_misfit__refused(shape: list[int], word: str) -> None:
    assert_refused(shaped("Reshape", 21, shape), word)


def test_lower_reshape__zero_with_allowzero__refused() -> None:
    assert_refused(shaped("Reshape", 21, [0, 60], allowzero=1), "keep the batch axis")


def test_lower_reshape__shape_is_computed__refused() -> None:
    shape = {"s": np.array([[0, 60]], np.int64)}
    artifact = model([node("Reshape", ["x", "s"])], X | shape, batched=False)
    assert_refused(artifact, "shape is computed")


@pytest.mark.parametrize("axis", [1, -3])
def test_lower_flatten__from_axis_1__equals_onnxruntime(axis: int) -> None:
    artifact = shaped("Flatten", 21, None, axis=axis)
    assert_exact(artifact, X)
    assert len(lower(artifact).kernels) == 1


@pytest.mark.parametrize("axis", [0, 2, -1])
def test_lower_flatten__merges_the_batch_axis__refused(axis: int) -> None:
    assert_refused(shaped("Flatten", 21, None, axis=axis), "merges the batch axis")


def test_lower_flatten__axis_out_of_range__refused() -> None:
    assert_refused(shaped("Flatten", 21, None, axis=5), "outside a tensor of rank 4")


@pytest.mark.parametrize("axis", [0, 1, 2, 4, -2])
def test_lower_flatten__no_batch_axis__equals_onnxruntime(axis: int) -> None:
    assert_exact(model([node("Flatten", ["x"], axis=axis)], X, batched=False), X)


@pytest.mark.parametrize(("opset", "as_input"), [(11, False), (12, False), (13, True), (21, True)])
def test_lower_squeeze__after_unsqueeze__equals_onnxruntime(opset: int, as_input: bool) -> None:
    axes = {"a": np.array([1, -1], np.int64), "b": np.array([1], np.int64)}
    if as_input:
        nodes = [node("Unsqueeze", ["x", "a"], ["h"]), node("Squeeze", ["h", "b"])]
        artifact = model(nodes, X, axes, opset=opset)
    else:
        nodes = [node("Unsqueeze", ["x"], ["h"], axes=[1, -1] if opset > 10 else [1, 5])]
        artifact = model([*nodes, node("Squeeze", ["h"], axes=[1])], X, opset=opset)
    assert_exact(artifact, X)


@pytest.mark.parametrize(
    ("op_type", "axes", "word"),
    [
        ("Unsqueeze", [0], "before the batch axis"),
        ("Unsqueeze", [-5], "before the batch axis"),
        ("Unsqueeze", [1, 1], "do not fit"),
        ("Unsqueeze", [9], "do not fit"),
        ("Squeeze", [0], "along the batch axis"),
        ("Squeeze", [1], "longer than 1"),
        ("Squeeze", None, "without axes"),
        ("Unsqueeze", None, "axes are missing"),
    ],
)
def test_lower_squeeze__batch_axis_or_misfit__refused(op_type: str, axes: list[int], word: str) -> None:
    assert_refused(shaped(op_type, 21, axes), word)


@given(st.permutations([1, 2, 3]))
@settings(max_examples=6)
def test_lower_transpose__rows_kept__equals_onnxruntime(order: list[int]) -> None:
    assert_exact(shaped("Transpose", 21, None, perm=[0, *order]), X)


def test_lower_transpose__no_batch_axis__equals_onnxruntime() -> None:
    assert_exact(model([node("Transpose", ["x"])], X, batched=False), X)


@pytest.mark.parametrize("perm", [None, [1, 0, 2, 3]])
def test_lower_transpose__moves_the_batch_axis__refused(perm: list[int] | None) -> None:
    assert_refused(shaped("Transpose", 21, None, **({"perm": perm} if perm else {})), "moves the batch axis")


ENDS = st.integers(-7, 7) | st.sampled_from([-(1 << 63), (1 << 63) - 1, (1 << 31) - 1, -(1 << 31)])


@given(
    st.lists(st.sampled_from([1, 2, 3, -1, -2, -3]), min_size=1, max_size=3, unique_by=lambda a: a % 4),
    st.data(),
)
@settings(max_examples=60)
def test_lower_slice__constants_with_any_step__equals_onnxruntime(
    axes: list[int], data: st.DataObject
) -> None:
    rows = [
        (data.draw(ENDS), data.draw(ENDS), axis, data.draw(st.sampled_from([1, 2, 3, -1, -2, -4])))
        for axis in axes
    ]
    for start, end, axis, step in rows:
        low = end if end >= -X["x"].shape[axis] or step > 0 else None
        if not len(range(X["x"].shape[axis])[slice(start, low, step)]):
            return
    constants = {
        name: np.array([row[k] for row in rows], np.int64) for k, name in enumerate(("st", "en", "ax", "sp"))
    }
    assert_exact(model([node("Slice", ["x", *constants])], X, constants), X)


@pytest.mark.parametrize(
    ("starts", "ends", "axes", "steps", "word"),
    [
        ([0], [1], [0], [1], "along the batch axis"),
        ([1], [1], [1], [1], "leaves nothing"),
        ([0, 0], [1, 1], [1, 1], [1, 1], "sliced twice"),
        ([0], [1], [1], [0], "step 0"),
        ([0], [1, 2], [1], [1], "not of one length"),
        ([0], [1], [4], [1], "outside a tensor of rank 4"),
    ],
)
def test_lower_slice__batch_axis_or_nonsense__refused(
    starts: list[int], ends: list[int], axes: list[int], steps: list[int], word: str
) -> None:
    constants = {
        name: np.array(array, np.int64)
        for name, array in (("st", starts), ("en", ends), ("ax", axes), ("sp", steps))
    }
    assert_refused(model([node("Slice", ["x", *constants])], X, constants), word)


def test_lower_slice__whole_batch_axis_named__is_a_view() -> None:
    constants = {
        "st": np.array([0, 1], np.int64),
        "en": np.array([(1 << 63) - 1, 3], np.int64),
        "ax": np.array([0, 2], np.int64),
    }
    artifact = model([node("Slice", ["x", *constants])], X, constants)
    assert_exact(artifact, X)
    assert len(lower(artifact).kernels) == 1


def test_lower__chain_of_views__one_copy() -> None:
    """Transposed, sliced backwards, reshaped: one kernel writes the output, however long the chain."""
    constants = {
        "st": np.array([-1], np.int64),
        "en": np.array([-9], np.int64),
        "ax": np.array([1], np.int64),
        "sp": np.array([-1], np.int64),
        "shape": np.array([0, 5, 4, 3], np.int64),
    }
    nodes = [
        node("Transpose", ["x"], ["a"], perm=[0, 3, 1, 2]),
        node("Slice", ["a", "st", "en", "ax", "sp"], ["b"]),
        node("Identity", ["b"], ["c"]),
        node("Transpose", ["c"], ["y"], perm=[0, 1, 3, 2]),
    ]
    artifact = model(nodes, X, constants)
    assert_exact(artifact, X)
    assert len(lower(artifact).kernels) == 1


@pytest.mark.parametrize("dtype", ["f4", "u1", "i1", "u2", "i2", "i4", "i8", "?", "u4", "u8"])
def test_lower_identity__any_dtype__equals_onnxruntime(dtype: str) -> None:
    x = {"x": extremes(dtype, (3, 7), np.random.default_rng(0))}
    assert_exact(model([node("Identity", ["x"])], x), x)


@pytest.mark.parametrize(
    "value",
    [
        {"value": numpy_helper.from_array(np.array([[1, 2, 3, 4, 5]], np.int32))},
        {"value_ints": [7, 7, 7, 7, 9]},
        {"value_int": -3},
    ],
)
def test_lower_constant__beside_an_input__equals_onnxruntime(value: dict[str, Any]) -> None:
    dtype = np.int32 if "value" in value else np.int64
    feeds = {"x": np.arange(2 * 3 * 4 * 5, dtype=dtype).reshape(2, 3, 4, 5)}
    artifact = model([node("Constant", [], "c", **value), node("Add", ["x", "c"])], feeds)
    assert_exact(artifact, feeds)
    assert len(lower(artifact).kernels) == 1


def test_lower_constant__floats__equal_onnxruntime() -> None:
    feeds = {"x": np.linspace(1, 2, 120, dtype=np.float32).reshape(2, 3, 4, 5)}
    nodes = [node("Constant", [], "c", value_floats=[0.1, 0.2, 0.3, 0.4, 0.5]), node("Mul", ["x", "c"])]
    assert_exact(model(nodes, feeds), feeds)


def test_lower_constant__strings__refused() -> None:
    nodes = [node("Constant", [], "c", value_strings=["a"]), node("Identity", ["x"])]
    assert_refused(model(nodes, X), "value_strings")
