"""A receipt's tensors as nodes publish them and as logs keep them (SPEC.md §11, "Public data")."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate, pairwise
from math import prod
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from assay.commitments.parsing import FieldError, get_field
from assay.commitments.tensors import (
    BOOL,
    MAX_DIM,
    MAX_RANK,
    OIP_TO_NUMPY,
    OIP_TO_ONNX,
    array_bytes,
    hash_commitments,
    oip_dtype,
    tensor_commitment,
)
from assay.types import Hash32

_CODE: Final = "receipt_data"
Head = tuple[str, str, tuple[int, ...], int]
"""Name, dtype, dims and bytes of a tensor."""


@dataclass(frozen=True, slots=True)
class NamedTensor:
    """A committed tensor: Open Inference Protocol dtype, dims, row-major little-endian bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes = field(repr=False)

    @classmethod
    def of(cls, name: str, array: NDArray[Any]) -> NamedTensor:
        """Raises RequestError `input_dtype`, `input_string`."""
        return cls(name, oip_dtype(array.dtype), array.shape, bytes(array_bytes(array)))

    @property
    def array(self) -> NDArray[Any]:
        """Read-only. Raises FieldError `receipt_data` if the bytes are no such tensor, or strings."""
        dtype = OIP_TO_NUMPY[self.dtype]
        if dtype.kind == "O":
            raise FieldError(self.name, "is of strings, of which no version is exact", code=_CODE)
        if len(self.data) != prod(self.shape) * dtype.itemsize:
            raise FieldError(
                self.name,
                f"has {len(self.data)} bytes, {self.dtype}{list(self.shape)} has "
                f"{prod(self.shape) * dtype.itemsize}",
                code=_CODE,
            )
        raw = np.frombuffer(self.data, dtype=np.uint8)
        if OIP_TO_ONNX[self.dtype] == BOOL and raw.size and int(raw.max()) > 1:
            raise FieldError(self.name, "holds a bool that is neither 0 nor 1", code=_CODE)
        return raw.view(dtype).reshape(self.shape)

    @property
    def commitment(self) -> Hash32:
        return tensor_commitment(OIP_TO_ONNX[self.dtype], self.shape, self.data)

    def head(self) -> dict[str, Any]:
        return {"name": self.name, "datatype": self.dtype, "shape": list(self.shape)}


@dataclass(frozen=True, slots=True)
class ReceiptData:
    """What a receipt is about, in signature order."""

    inputs: tuple[NamedTensor, ...]
    outputs: tuple[NamedTensor, ...]

    @property
    def input_hash(self) -> Hash32:
        """Raises RequestError `input_size`, `input_shape` if a tensor's bytes do not fill its dims."""
        return hash_commitments(tensor.commitment for tensor in self.inputs)

    @property
    def output_hash(self) -> Hash32:
        return hash_commitments(tensor.commitment for tensor in self.outputs)

    def to_json(self) -> dict[str, Any]:
        """What `GET /v1/receipts/{digest}/data` answers; `data` is lower-case hexadecimal."""

        def rows(tensors: Iterable[NamedTensor]) -> list[dict[str, Any]]:
            return [tensor.head() | {"data": tensor.data.hex()} for tensor in tensors]

        return {"inputs": rows(self.inputs), "outputs": rows(self.outputs)}

    @classmethod
    def from_json(cls, document: Any) -> ReceiptData:
        """Raises FieldError `receipt_data`. Whether it is a receipt's, its hashes tell."""
        return cls(_tensors(document, "inputs"), _tensors(document, "outputs"))

    def to_bytes(self) -> bytes:
        """One JSON line of heads, then every tensor's bytes, inputs first."""

        def heads(tensors: Iterable[NamedTensor]) -> tuple[Head, ...]:
            return tuple([(each.name, each.dtype, each.shape, len(each.data)) for each in tensors])

        line = _heads_line(heads(self.inputs), heads(self.outputs))
        return b"".join((line, *(tensor.data for tensor in (*self.inputs, *self.outputs))))

    @classmethod
    def from_bytes(cls, raw: bytes) -> ReceiptData:
        """What `to_bytes` made. Raises FieldError `receipt_data` on anything else."""
        line, _, rest = raw.partition(b"\n")
        try:
            document = orjson.loads(line)
            sizes = [int(row["size"]) for name in ("inputs", "outputs") for row in document[name]]
        except (ValueError, KeyError, TypeError):
            raise FieldError("head", "is not the JSON line of kept tensors", code=_CODE) from None
        if sum(sizes) != len(rest) or min(sizes, default=0) < 0:
            raise FieldError("head", f"says {sum(sizes)} bytes, {len(rest)} follow", code=_CODE)
        ends = list(accumulate(sizes, initial=0))
        heads = [_head(row, name) for name in ("inputs", "outputs") for row in document[name]]
        tensors = [
            NamedTensor(*head, rest[start:end])
            for head, (start, end) in zip(heads, pairwise(ends), strict=True)
        ]
        count = len(document["inputs"])
        return cls(tuple(tensors[:count]), tuple(tensors[count:]))


