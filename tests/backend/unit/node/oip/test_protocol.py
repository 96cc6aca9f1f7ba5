"""The Open Inference Protocol codec: what goes in comes out, and what does not fit is refused by name."""

from __future__ import annotations

import struct
import tracemalloc
from typing import Any

import numpy as np
import orjson
import pytest
from assay.commitments.tensors import OIP_TO_NUMPY, array_bytes
from assay.errors import RequestError
from assay.node.errors import InputError, TooLarge
from assay.node.oip import protocol as oip
from assay.types import TensorSpec
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

X = TensorSpec("x", "FP32", (-1, 2))
Y = TensorSpec("y", "FP32", (-1, 2))
TYPES = sorted(set(OIP_TO_NUMPY) - {"BYTES"})
PLAIN = {"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [1, 2.5, 3, 4]}


def parse(
    document: Any, binary: bytes = b"", specs: tuple[TensorSpec, ...] = (X,), max_elements: int = 1000
) -> oip.InferRequest:
    head = orjson.dumps(document)
    length = len(head) if binary else None
    return oip.parse_request(head + binary, length, specs, (Y,), max_elements=max_elements)


def refusal(document: Any, binary: bytes = b"", specs: tuple[TensorSpec, ...] = (X,)) -> str:
    with pytest.raises(RequestError) as caught:
        parse(document, binary, specs)
    return caught.value.code


@st.composite
def tensors(draw: st.DrawFn) -> tuple[TensorSpec, np.ndarray]:
    dtype = draw(st.sampled_from(TYPES))
    numpy_dtype = OIP_TO_NUMPY[dtype]
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, max_side=4))
    finite = {"allow_nan": False, "allow_infinity": False} if numpy_dtype.kind == "f" else {}
    array = draw(hnp.arrays(numpy_dtype, shape, elements=hnp.from_dtype(numpy_dtype, **finite)))
    open_dims = tuple(draw(st.sampled_from((dim, -1))) for dim in shape)
    return TensorSpec("x", dtype, open_dims), array


@given(tensors(), st.booleans(), st.booleans())
def test_parse_request__any_tensor_as_json_or_binary__is_the_same_array(
    made: tuple[TensorSpec, np.ndarray], binary: bool, nested: bool
) -> None:
    spec, array = made
    tensor: dict[str, Any] = {"name": "x", "datatype": spec.dtype, "shape": list(array.shape)}
    raw = b""
    if binary:
        raw = bytes(array_bytes(array))
        tensor["parameters"] = {"binary_data_size": len(raw)}
    else:
        tensor["data"] = array.tolist() if nested and array.ndim else array.reshape(-1).tolist()
    (parsed,) = parse({"inputs": [tensor]}, raw, (spec,)).inputs
    assert parsed.dtype == array.dtype
    np.testing.assert_array_equal(parsed, array)


@given(tensors(), st.booleans())
def test_render_response__any_tensor__is_read_back_as_the_same_array(
    made: tuple[TensorSpec, np.ndarray], binary: bool
) -> None:
    spec, array = made
    output = oip.RequestedOutput("x", binary)
    response = oip.render_response("m", "1", "id", [(output, spec, array)], {"receipt": "{}"})
    length = len(response.body) if response.json_length is None else response.json_length
    document = orjson.loads(response.body[:length])
    (tensor,) = document["outputs"]
    assert (document["id"], document["parameters"]) == ("id", {"receipt": "{}"})
    assert tensor["shape"] == list(array.shape)
    if binary:
        assert tensor["parameters"]["binary_data_size"] == len(response.body) - length
        found = oip.from_binary(response.body[length:], spec, array.shape)
    else:
        assert response.json_length is None
        found = np.array(tensor["data"], dtype=array.dtype).reshape(array.shape)
    np.testing.assert_array_equal(found, array)


@given(st.lists(st.text(max_size=8), min_size=1, max_size=6), st.booleans())
def test_parse_request__strings__survive_both_forms(texts: list[str], binary: bool) -> None:
    spec = TensorSpec("s", "BYTES", (-1,))
    tensor: dict[str, Any] = {"name": "s", "datatype": "BYTES", "shape": [len(texts)]}
    raw = b""
    if binary:
        raw = b"".join(struct.pack("<I", len(t.encode())) + t.encode() for t in texts)
        tensor["parameters"] = {"binary_data_size": len(raw)}
    else:
        tensor["data"] = texts
    assert parse({"inputs": [tensor]}, raw, (spec,)).inputs[0].tolist() == texts


