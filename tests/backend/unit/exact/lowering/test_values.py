"""Views against numpy: the element that a view reads is the element that numpy's view holds."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import pytest
from assay.exact.lowering.report import Refusal
from assay.exact.lowering.values import UINT8, Interval, Value, constant_value, row_major
from assay.exact.program import Source
from hypothesis import given
from hypothesis import strategies as st

Array = np.ndarray[Any, Any]
SHAPES = st.lists(st.integers(1, 4), min_size=0, max_size=4)


def viewed(dims: tuple[int, ...], *, batched: bool = False) -> Value:
    size = prod(dims)
    return Value(UINT8, dims, batched, Source.KERNEL, 0, size, 0, row_major(dims), Interval(0, 255))


def read(value: Value) -> Array:
    """The flat elements that the view reads, in its dims."""
    found = np.full(value.dims, value.base)
    for axis, stride in enumerate(value.strides):
        shape = [1] * len(value.dims)
        shape[axis] = -1
        found = found + np.arange(value.dims[axis]).reshape(shape) * stride
    return found


@st.composite
def views(draw: st.DrawFn) -> tuple[Value, Array]:
    """A contiguous tensor seen through random transposes, slices and broadcasts, and the same in numpy."""
    dims = tuple(draw(SHAPES))
    value, array = viewed(dims), np.arange(prod(dims)).reshape(dims)
    if draw(st.booleans()):
        order = draw(st.permutations(range(len(dims))))
        value, array = value.transpose(order), array.transpose(order)
    if draw(st.booleans()):
        starts = [draw(st.integers(0, dim - 1)) for dim in array.shape]
        counts = [dim - start for dim, start in zip(array.shape, starts, strict=True)]
        value = value.slice(starts, [1] * len(starts), counts)
        array = array[tuple(slice(start, None) for start in starts)]
    if draw(st.booleans()):
        lead = draw(st.integers(1, 3))
        value, array = value.expand((lead, *value.dims)), np.broadcast_to(array, (lead, *array.shape))
    return value, array


@given(views())
def test_views__chained__read_numpys_elements(pair: tuple[Value, Array]) -> None:
    value, array = pair
    assert value.dims == array.shape
    assert np.array_equal(read(value), array)


@given(views(), st.data())
def test_reshape__any_view__reads_the_same_or_needs_a_copy(
    pair: tuple[Value, Array], data: st.DataObject
) -> None:
    value, array = pair
    divisors = [d for d in range(1, array.size + 1) if array.size % d == 0]
    first = data.draw(st.sampled_from(divisors))
    wanted = data.draw(st.permutations([first, array.size // first, 1]))
    shaped = value.reshape(wanted)
    if shaped is None:
        assert not value.is_contiguous
    else:
        assert np.array_equal(read(shaped), array.reshape(wanted))


@given(views())
def test_is_contiguous__any_view__only_if_the_whole_in_order(pair: tuple[Value, Array]) -> None:
    value, array = pair
    whole = np.arange(value.elements)
    assert value.is_contiguous == np.array_equal(array.reshape(-1), whole)


@given(SHAPES, st.randoms(use_true_random=False))
def test_constant_value__through_views__keeps_its_array(dims: list[int], random: Any) -> None:
    array = np.arange(prod(dims), dtype=np.uint8).reshape(dims)
    order = random.sample(range(len(dims)), len(dims))
    value = constant_value(array, UINT8).transpose(order)
    assert value.array is not None
    assert np.array_equal(value.array, array.transpose(order))
    assert value.is_contiguous


@pytest.mark.parametrize(("axis", "found"), [(1, 0), (2, 1), (-1, 1), (-2, 0)])
def test_axis__behind_the_batch_axis__counts_from_it(axis: int, found: int) -> None:
    assert viewed((3, 4), batched=True).axis(axis) == found


@pytest.mark.parametrize(
    ("axis", "word"), [(0, "batch axis"), (-3, "batch axis"), (3, "outside"), (-4, "outside")]
)
def test_axis__batch_axis_or_none__refused(axis: int, word: str) -> None:
    with pytest.raises(Refusal, match=word):
        viewed((3, 4), batched=True).axis(axis)


def test_constant_value__nan__refused() -> None:
    with pytest.raises(Refusal, match="NaN"):
        constant_value(np.array([1.0, np.nan], np.float32), 1)
