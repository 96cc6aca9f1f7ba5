"""What goes to an executor and comes back: nothing changes on the way, nothing that does not fit is taken."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest
from assay.commitments.tensors import OIP_TO_NUMPY
from assay.node.oip.protocol import parse_request
from assay.node.remote.tensors import BadAnswer, decode_answer, encode_request
from assay.types import TensorSpec
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

Y = (TensorSpec("y", "INT32", (-1, 2)),)
NUMERIC = sorted(set(OIP_TO_NUMPY) - {"BYTES"})


@given(st.data(), st.sampled_from(NUMERIC), st.booleans())
def test_encode_and_decode__any_finite_array__keeps_every_bit(
    data: st.DataObject, datatype: str, binary: bool
) -> None:
    dtype = OIP_TO_NUMPY[datatype]
    finite = {"allow_nan": False, "allow_infinity": False} if dtype.kind == "f" else {}
    array = data.draw(hnp.arrays(dtype, (3, 2), elements=hnp.from_dtype(dtype, **finite)))
    spec = TensorSpec("t", datatype, (-1, 2))
    body, length = encode_request((spec,), (array,), (spec,), binary=binary)
    (read,) = parse_request(body, length, (spec,), (spec,), max_elements=100).inputs
    assert (read.dtype, read.tobytes()) == (array.dtype, array.tobytes())
    document = orjson.loads(body[:length])
    answer = orjson.dumps({"outputs": document["inputs"]})
    rest = b"" if length is None else body[length:]
    (back,) = decode_answer(answer + rest, None if length is None else len(answer), (spec,))
    assert back.tobytes() == array.tobytes()


def answer(**changes: Any) -> bytes:
    output = {"name": "y", "datatype": "INT32", "shape": [1, 2], "data": [1, 2]} | changes
    return orjson.dumps({"outputs": [{key: value for key, value in output.items() if value is not ...}]})


def test_decode_answer__nested_data__is_taken() -> None:
    (y,) = decode_answer(answer(data=[[1, 2]]), None, Y)
    assert (y.dtype, y.tolist()) == (np.int32, [[1, 2]])


@pytest.mark.parametrize(
    "body",
    [
        answer(datatype="FP32"),
        answer(parameters=[1]),
        answer(shape=[1, 3], data=[1, 2, 3]),
        answer(shape=[2]),
        answer(shape=[-1, 2]),
        answer(shape=[True, 2]),
        answer(data=[1]),
        answer(data=[1, 2.0]),
        answer(data=[1, True]),
        answer(data=[1, None]),
        answer(data=[1, "2"]),
        answer(data=[1, 1 << 31]),
        answer(data=...),
        answer(name="z"),
        answer(parameters={"binary_data_size": 8}, data=...),
        answer(parameters={"binary_data_size": -1}, data=...),
        answer(parameters={"binary_data_size": True}, data=...),
        answer() + b"rest",
        b"[]",
        b"{}",
        b'{"outputs": 3}',
        b'{"outputs": [3]}',
        b'{"outputs": [{"name": ["y"]}]}',
        orjson.dumps({"outputs": [orjson.loads(answer())["outputs"][0]] * 2}),
        b"\xff",
        b"",
    ],
)
def test_decode_answer__that_does_not_fit__is_refused(body: bytes) -> None:
    with pytest.raises(BadAnswer):
        decode_answer(body, None, Y)


@given(st.binary(max_size=80), st.integers(0, 90))
def test_decode_answer__arbitrary_bytes__are_refused_not_crashed_on(body: bytes, length: int) -> None:
    with pytest.raises(BadAnswer):
        decode_answer(body, min(length, len(body)), Y)