@given(st.binary(max_size=200), st.one_of(st.none(), st.integers(0, 250)))
def test_parse_request__arbitrary_bytes__are_refused_not_crashed_on(
    body: bytes, json_length: int | None
) -> None:
    with pytest.raises(RequestError):
        oip.parse_request(body, json_length, (X,), (Y,), max_elements=10)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"name": "z"}, "input_unknown"),
        ({"name": None}, "input_unknown"),
        ({"datatype": "FP64"}, "input_dtype"),
        ({"datatype": ["FP32"]}, "input_dtype"),
        ({"shape": [2, 3]}, "input_shape"),
        ({"shape": [4]}, "input_shape"),
        ({"shape": [0, 2], "data": []}, "input_shape"),
        ({"shape": [-1, 2]}, "input_shape"),
        ({"shape": [2, True]}, "input_shape"),
        ({"shape": "2,2"}, "input_shape"),
        ({"shape": [1] * 17}, "input_shape"),
        ({"data": [1, 2, 3]}, "input_shape"),
        ({"data": [[1, 2, 3, 4]]}, "input_shape"),
        ({"data": [[1, 2], [3]]}, "input_data"),
        ({"data": [1, 2, 3, "4"]}, "input_data"),
        ({"data": [1, 2, 3, None]}, "input_data"),
        ({"data": [True, False, True, True]}, "input_data"),
        ({"data": 7}, "input_data"),
        ({"data": [1, 2, 3, 1e39]}, "input_not_finite"),
        ({"parameters": {"binary_data_size": 4}}, "input_data"),
        ({"parameters": {"binary_data_size": -1}}, "input_size"),
        ({"parameters": {"binary_data_size": "4"}}, "input_size"),
        ({"parameters": []}, "input_json"),
    ],
)
def test_parse_request__tensor_that_does_not_fit__is_refused_by_code(
    change: dict[str, Any], code: str
) -> None:
    assert refusal({"inputs": [PLAIN | change]}) == code


def test_parse_request__null_for_what_is_left_out__is_nothing() -> None:
    """As serialisers of optional fields write it."""
    document = {"inputs": [PLAIN | {"parameters": None}], "parameters": None, "id": None, "outputs": None}
    asked = parse(document)
    assert (asked.id, asked.outputs, asked.parameters) == (None, None, {})
    wanted = parse(document | {"outputs": [{"name": "y", "parameters": None}]}).outputs
    assert wanted == (oip.RequestedOutput("y", False),)


@pytest.mark.parametrize(
    ("document", "code"),
    [
        ([], "input_json"),
        ({}, "input_json"),
        ({"inputs": {}}, "input_json"),
        ({"inputs": []}, "input_missing"),
        ({"inputs": [PLAIN, PLAIN]}, "input_duplicate"),
        ({"inputs": [PLAIN], "id": 7}, "input_json"),
        ({"inputs": [PLAIN], "parameters": 7}, "input_json"),
        ({"inputs": [PLAIN], "outputs": 7}, "input_json"),
        ({"inputs": [PLAIN], "outputs": [{"name": "z"}]}, "input_unknown"),
        ({"inputs": [PLAIN], "outputs": [{"name": "y"}, {"name": "y"}]}, "input_duplicate"),
        (
            {"inputs": [PLAIN], "outputs": [{"name": "y", "parameters": {"classification": 3}}]},
            "input_unsupported",
        ),
    ],
)
def test_parse_request__document_that_does_not_fit__is_refused_by_code(document: Any, code: str) -> None:
    assert refusal(document) == code


@pytest.mark.parametrize(
    ("size", "binary", "code"),
    [(16, bytes(15), "input_size"), (15, bytes(15), "input_size"), (16, bytes(17), "input_size")],
)
def test_parse_request__binary_size_that_lies__is_refused(size: int, binary: bytes, code: str) -> None:
    tensor = {"name": "x", "datatype": "FP32", "shape": [2, 2], "parameters": {"binary_data_size": size}}
    assert refusal({"inputs": [tensor]}, binary) == code


def test_parse_request__binary_nan__is_refused() -> None:
    raw = np.array([1, 2, np.nan, 4], np.float32).tobytes()
    tensor = {"name": "x", "datatype": "FP32", "shape": [2, 2], "parameters": {"binary_data_size": 16}}
    assert refusal({"inputs": [tensor]}, raw) == "input_not_finite"


