"""Tensor commitments (SPEC.md §2) and the dtype tables between Open Inference Protocol, ONNX and numpy."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from assay.commitments.merkle import PADDING, root_of_leaves
from assay.errors import RequestError
from assay.types import Hash32

CHUNK_BYTES: Final = 1024
MAX_RANK: Final = 16
_FEW_CHUNKS: Final = 64
MAX_DIM: Final = (1 << 32) - 1
STRING: Final = 8
"""ONNX `TensorProto.DataType.STRING`, Open Inference Protocol `BYTES`."""
BOOL: Final = 9

OIP_TO_ONNX: Final[dict[str, int]] = {
    "FP32": 1,
    "UINT8": 2,
    "INT8": 3,
    "UINT16": 4,
    "INT16": 5,
    "INT32": 6,
    "INT64": 7,
    "BYTES": STRING,
    "BOOL": BOOL,
    "FP16": 10,
    "FP64": 11,
    "UINT32": 12,
    "UINT64": 13,
}
ONNX_TO_OIP: Final[dict[int, str]] = {code: name for name, code in OIP_TO_ONNX.items()}
OIP_TO_NUMPY: Final[dict[str, np.dtype[Any]]] = {
    "FP32": np.dtype("<f4"),
    "UINT8": np.dtype("u1"),
    "INT8": np.dtype("i1"),
    "UINT16": np.dtype("<u2"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "BYTES": np.dtype(object),
    "BOOL": np.dtype(bool),
    "FP16": np.dtype("<f2"),
    "FP64": np.dtype("<f8"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
}
"""Elements are little-endian; `BYTES` arrays hold `bytes` or `str` objects."""
ONNX_TO_NUMPY: Final[dict[int, np.dtype[Any]]] = {
    code: OIP_TO_NUMPY[name] for name, code in OIP_TO_ONNX.items()
}
_KIND_TO_ONNX: Final[dict[tuple[str, int], int]] = {
    (dtype.kind, dtype.itemsize): code for code, dtype in ONNX_TO_NUMPY.items() if code != STRING
}


def onnx_dtype(dtype: np.dtype[Any]) -> int:
    """ONNX code of a numpy dtype of either byte order. Raises RequestError `input_dtype`."""
    if dtype.kind in "OSU":
        return STRING
    try:
        return _KIND_TO_ONNX[dtype.kind, dtype.itemsize]
    except KeyError:
        raise RequestError(
            f"numpy dtype {dtype} cannot be committed; convert to one of {', '.join(OIP_TO_ONNX)}",
            code="input_dtype",
        ) from None


def oip_dtype(dtype: np.dtype[Any]) -> str:
    """Open Inference Protocol name of a numpy dtype. Raises RequestError `input_dtype`."""
    return ONNX_TO_OIP[onnx_dtype(dtype)]


def tensor_root(data: bytes | bytearray | memoryview) -> Hash32:
    """Merkle root over the 1,024-byte chunks of a tensor's row-major little-endian bytes; one pass."""
    view = memoryview(data).cast("B") if len(data) else memoryview(b"")
    if len(view) <= _FEW_CHUNKS * CHUNK_BYTES:
        return _root_of_few(view)
    chunks = range(0, max(len(view), 1), CHUNK_BYTES)
    return root_of_leaves(b"".join([sha256(b"\x00" + view[i : i + CHUNK_BYTES]).digest() for i in chunks]))


def _root_of_few(view: memoryview) -> Hash32:
    """The root of a small tensor, as most are that are asked about: without `merkle`'s blocks."""
    level = [
        sha256(b"\x00" + view[i : i + CHUNK_BYTES]).digest() for i in range(0, len(view) or 1, CHUNK_BYTES)
    ]
    height = 0
    while len(level) > 1:
        if len(level) & 1:
            level.append(PADDING[height])
        level = [sha256(b"\x01" + level[i] + level[i + 1]).digest() for i in range(0, len(level), 2)]
        height += 1
    return Hash32(level[0])


def tensor_commitment(dtype: int, dims: Sequence[int], data: bytes | bytearray | memoryview) -> Hash32:
    """`sha256(0x02 ‖ dtype:u8 ‖ rank:u8 ‖ dim:u32 × rank ‖ tensor root)`; dtype is ONNX's code, dims are ≥ 0.

    Raises RequestError `input_dtype`, `input_shape` (rank above 16, a dim outside u32) or `input_size` (the
    bytes do not fill the dims; strings have no fixed size and are not checked for it).
    """
    header = tensor_header(dtype, dims)
    if dtype != STRING:
        expected = ONNX_TO_NUMPY[dtype].itemsize
        for dim in dims:
            expected *= dim
        if memoryview(data).nbytes != expected:
            raise RequestError(
                f"{ONNX_TO_OIP[dtype]} tensor of dims {list(dims)} has {expected} bytes, got {len(data)}",
                code="input_size",
            )
    return Hash32(sha256(header + tensor_root(data)).digest())


def tensor_header(dtype: int, dims: Sequence[int]) -> bytes:
    """What is hashed before the tensor root. Raises RequestError `input_dtype`, `input_shape`."""
    if dtype not in ONNX_TO_OIP:
        raise RequestError(f"ONNX dtype {dtype} cannot be committed", code="input_dtype")
    if len(dims) > MAX_RANK:
        raise RequestError(f"a tensor has at most {MAX_RANK} dimensions, got {len(dims)}", code="input_shape")
    if not all(0 <= dim <= MAX_DIM for dim in dims):
        raise RequestError(f"each dimension is from 0 to 2^32 - 1, got {list(dims)}", code="input_shape")
    return struct.pack(f">BBB{len(dims)}I", 2, dtype, len(dims), *dims)


def array_commitment(array: NDArray[Any]) -> Hash32:
    """Commitment of a numpy array of any byte order and layout. Raises RequestError `input_…`."""
    return tensor_commitment(onnx_dtype(array.dtype), array.shape, array_bytes(array))


def array_bytes(array: NDArray[Any]) -> bytes | memoryview:
    """Row-major little-endian bytes as committed; a view where the array has that layout already."""
    code = onnx_dtype(array.dtype)
    if code == STRING:
        return b"".join([_string_bytes(element) for element in array.reshape(-1).tolist()])
    if code == BOOL:
        array = np.not_equal(array.view(np.uint8), 0)
    else:
        array = array.astype(ONNX_TO_NUMPY[code], copy=False)
    if not array.size:
        return b""
    return array.reshape(-1).view(np.uint8).data if array.flags.c_contiguous else array.tobytes()


def _string_bytes(element: object) -> bytes:
    """`u32 little-endian length ‖ UTF-8 bytes`. Raises RequestError `input_string`."""
    try:
        raw = element.encode() if isinstance(element, str) else element
        if isinstance(raw, bytes):
            raw.decode()
            return struct.pack("<I", len(raw)) + raw
    except UnicodeError:
        raise RequestError("a string tensor's elements must be valid UTF-8", code="input_string") from None
    raise RequestError(
        f"a string tensor holds bytes or str, got {type(element).__name__}", code="input_string"
    )


def hash_commitments(commitments: Iterable[bytes]) -> Hash32:
    """`sha256(0x03 ‖ tensor commitment …)`: `input_hash` or `output_hash`, in signature order."""
    return Hash32(sha256(b"\x03" + b"".join(commitments)).digest())


def commit_tensors(arrays: Iterable[NDArray[Any]]) -> Hash32:
    """`input_hash` or `output_hash` of arrays in the order of the model's signature."""
    return hash_commitments(map(array_commitment, arrays))
