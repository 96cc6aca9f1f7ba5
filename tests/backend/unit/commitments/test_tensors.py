import hashlib
import struct
from typing import Any

import numpy as np
import onnx
import pytest
from assay.commitments import tensors
from assay.commitments.merkle import merkle_root
from assay.errors import RequestError
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

NUMERIC = [name for name in tensors.OIP_TO_ONNX if name != "BYTES"]
arrays = st.sampled_from(NUMERIC).flatmap(
    lambda name: hnp.arrays(
        tensors.OIP_TO_NUMPY[name], hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6)
    )
)


def definition(dtype: int, shape: tuple[int, ...], data: bytes) -> bytes:
    """SPEC.md §2 word for word."""
    chunks = [data[i : i + 1024] for i in range(0, len(data), 1024)] or [b""]
    dims = b"".join(dim.to_bytes(4, "big") for dim in shape)
    return hashlib.sha256(b"\x02" + bytes((dtype, len(shape))) + dims + merkle_root(chunks)).digest()


@given(arrays)
def test_array_commitment__any_array__equals_the_definition(array: np.ndarray[Any, Any]) -> None:
    dtype = tensors.onnx_dtype(array.dtype)
    assert tensors.array_commitment(array) == definition(dtype, array.shape, array.tobytes())


@given(arrays)
def test_array_commitment__byte_order_and_layout__do_not_matter(array: np.ndarray[Any, Any]) -> None:
    expected = tensors.array_commitment(array)
    assert tensors.array_commitment(array.astype(array.dtype.newbyteorder(">"))) == expected
    assert tensors.array_commitment(np.asfortranarray(array) if array.ndim else array) == expected
    doubled = np.repeat(array, 2, axis=-1)[..., ::2] if array.ndim else array
    assert tensors.array_commitment(doubled) == expected


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 1025, 4095, 4096, 4097, 600_000])
def test_tensor_root__chunk_edges__equals_the_definition(size: int) -> None:
    data = bytes(i * 7 % 251 for i in range(size))
    chunks = [data[i : i + 1024] for i in range(0, size, 1024)] or [b""]
    assert tensors.tensor_root(data) == tensors.tensor_root(memoryview(data)) == merkle_root(chunks)


def test_array_commitment__same_bytes__dtype_and_shape_tell_them_apart() -> None:
    base = np.zeros(8, np.uint8)
    variants = [base, base.reshape(2, 4), base.reshape(1, 8), base.view(np.int8), base.view(np.float64)]
    assert len({tensors.array_commitment(array) for array in variants}) == len(variants)


def test_array_commitment__bool_of_odd_storage__is_zero_or_one() -> None:
    odd = np.array([0, 2, 255], np.uint8).view(bool)
    assert tensors.array_commitment(odd) == tensors.array_commitment(np.array([False, True, True]))


def test_array_commitment__negative_zero_and_nan_payloads__are_kept() -> None:
    assert tensors.array_commitment(np.float32([0.0])) != tensors.array_commitment(np.float32([-0.0]))


@given(st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20), max_size=6))
def test_array_commitment__strings__are_length_prefixed_utf8(texts: list[str]) -> None:
    array = np.array(texts, dtype=object)
    raw = b"".join(struct.pack("<I", len(t.encode())) + t.encode() for t in texts)
    assert tensors.array_commitment(array) == definition(8, (len(texts),), raw)
    encoded = np.array([text.encode() for text in texts], dtype=object)
    assert tensors.array_commitment(encoded) == tensors.array_commitment(array)


def test_array_commitment__fixed_width_strings__equal_objects() -> None:
    expected = tensors.array_commitment(np.array(["a", "试"], dtype=object))
    assert tensors.array_commitment(np.array(["a", "试"])) == expected
    assert tensors.array_commitment(np.char.encode(np.array(["a", "试"]), "utf-8")) == expected


@pytest.mark.parametrize("element", [b"\xff", "\ud800", 7, None])
def test_array_commitment__bad_string_element__is_refused(element: object) -> None:
    array = np.empty(1, dtype=object)
    array[0] = element
    with pytest.raises(RequestError) as caught:
        tensors.array_commitment(array)
    assert caught.value.code == "input_string"


@pytest.mark.parametrize("dtype", ["complex64", "datetime64[s]", "V3", "longdouble"])
def test_onnx_dtype__not_committable__is_refused(dtype: str) -> None:
    with pytest.raises(RequestError) as caught:
        tensors.array_commitment(np.zeros(2, dtype=dtype))
    assert caught.value.code == "input_dtype"


@pytest.mark.parametrize(
    ("dtype", "dims", "data", "code"),
    [
        (0, [1], b"\0", "input_dtype"),
        (16, [1], b"\0\0", "input_dtype"),
        (2, [2], b"\0", "input_size"),
        (1, [1], b"\0" * 3, "input_size"),
        (2, [1] * 17, b"\0", "input_shape"),
        (2, [1 << 32, 0], b"", "input_shape"),
        (2, [-1], b"\0", "input_shape"),
    ],
)
def test_tensor_commitment__impossible__is_refused(
    dtype: int, dims: list[int], data: bytes, code: str
) -> None:
    with pytest.raises(RequestError) as caught:
        tensors.tensor_commitment(dtype, dims, data)
    assert caught.value.code == code


@pytest.mark.parametrize("name", NUMERIC)
def test_dtype_tables__every_dtype__agree_with_onnx_and_round_trip(name: str) -> None:
    code, dtype = tensors.OIP_TO_ONNX[name], tensors.OIP_TO_NUMPY[name]
    assert onnx.helper.tensor_dtype_to_np_dtype(code) == dtype
    assert tensors.onnx_dtype(dtype) == code
    assert tensors.oip_dtype(dtype.newbyteorder(">")) == name
    assert tensors.ONNX_TO_OIP[code] == name


def test_dtype_tables__strings__are_onnx_string() -> None:
    assert tensors.OIP_TO_ONNX["BYTES"] == onnx.TensorProto.STRING
    assert {tensors.oip_dtype(np.dtype(kind)) for kind in ("O", "S3", "U3")} == {"BYTES"}


def test_commit_tensors__order__matters() -> None:
    a, b = np.float32([1]), np.float32([2])
    joined = tensors.array_commitment(a) + tensors.array_commitment(b)
    assert tensors.commit_tensors([a, b]) == hashlib.sha256(b"\x03" + joined).digest()
    assert tensors.commit_tensors([b, a]) != tensors.commit_tensors([a, b])
