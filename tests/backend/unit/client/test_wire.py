"""Arrays to Open Inference Protocol bytes and back; replies of strangers never crash the decoder."""

from __future__ import annotations

import json

import numpy as np
import pytest
from assay.client.errors import InputInvalid
from assay.client.wire import WireError, decode_response, encode_request, match_inputs
from assay.commitments.tensors import OIP_TO_NUMPY
from assay.node.oip.protocol import parse_request
from assay.types import TensorSpec
from hypothesis import given
from hypothesis import strategies as st

NUMERIC = [name for name in OIP_TO_NUMPY if name != "BYTES"]


@given(st.sampled_from(NUMERIC), st.lists(st.integers(0, 3), max_size=3), st.integers(0, 2**32))
def test_encode_request__any_dtype_and_shape__the_node_reads_the_same(
    dtype: str, shape: list[int], seed: int
) -> None:
    spec = TensorSpec("x", dtype, tuple(shape))
    array = np.random.default_rng(seed).integers(0, 2, shape).astype(OIP_TO_NUMPY[dtype])
    body, length = encode_request([spec], {"x": array}, {"voucher_amount": "1"}, "id")
    request = parse_request(body, length, [spec], [spec], max_elements=1000)
    assert request.binary_default
    assert request.parameters["voucher_amount"] == "1"
    assert request.inputs[0].dtype == array.dtype
    assert np.array_equal(request.inputs[0], array)


def test_encode_request__strings__the_node_reads_the_same() -> None:
    spec = TensorSpec("s", "BYTES", (-1,))
    arrays = match_inputs([spec], np.array(["ä", "", "b" * 300]))
    body, length = encode_request([spec], arrays, {}, "id")
    request = parse_request(body, length, [spec], [spec], max_elements=10)
    decoded = [item.decode() if isinstance(item, bytes) else item for item in request.inputs[0].tolist()]
    assert decoded == ["ä", "", "b" * 300]


@pytest.mark.parametrize(
    ("dtype", "array"),
    [
        ("INT64", np.ones((1, 2), np.float32)),
        ("UINT8", np.full((1, 2), 256)),
        ("INT8", np.full((1, 2), -129)),
        ("FP32", np.full((1, 2), 1e300)),
        ("FP32", np.full((1, 2), np.inf)),
        ("FP32", np.ones(2)),
        ("FP32", np.ones((1, 3))),
        ("BYTES", np.ones((1, 2))),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_match_inputs__would_lose_something__refused(dtype: str, array: np.ndarray) -> None:
    with pytest.raises(InputInvalid):
        match_inputs([TensorSpec("x", dtype, (-1, 2))], array)


def test_match_inputs__several_inputs__keeps_the_order_of_the_signature() -> None:
    specs = [TensorSpec("b", "FP32", (1,)), TensorSpec("a", "FP32", (1,))]
    arrays = match_inputs(specs, {"a": np.ones(1), "b": np.zeros(1)})
    assert list(arrays) == ["b", "a"]
    with pytest.raises(InputInvalid, match="2 inputs"):
        match_inputs(specs, np.ones(1))


@given(st.binary(max_size=80), st.one_of(st.none(), st.integers(-5, 100)))
def test_decode_response__random_bytes__is_a_wire_error_at_worst(content: bytes, length: int | None) -> None:
    with pytest.raises(WireError):
        decode_response(content, length)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-2, 300), st.text(max_size=3)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "name": st.one_of(st.just("y"), JSON),
            "datatype": st.one_of(st.sampled_from(list(OIP_TO_NUMPY)), JSON),
            "shape": st.one_of(st.lists(st.integers(0, 3), max_size=3), JSON),
            "data": JSON,
            "parameters": st.one_of(st.fixed_dictionaries({"binary_data_size": st.integers(-1, 20)}), JSON),
        },
    ),
    st.binary(max_size=20),
)
def test_decode_response__any_output_object__array_or_wire_error(
    item: dict[str, object], tail: bytes
) -> None:
    head = json.dumps({"outputs": [item]}).encode()
    try:
        arrays, _ = decode_response(head + tail, len(head))
    except WireError:
        return
    assert all(array.dtype in OIP_TO_NUMPY.values() for array in arrays.values())


@pytest.mark.parametrize("dtype", ["FP32", "BYTES"])
@pytest.mark.parametrize("shape", [[0, 2**70], [0] * 70, [0, 2**31, 2**31, 2**31], [0] * 17])
def test_decode_response__shape_that_numpy_cannot_hold__is_a_wire_error(dtype: str, shape: list[int]) -> None:
    output = {"name": "y", "datatype": dtype, "shape": shape, "parameters": {"binary_data_size": 0}}
    head = json.dumps({"outputs": [output]}).encode()
    with pytest.raises(WireError):
        decode_response(head, len(head))


@pytest.mark.parametrize("data", [[1], [None], ["\ud800"], [["a"]], [{}]])
def test_decode_response__json_strings_that_are_none__are_a_wire_error(data: list[object]) -> None:
    head = json.dumps({"outputs": [{"name": "y", "datatype": "BYTES", "shape": [1], "data": data}]}).encode()
    try:
        arrays, _ = decode_response(head, None)
    except WireError:
        return
    assert arrays["y"].tolist() == ["a"]


def test_decode_response__binary_string_that_is_not_utf8__is_a_wire_error() -> None:
    output = {"name": "y", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 5}}
    head = json.dumps({"outputs": [output]}).encode()
    with pytest.raises(WireError):
        decode_response(head + b"\x01\x00\x00\x00\xff", len(head))
