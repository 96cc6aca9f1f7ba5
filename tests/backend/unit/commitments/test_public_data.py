"""A receipt's tensors as JSON and as kept bytes: both ways, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest
from assay.commitments.parsing import FieldError
from assay.commitments.public_data import NamedTensor, ReceiptData, named_tensors, pack_arrays
from assay.commitments.tensors import commit_tensors
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

DTYPES = ("u1", "i1", "<i4", "<i8", "<f4", "?")


def tensor_lists() -> st.SearchStrategy[list[Any]]:
    shapes = arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5)
    return st.lists(
        st.sampled_from(DTYPES).flatmap(lambda dtype: arrays.arrays(dtype, shapes)), min_size=1, max_size=3
    )


def names(tensors: list[Any]) -> list[str]:
    return [f"tensor {i}" for i in range(len(tensors))]


def data_of(inputs: list[Any], outputs: list[Any]) -> ReceiptData:
    return ReceiptData(named_tensors(names(inputs), inputs), named_tensors(names(outputs), outputs))


@given(tensor_lists(), tensor_lists())
def test_receipt_data__json_and_bytes__come_back_as_they_were(inputs: list[Any], outputs: list[Any]) -> None:
    data = data_of(inputs, outputs)
    assert ReceiptData.from_bytes(data.to_bytes()) == data
    assert pack_arrays((names(inputs), names(outputs)), inputs, outputs) == data.to_bytes()
    assert ReceiptData.from_json(orjson.loads(orjson.dumps(data.to_json()))) == data
    assert data.input_hash == commit_tensors(inputs)
    assert data.output_hash == commit_tensors(outputs)
    for tensor, array in zip(data.inputs, inputs, strict=True):
        assert tensor.array.tobytes() == array.tobytes()
        assert (tensor.array.shape, tensor.array.dtype) == (array.shape, array.dtype)


def document(**changes: Any) -> dict[str, Any]:
    row = {"name": "x", "datatype": "UINT8", "shape": [1, 2], "data": "0102"} | changes
    return {"inputs": [row], "outputs": []}


@pytest.mark.parametrize(
    "changes",
    [
        {"datatype": "UINT7"},
        {"datatype": 2},
        {"shape": [1, -2]},
        {"shape": [1.0]},
        {"shape": [1] * 17},
        {"shape": [1 << 32]},
        {"data": "0x0102"},
        {"data": "012"},
        {"data": 12},
        {"name": None},
    ],
)
def test_from_json__malformed_tensor__is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(FieldError) as caught:
        ReceiptData.from_json(document(**changes))
    assert caught.value.code == "receipt_data"


@pytest.mark.parametrize(
    "content", [None, [], {"inputs": []}, {"inputs": {}, "outputs": []}, {"outputs": []}]
)
def test_from_json__no_lists_of_tensors__is_refused(content: Any) -> None:
    with pytest.raises(FieldError):
        ReceiptData.from_json(content)


def test_from_json__bytes_given_beside_data__takes_the_data() -> None:
    assert ReceiptData.from_json(document(bytes="zz")).inputs[0].data == b"\x01\x02"


@pytest.mark.parametrize(("dtype", "shape", "raw"), [("UINT8", (3,), b"\x01"), ("BOOL", (1,), b"\x02")])
def test_array__bytes_that_are_no_such_tensor__is_refused(
    dtype: str, shape: tuple[int, ...], raw: bytes
) -> None:
    with pytest.raises(FieldError):
        _ = NamedTensor("x", dtype, shape, raw).array


def test_array__strings__are_refused() -> None:
    tensor = NamedTensor.of("s", np.array(["a"], dtype=object))
    with pytest.raises(FieldError, match="strings"):
        _ = tensor.array


@pytest.mark.parametrize("change", [b"", b"{}\n", b"[]\n", b"\xff\n"])
def test_from_bytes__cut_or_foreign__is_refused(change: bytes) -> None:
    with pytest.raises(FieldError):
        ReceiptData.from_bytes(change)
    data = data_of([np.arange(4, dtype=np.uint8)], [np.arange(2, dtype=np.uint8)]).to_bytes()
    with pytest.raises(FieldError):
        ReceiptData.from_bytes(data[:-1])
