"""Open Inference Protocol v2 over HTTP with the binary tensor extension: numpy arrays to bytes and back. No
I/O.

Source: Open Inference Protocol v2 (KServe "V2 inference protocol"), Triton's "binary tensor data extension".
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from assay.client.errors import InputInvalid
from assay.commitments.tensors import MAX_RANK, OIP_TO_NUMPY, array_bytes
from assay.types import TensorSpec

LENGTH_HEADER = "Inference-Header-Content-Length"
MAX_JSON_BYTES = 8 << 20
"""Of a reply whose tensors are binary: a list of empty lists takes 20 times as much memory."""
Arrays = dict[str, NDArray[Any]]


class WireError(ValueError):
    """A reply is not what the protocol says; the message names the field."""


def match_inputs(specs: Sequence[TensorSpec], value: NDArray[Any] | Mapping[str, NDArray[Any]]) -> Arrays:
    """The arrays in signature order, converted without loss of kind. Raises InputInvalid.

    A lone array stands for the only input. float64 becomes the model's float32; a float never becomes an
    integer.
    """
    if not isinstance(value, Mapping):
        if len(specs) != 1:
            raise InputInvalid(f"the model has {len(specs)} inputs: give a dict of {_names(specs)}")
        value = {specs[0].name: value}
    if set(value) != {spec.name for spec in specs}:
        raise InputInvalid(
            f"inputs are {', '.join(map(repr, value)) or 'empty'}; the model takes {_names(specs)}"
        )
    return {spec.name: _convert(spec, np.asarray(value[spec.name])) for spec in specs}


def _names(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{spec.name!r} {spec.dtype} {list(spec.shape)}" for spec in specs)


def _convert(spec: TensorSpec, array: NDArray[Any]) -> NDArray[Any]:
    wanted = OIP_TO_NUMPY[spec.dtype]
    fits = len(array.shape) == len(spec.shape) and all(
        dim in (-1, got) for dim, got in zip(spec.shape, array.shape, strict=True)
    )
    if not fits:
        raise InputInvalid(
            f"input {spec.name!r} has shape {list(array.shape)}; the model takes {list(spec.shape)}"
        )
    if spec.dtype == "BYTES":
        if array.dtype.kind not in "OSU":
            raise InputInvalid(f"input {spec.name!r} holds {array.dtype}; the model takes strings")
        return array.astype(object)
    safe = np.can_cast(array.dtype, wanted, "same_kind") or (array.dtype.kind in "iu" and wanted.kind in "iu")
    if not safe or array.dtype.kind in "OSU":
        raise InputInvalid(f"input {spec.name!r} holds {array.dtype}; convert it to {wanted} ({spec.dtype})")
    if array.dtype.kind in "iu" and wanted.kind in "iu" and array.size:
        limits = np.iinfo(wanted)
        if int(array.min()) < limits.min or int(array.max()) > limits.max:
            raise InputInvalid(f"input {spec.name!r} has values outside {spec.dtype}")
    converted = np.ascontiguousarray(array, dtype=wanted).reshape(array.shape)
    if converted.dtype.kind == "f" and not np.isfinite(converted).all():
        raise InputInvalid(f"input {spec.name!r} has values that are not finite in {spec.dtype}")
    return converted


def encode_request(
    specs: Sequence[TensorSpec], arrays: Arrays, parameters: Mapping[str, str | bool], request_id: str
) -> tuple[bytes, int]:
    """The body and the length of its JSON header; every tensor binary, binary outputs asked for."""
    chunks = [bytes(array_bytes(arrays[spec.name])) for spec in specs]
    header = {
        "id": request_id,
        "parameters": {**parameters, "binary_data_output": True},
        "inputs": [
            {
                "name": spec.name,
                "shape": list(arrays[spec.name].shape),
                "datatype": spec.dtype,
                "parameters": {"binary_data_size": len(chunk)},
            }
            for spec, chunk in zip(specs, chunks, strict=True)
        ],
    }
    head = json.dumps(header, separators=(",", ":")).encode()
    return b"".join((head, *chunks)), len(head)


def decode_response(content: bytes, json_length: int | None) -> tuple[Arrays, dict[str, Any]]:
    """Output arrays by name and the reply's `parameters`. Raises WireError."""
    end = len(content) if json_length is None else json_length
    if not 0 <= end <= len(content):
        raise WireError(f"{LENGTH_HEADER} is {end}, the body has {len(content)} bytes")
    if end > MAX_JSON_BYTES:
        raise WireError(f"the JSON header has {end} bytes, at most {MAX_JSON_BYTES} are read")
    try:
        header = orjson.loads(content[:end])
    except (ValueError, RecursionError):
        raise WireError("the JSON header is not JSON") from None
    outputs = header.get("outputs") if isinstance(header, dict) else None
    parameters = header.get("parameters", {}) if isinstance(header, dict) else None
    if not isinstance(outputs, list) or not isinstance(parameters, dict):
        raise WireError("the reply has no list 'outputs'")
    arrays: Arrays = {}
    offset = end
    for item in outputs:
        name, array, offset = _decode_output(item, content, offset)
        arrays[name] = array
    if offset != len(content):
        raise WireError(f"{len(content) - offset} bytes are left after the last output")
    return arrays, parameters