def pack_arrays(
    names: tuple[Sequence[str], Sequence[str]],
    inputs: Sequence[NDArray[Any]],
    outputs: Sequence[NDArray[Any]],
) -> bytes:
    """`ReceiptData.to_bytes` of arrays under their signature's names. Raises RequestError `input_dtype`,
    `input_string`."""
    chunks: list[bytes | memoryview] = [b""]
    sides: list[tuple[Head, ...]] = []
    for side, arrays in zip(names, (inputs, outputs), strict=True):
        heads = []
        for name, array in zip(side, arrays, strict=True):
            chunk = array_bytes(array)
            chunks.append(chunk)
            heads.append((name, oip_dtype(array.dtype), array.shape, len(chunk)))
        sides.append(tuple(heads))
    chunks[0] = _heads_line(*sides)
    return b"".join(chunks)


@lru_cache(maxsize=1024)
def _heads_line(inputs: tuple[Head, ...], outputs: tuple[Head, ...]) -> bytes:
    """The same for all requests of a shape."""

    def rows(heads: Iterable[Head]) -> list[dict[str, Any]]:
        return [
            {"name": name, "datatype": dtype, "shape": list(shape), "size": size}
            for name, dtype, shape, size in heads
        ]

    return orjson.dumps({"inputs": rows(inputs), "outputs": rows(outputs)}) + b"\n"


def named_tensors(names: Sequence[str], arrays: Sequence[NDArray[Any]]) -> tuple[NamedTensor, ...]:
    """The arrays under their signature's names."""
    return tuple(NamedTensor.of(name, array) for name, array in zip(names, arrays, strict=True))


def _tensors(document: Any, name: str) -> tuple[NamedTensor, ...]:
    rows = get_field(document, name, code=_CODE)
    if not isinstance(rows, list):
        raise FieldError(name, "expected a list of tensors", code=_CODE)
    return tuple(_tensor(row, f"{name}[{i}]") for i, row in enumerate(rows))


def _head(row: Any, field_name: str) -> tuple[str, str, tuple[int, ...]]:
    name, dtype, shape = (get_field(row, key, code=_CODE) for key in ("name", "datatype", "shape"))
    if not isinstance(name, str) or not isinstance(dtype, str) or dtype not in OIP_TO_ONNX:
        raise FieldError(field_name, "needs a name and one of the known datatypes", code=_CODE)
    if (
        not isinstance(shape, list)
        or len(shape) > MAX_RANK
        or not all(type(dim) is int and 0 <= dim <= MAX_DIM for dim in shape)
    ):
        raise FieldError(f"{field_name}.shape", f"expected at most {MAX_RANK} dims from 0", code=_CODE)
    return name, dtype, tuple(shape)


def _tensor(row: Any, field_name: str) -> NamedTensor:
    head = _head(row, field_name)
    try:
        return NamedTensor(*head, bytes.fromhex(get_field(row, "data", code=_CODE)))
    except (TypeError, ValueError):
        raise FieldError(f"{field_name}.data", "expected hexadecimal digits", code=_CODE) from None