@pytest.mark.parametrize(
    ("dtype", "values", "code"),
    [
        ("UINT8", [256], "input_data"),
        ("INT8", [-129], "input_data"),
        ("INT64", [1.0], "input_data"),
        ("INT64", [1 << 63], "input_data"),
        ("UINT64", [-1], "input_data"),
        ("UINT64", [2**63, -1], "input_data"),
        ("UINT64", [2**63, 1.0], "input_data"),
        ("INT64", [1 << 70], "input_data"),
        ("BOOL", [1], "input_data"),
        ("BYTES", [1], "input_data"),
        ("BOOL", [True, 0], "input_data"),
        ("BOOL", ["true"], "input_data"),
        ("FP32", [True, False], "input_data"),
        ("FP32", ["1"], "input_data"),
        ("FP64", [1, None], "input_data"),
        ("FP16", [1.5, {}], "input_data"),
        ("FP32", [1, [2]], "input_data"),
        ("INT8", [True, True], "input_data"),
        ("INT8", [1, "2"], "input_data"),
        ("UINT8", [1, -2], "input_data"),
        ("UINT64", [1 << 64], "input_data"),
        ("FP16", [65_520], "input_not_finite"),
        ("FP32", [1e39, 0], "input_not_finite"),
    ],
)
def test_parse_request__value_outside_its_type__is_refused(dtype: str, values: list[Any], code: str) -> None:
    tensor = {"name": "x", "datatype": dtype, "shape": [len(values)], "data": values}
    with pytest.raises(RequestError) as caught:
        oip.parse_request(
            _json({"inputs": [tensor]}), None, (TensorSpec("x", dtype, (-1,)),), (), max_elements=9
        )
    assert caught.value.code in (code, "input_json")


def _json(document: Any) -> bytes:
    import json

    return json.dumps(document).encode()


def test_parse_request__integers_on_both_sides_of_2_63__are_exact() -> None:
    values = [0, 2**63, 2**64 - 1, 2**53 + 1]
    document = {"inputs": [{"name": "x", "datatype": "UINT64", "shape": [2, 2], "data": values}]}
    (array,) = parse(document, specs=(TensorSpec("x", "UINT64", (-1, 2)),)).inputs
    assert array.reshape(-1).tolist() == values


def test_parse_request__more_elements_than_allowed__is_too_large() -> None:
    with pytest.raises(TooLarge):
        parse({"inputs": [PLAIN]}, max_elements=3)


@pytest.mark.parametrize("data", ['"{}",{}', '[["{}"],[{}]]'])
def test_parse_request__long_string_among_numbers__takes_no_more_room_than_it_has(data: str) -> None:
    """numpy would give each number as much room as the string: 1.6 GB here, terabytes of a large body."""
    body = '{"inputs":[{"name":"x","datatype":"FP32","shape":[1,20001],"data":['
    body += data.format("a" * 20_000, ",".join("1" * 20_000)) + "]}]}"
    tracemalloc.start()
    try:
        with pytest.raises(InputError) as caught:
            oip.parse_request(
                body.encode(), None, (TensorSpec("x", "FP32", (-1, 20_001)),), (Y,), max_elements=30_000
            )
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()
    assert caught.value.code == "input_data"


def test_parse_request__more_strings_claimed_than_there_are__take_no_room() -> None:
    spec = TensorSpec("x", "BYTES", (-1,))
    tracemalloc.start()
    try:
        with pytest.raises(InputError) as caught:
            oip.from_binary(b"\0" * 99, spec, (1_000_000,))
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()
    assert caught.value.code == "input_size"


@pytest.mark.parametrize(("dtype", "data"), [("FP32", [1.5]), ("BYTES", ["a"])])
def test_parse_request__shape_of_the_signature_itself__is_refused(dtype: str, data: list[Any]) -> None:
    """Minus one times minus one is one element."""
    tensor = {"name": "x", "datatype": dtype, "shape": [-1, -1], "data": data}
    with pytest.raises(InputError) as caught:
        parse({"inputs": [tensor]}, specs=(TensorSpec("x", dtype, (-1, -1)),))
    assert caught.value.code == "input_shape"


@pytest.mark.parametrize("dtype", ["FP32", "INT64", "UINT8", "BOOL"])
@pytest.mark.parametrize("data", [[], [[], []]])
def test_parse_request__no_elements__are_an_empty_array(dtype: str, data: list[Any]) -> None:
    tensor = {"name": "x", "datatype": dtype, "shape": [2, 0], "data": data}
    spec = TensorSpec("x", dtype, (-1, 0))
    (array,) = oip.parse_request(_json({"inputs": [tensor]}), None, (spec,), (), max_elements=9).inputs
    assert array.shape == (2, 0) and array.dtype == OIP_TO_NUMPY[dtype]


def test_parse_request__deeply_nested_data__is_refused() -> None:
    nested = b"[" * 500 + b"]" * 500
    body = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"data":' + nested + b"}]}"
    with pytest.raises(InputError):
        oip.parse_request(body, None, (X,), (Y,), max_elements=9)


def test_requested_outputs__json_of_values_that_are_not_finite__asks_for_binary() -> None:
    request = oip.InferRequest(inputs=())
    array = np.array([[np.inf, 0]], np.float32)
    with pytest.raises(InputError) as caught:
        oip.requested_outputs(request, (Y,), (array,))
    assert caught.value.code == "input_output_form"
    binary = oip.InferRequest(inputs=(), binary_default=True)
    assert oip.requested_outputs(binary, (Y,), (array,))[0][0].binary