def _decode_output(item: Any, content: bytes, offset: int) -> tuple[str, NDArray[Any], int]:
    if not isinstance(item, dict) or not isinstance(item.get("name"), str):
        raise WireError("an output has no name")
    name, dtype, shape = item["name"], item.get("datatype"), item.get("shape")
    if not isinstance(dtype, str) or dtype not in OIP_TO_NUMPY:
        raise WireError(f"output {name!r} has datatype {dtype!r}")
    if not isinstance(shape, list) or not all(type(dim) is int and 0 <= dim < 1 << 32 for dim in shape):
        raise WireError(f"output {name!r} has shape {str(shape)[:80]}")
    if len(shape) > MAX_RANK:
        raise WireError(f"output {name!r} has {len(shape)} dimensions, at most {MAX_RANK} are taken")
    parameters = item.get("parameters")
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    if size is None:
        return name, _from_json(name, dtype, shape, item.get("data")), offset
    if type(size) is not int or not 0 <= size <= len(content) - offset:
        raise WireError(f"output {name!r} has binary_data_size {size!r}")
    return name, _from_bytes(name, dtype, shape, content[offset : offset + size]), offset + size


def _from_json(name: str, dtype: str, shape: list[int], data: Any) -> NDArray[Any]:
    try:
        array = np.asarray(data, dtype=OIP_TO_NUMPY[dtype]).reshape(shape)
    except (ValueError, TypeError, OverflowError) as error:
        raise WireError(f"output {name!r} has data that is no {dtype} {shape}: {error}") from None
    if dtype == "BYTES" and not all(_is_text(element) for element in array.flat):
        raise WireError(f"output {name!r} has elements that are not strings")
    return array


def _from_bytes(name: str, dtype: str, shape: list[int], raw: bytes) -> NDArray[Any]:
    size = math.prod(shape)
    if dtype == "BYTES":
        elements = _split_strings(name, raw)
        if len(elements) != size:
            raise WireError(f"output {name!r} has {len(elements)} strings for shape {shape}")
        array = np.empty(size, dtype=object)
        array[:] = elements
        return _reshaped(name, array, shape)
    wanted = OIP_TO_NUMPY[dtype]
    if len(raw) != size * wanted.itemsize:
        raise WireError(f"output {name!r} has {len(raw)} bytes for {dtype} {shape}")
    return _reshaped(name, np.frombuffer(raw, dtype=wanted), shape)


def _reshaped(name: str, array: NDArray[Any], shape: list[int]) -> NDArray[Any]:
    try:
        return array.reshape(shape)
    except ValueError as error:  # no elements, yet dimensions beyond numpy's
        raise WireError(f"output {name!r} has shape {shape}: {error}") from None


def _split_strings(name: str, raw: bytes) -> list[bytes]:
    elements, position = [], 0
    while position < len(raw):
        length = struct.unpack_from("<I", raw, position)[0] if position + 4 <= len(raw) else len(raw)
        if position + 4 + length > len(raw):
            raise WireError(f"output {name!r} ends inside a string")
        element = raw[position + 4 : position + 4 + length]
        if not _is_text(element):
            raise WireError(f"output {name!r} has a string that is not UTF-8")
        elements.append(element)
        position += 4 + length
    return elements


def _is_text(value: Any) -> bool:
    """Whether a string tensor can hold it."""
    try:
        _ = value.decode() if isinstance(value, bytes) else value.encode()
    except (UnicodeError, AttributeError):
        return False
    return True
