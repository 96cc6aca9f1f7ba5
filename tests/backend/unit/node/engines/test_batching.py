"""Rows of several requests joined and parted, and the hashes of their outputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from assay.commitments.tensors import OIP_TO_NUMPY, commit_tensors
from assay.node.engines.batching import batch_key, hash_outputs, join_rows, part_rows, row_count
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

Array = NDArray[Any]
DTYPES = [dtype for name, dtype in OIP_TO_NUMPY.items() if name != "BYTES"]
any_array = st.sampled_from(DTYPES).flatmap(
    lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=9))
)


@given(st.lists(any_array, min_size=1, max_size=3))
def test_hash_outputs__any_tensors__equals_their_commitment(outputs: list[Array]) -> None:
    assert hash_outputs(outputs) == commit_tensors(outputs)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 128), np.float32),
        np.zeros((2, 129), np.float32),
        np.arange(6, dtype=">i4").reshape(2, 3),
        np.arange(12, dtype=np.int64).reshape(3, 4)[:, ::2],
        np.array([["a", "bc"]], object),
        np.array([[True, False]]),
    ],
)
def test_hash_outputs__sizes_orders_and_types__equals_the_commitment(array: Array) -> None:
    assert hash_outputs([array, array]) == commit_tensors([array, array])


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6))
def test_part_rows__of_what_was_joined__gives_each_its_own(counts: list[int]) -> None:
    random = np.random.default_rng(sum(counts))
    requests = [(random.random((rows, 3)), random.random((rows, 2, 2))) for rows in counts]
    parts = part_rows(join_rows(requests), counts)
    assert parts is not None
    for request, part in zip(requests, parts, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(request, part, strict=True))


def test_part_rows__outputs_of_other_rows__gives_none() -> None:
    assert part_rows([np.zeros((3, 1)), np.zeros((2, 1))], [1, 2]) is None
    assert part_rows([np.zeros(())], [1]) is None


def test_row_count__first_dimensions__must_agree() -> None:
    assert row_count([np.zeros((3, 1)), np.zeros((3, 4))]) == 3
    assert row_count([np.zeros((3, 1)), np.zeros((1, 4))]) == 0
    assert row_count([np.zeros((3, 1)), np.zeros(())]) == 0
    assert row_count([np.zeros(())]) == 0


def test_batch_key__other_dims_or_types_alike__tells_them_apart() -> None:
    assert batch_key([np.zeros((3, 1))]) == batch_key([np.zeros((5, 1))])
    assert batch_key([np.zeros((3, 1))]) != batch_key([np.zeros((3, 2))])
