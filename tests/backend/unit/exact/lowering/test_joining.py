"""Concat, Pad and Gather against onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from assay.exact.lowering import lower
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.exactness import assert_exact, assert_refused, extremes, model, node

DTYPES = ("f4", "u1", "i1", "u2", "i2", "i4", "i8", "?", "u4", "u8")
PADDED = ("f4", "u1", "i1", "i4", "i8", "?", "u4", "u8")


def drawn(dtype: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray[Any, Any]:
    return extremes(dtype, shape, np.random.default_rng(seed))


@given(
    st.sampled_from(DTYPES),
    st.lists(st.integers(1, 4), min_size=1, max_size=10),
    st.sampled_from([1, 2, -1, -2]),
)
@settings(max_examples=40)
def test_lower_concat__any_number_of_inputs__equals_onnxruntime(
    dtype: str, extents: list[int], axis: int
) -> None:
    inputs = {}
    for position, extent in enumerate(extents[:8]):
        shape = [2, 3, 3]
        shape[axis] = extent
        inputs[f"x{position}"] = drawn(dtype, tuple(shape), position)
    names = [*inputs, *list(inputs)[: max(0, len(extents) - 8)]]
    assert_exact(model([node("Concat", names, axis=axis)], inputs), inputs)


def test_lower_concat__nine_inputs__two_kernels() -> None:
    inputs = {"x": drawn("u1", (2, 3))}
    artifact = model([node("Concat", ["x"] * 9, axis=1)], inputs)
    assert_exact(artifact, inputs)
    assert len(lower(artifact).kernels) == 2


def test_lower_concat__along_the_batch_axis__refused() -> None:
    inputs = {"x": drawn("u1", (2, 3))}
    assert_refused(model([node("Concat", ["x", "x"], axis=0)], inputs), "along the batch axis")


def test_lower_concat__constant_beside_rows__refused() -> None:
    inputs = {"x": drawn("u1", (1, 3))}
    artifact = model([node("Concat", ["x", "c"], axis=1)], inputs, {"c": np.zeros((1, 2), np.uint8)})
    assert_refused(artifact, "differ in more than one axis")


@given(
    st.sampled_from(PADDED),
    st.lists(st.integers(-1, 3), min_size=6, max_size=6),
    st.sampled_from([11, 13, 18, 19, 21, 25]),
    st.booleans(),
)
@settings(max_examples=60)
def test_lower_pad__constant_mode__equals_onnxruntime(
    dtype: str, pads: list[int], opset: int, filled: bool
) -> None:
    if dtype in ("u4", "u8", "?", "i1", "u1") and opset < 13:
        dtype = "f4"
    x = {"x": drawn(dtype, (2, 3, 4, 5))}
    constants = {"p": np.array([0, *pads[:3], 0, *pads[3:]], np.int64)}
    if filled:
        constants["v"] = drawn(dtype, (1,), 5).reshape(())
    assert_exact(model([node("Pad", ["x", *constants])], x, constants, opset=opset), x)


@given(
    st.sampled_from(["reflect", "edge", "wrap"]),
    st.lists(st.integers(0, 2), min_size=6, max_size=6),
    st.sampled_from(["f4", "u1", "i8"]),
)
@settings(max_examples=40)
def test_lower_pad__other_modes__equals_onnxruntime(mode: str, pads: list[int], dtype: str) -> None:
    x = {"x": drawn(dtype, (2, 3, 4, 5))}
    constants = {"p": np.array([0, *pads[:3], 0, *pads[3:]], np.int64)}
    assert_exact(model([node("Pad", ["x", "p"], mode=mode)], x, constants), x)


def test_lower_pad__five_axes__two_kernels() -> None:
    x = {"x": drawn("u1", (2, 2, 2, 2, 2, 2))}
    artifact = model([node("Pad", ["x", "p"])], x, {"p": np.array([0, 1, 1, 1, 1, 1] * 2, np.int64)})
    assert_exact(artifact, x)
    assert len(lower(artifact).kernels) == 2


def test_lower_pad__axes_given__equals_onnxruntime() -> None:
    x = {"x": drawn("i4", (2, 3, 4))}
    constants = {
        "p": np.array([1, 2], np.int64),
        "v": np.array(7, np.int32),
        "a": np.array([-1], np.int64),
    }
    assert_exact(model([node("Pad", ["x", *constants])], x, constants), x)


def test_lower_pad__attributes_of_opset_10__equals_onnxruntime() -> None:
    x = {"x": drawn("f4", (2, 3, 4))}
    padded = node("Pad", ["x"], pads=[0, 1, 0, 0, 0, 2], value=-2.5)
    assert_exact(model([padded], x, opset=10), x)


@pytest.mark.parametrize(
    ("mode", "pads", "word"),
    [
        ("constant", [1, 0, 0, 0], "along the batch axis"),
        ("constant", [0, -2, 0, -1], "cut the whole tensor off"),
        ("constant", [0, 1], "do not fit"),
        ("reflect", [0, 3, 0, 0], "reflects further"),
        ("wrap", [0, 4, 0, 0], "wraps further"),
        ("edge", [0, -1, 0, 0], "pads from 0"),
        ("mirror", [0, 1, 0, 0], "known mode"),
    ],
)
def test_lower_pad__batch_axis_or_nonsense__refused(mode: str, pads: list[int], word: str) -> None:
    x = {"x": drawn("f4", (2, 3))}
    assert_refused(model([node("Pad", ["x", "p"], mode=mode)], x, {"p": np.array(pads, np.int64)}), word)


@given(
    st.sampled_from(DTYPES),
    st.sampled_from([1, 2, -1, -2]),
    st.lists(st.integers(-4, 3), min_size=1, max_size=6),
    st.sampled_from([(), (-1,), (1, -1)]),
)
@settings(max_examples=50)
def test_lower_gather__constant_indices__equals_onnxruntime(
    dtype: str, axis: int, indices: list[int], shape: tuple[int, ...]
) -> None:
    x = {"x": drawn(dtype, (2, 4, 4))}
    chosen = np.array(indices[:1] if not shape else indices, np.int64).reshape(shape)
    assert_exact(model([node("Gather", ["x", "i"], axis=axis)], x, {"i": chosen}), x)


def test_lower_gather__evenly_stepping_indices__is_a_view() -> None:
    x = {"x": drawn("u1", (2, 9))}
    nodes = [node("Gather", ["x", "i"], ["h"], axis=1), node("Gather", ["h", "j"], axis=1)]
    artifact = model(nodes, x, {"i": np.array([8, 6, 4, 2], np.int32), "j": np.array([1, -1], np.int64)})
    assert_exact(artifact, x)
    assert len(lower(artifact).kernels) == 1


@given(st.integers(0, 3))
@settings(max_examples=4)
def test_lower_gather__table_by_computed_indices_known_inside__equals_onnxruntime(seed: int) -> None:
    x = {"x": drawn("u1", (3, 5), seed)}
    nodes = [
        node("ArgMax", ["x"], ["i"], axis=1, keepdims=0),
        node("Gather", ["table", "i"], ["y"], axis=0),
    ]
    assert_exact(model(nodes, x, {"table": drawn("f4", (5, 3))}), x)


@pytest.mark.parametrize(
    ("indices", "axis", "word"),
    [([4], 1, "outside the axis"), ([-5], 1, "outside the axis"), ([0], 0, "along the batch axis")],
)
def test_lower_gather__outside_or_across_rows__refused(indices: list[int], axis: int, word: str) -> None:
    x = {"x": drawn("u1", (2, 4))}
    assert_refused(
        model([node("Gather", ["x", "i"], axis=axis)], x, {"i": np.array(indices, np.int64)}), word
    )


def test_lower_gather__computed_indices_unbounded__refused() -> None:
    x = {"x": drawn("i8", (2, 4))}
    artifact = model([node("Gather", ["table", "x"], axis=0)], x, {"table": drawn("f4", (5, 3))})
    assert_refused(artifact, "bound the indices")


def test_lower_gather__computed_indices_into_rows__refused() -> None:
    x = {"x": drawn("u1", (2, 4))}
    nodes = [node("ArgMax", ["x"], ["i"], axis=1), node("Gather", ["x", "i"], axis=1)]
    assert_refused(model(nodes, x), "make indices constant")
