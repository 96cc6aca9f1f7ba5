"""Open Inference Protocol v2 over HTTP: bytes in, arrays out, and back. Pure.

Source: the KServe `rest_predict_v2` specification and Triton's binary tensor data extension.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from assay.commitments.tensors import MAX_RANK, OIP_TO_NUMPY, array_bytes
from assay.node.errors import InputError, TooLarge
from assay.node.oip.json_numbers import numbers_from_json
from assay.node.oip.strings import strings_from_binary, strings_from_json
from assay.types import TensorSpec

HEADER_LENGTH: Final = "inference-header-content-length"

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    name: str
    binary: bool


@dataclass(slots=True)
class InferRequest:
    """`inputs` in signature order; `outputs` None means all of them, in signature order, binary as
    `binary_default` says."""

    inputs: tuple[Array, ...]
    outputs: tuple[RequestedOutput, ...] | None = None
    binary_default: bool = False
    id: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class InferResponse:
    """`json_length` is None where the whole body is JSON."""

    body: bytes
    json_length: int | None


def parse_request(
    body: bytes,
    json_length: int | None,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    *,
    max_elements: int,
) -> InferRequest:
    """Decode and check a request against the model's signature: names, dtypes, shapes, finite values.

    `json_length` is the `Inference-Header-Content-Length` header's value. Raises InputError `input_*`, and
    TooLarge if a tensor has more than `max_elements` elements.
    """
    header, binary = _split(body, json_length)
    return read_request(header, binary, inputs, outputs, max_elements=max_elements)


def read_request(
    header: dict[str, Any],
    binary: memoryview,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    *,
    max_elements: int,
) -> InferRequest:
    """`parse_request` for a header that is no JSON text (any more), and the binary tensors behind it."""
    parameters = _parameters(header, "parameters")
    if parameters.get("sequence_id"):
        raise InputError(
            "sequences are not supported: this node keeps nothing between requests; leave sequence_id out",
            code="input_unsupported",
        )
    parameters = without_lists(parameters)
    arrays = _parse_inputs(header.get("inputs"), binary, inputs, max_elements)
    default = parameters.get("binary_data_output", False) is True
    request_id = header.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise InputError("id: expected a string; leave it out or quote it", code="input_json")
    return InferRequest(
        inputs=arrays,
        outputs=requested(header.get("outputs"), outputs, default),
        binary_default=default,
        id=request_id,
        parameters=parameters,
    )


def without_lists(parameters: dict[str, Any]) -> dict[str, Any]:
    """No parameter is a list or an object, so those that are are None from here on: they are kept for as long
    as the request waits, and take twenty times the bytes of their JSON."""
    if any(isinstance(value, list | dict) for value in parameters.values()):
        return {name: None if isinstance(value, list | dict) else value for name, value in parameters.items()}
    return parameters


def _split(body: bytes, json_length: int | None) -> tuple[dict[str, Any], memoryview]:
    view = memoryview(body)
    length = len(body) if json_length is None else json_length
    if not 0 <= length <= len(body):
        raise InputError(
            f"Inference-Header-Content-Length is {length}, but the body has {len(body)} bytes",
            code="input_header",
        )
    try:
        header = orjson.loads(view[:length])
    except orjson.JSONDecodeError as error:
        raise InputError(f"the request's JSON does not parse: {error}", code="input_json") from None
    return _object(header, "request"), view[length:]


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{what}: expected a JSON object, got {type(value).__name__}", code="input_json")
    return value


def _parameters(holder: dict[str, Any], what: str) -> dict[str, Any]:
    """Null is none: clients send it for what they leave out."""
    value = holder.get("parameters")
    return {} if value is None else _object(value, what)


def _parse_inputs(
    tensors: Any, binary: memoryview, specs: Sequence[TensorSpec], max_elements: int
) -> tuple[Array, ...]:
    if not isinstance(tensors, list):
        raise InputError("inputs: expected a JSON array of tensors", code="input_json")
    expected = {spec.name: spec for spec in specs}
    found: dict[str, Array] = {}
    offset = 0
    for tensor in tensors:
        name = _object(tensor, "inputs[]").get("name")
        spec = expected.get(name) if isinstance(name, str) else None
        if spec is None:
            raise InputError(
                f"input {str(name)[:80]!r} is not of this model; it takes {', '.join(expected)}",
                code="input_unknown",
            )
        if spec.name in found:
            raise InputError(f"input {spec.name!r} is given twice", code="input_duplicate")
        size = _binary_size(tensor, spec.name)
        shape = _parse_shape(tensor, spec, max_elements)
        if size is None:
            found[spec.name] = _from_json(tensor.get("data"), spec, shape)
        else:
            if size > len(binary) - offset:
                raise InputError(
                    f"input {spec.name!r}: binary_data_size is {size}, but {len(binary) - offset} bytes are "
                    f"left",
                    code="input_size",
                )
            found[spec.name] = from_binary(binary[offset : offset + size], spec, shape)
            offset += size
    if offset != len(binary):
        raise InputError(f"{len(binary) - offset} bytes follow the last binary input", code="input_size")
    if missing := [name for name in expected if name not in found]:
        raise InputError(f"input {', '.join(missing)} is missing", code="input_missing")
    return tuple(_finite(found[spec.name], spec) for spec in specs)


def _binary_size(tensor: dict[str, Any], name: str) -> int | None:
    parameters = _parameters(tensor, f"input {name!r} parameters")
    if "shared_memory_region" in parameters:
        raise shared_memory(name)
    size = parameters.get("binary_data_size")
    if size is None:
        return None
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise InputError(
            f"input {name!r}: binary_data_size must be a non-negative integer", code="input_size"
        )
    if "data" in tensor:
        raise InputError(f"input {name!r} has both data and binary_data_size; send one", code="input_data")
    return size


def shared_memory(name: str) -> InputError:
    return InputError(
        f"input {name!r}: shared memory is not supported; send the tensor itself", code="input_unsupported"
    )


def _parse_shape(tensor: dict[str, Any], spec: TensorSpec, max_elements: int) -> tuple[int, ...]:
    if tensor.get("datatype") != spec.dtype:
        raise InputError(
            f"input {spec.name!r}: datatype is {str(tensor.get('datatype'))[:40]!r}, the model takes "
            f"{spec.dtype}",
            code="input_dtype",
        )
    shape = tensor.get("shape")
    if not isinstance(shape, list) or len(shape) > MAX_RANK or any(type(dim) is not int for dim in shape):
        raise InputError(
            f"input {spec.name!r}: shape must be an array of at most {MAX_RANK} integers", code="input_shape"
        )
    fits = len(shape) == len(spec.shape) and all(
        dim > 0 if want == -1 else dim == want for dim, want in zip(shape, spec.shape, strict=True)
    )
    if not fits:
        raise InputError(
            f"input {spec.name!r}: shape {shape} does not fit {list(spec.shape)} (-1 is any positive number)",
            code="input_shape",
        )
    if prod(shape) > max_elements:
        raise TooLarge(
            f"input {spec.name!r}: {prod(shape)} elements, this node takes {max_elements}; send fewer rows"
        )
    return tuple(shape)


def _from_json(data: Any, spec: TensorSpec, shape: tuple[int, ...]) -> Array:
    """An array of `spec`'s dtype and `shape` from nested or flat JSON data. Nothing is rounded to fit but
    floats."""
    if not isinstance(data, list):
        raise InputError(f"input {spec.name!r}: data must be a JSON array", code="input_data")
    if spec.dtype == "BYTES":
        return strings_from_json(data, spec, shape)
    return numbers_from_json(data, spec, shape)


def from_binary(raw: bytes | memoryview, spec: TensorSpec, shape: tuple[int, ...]) -> Array:
    """An array from the binary extension's bytes: row-major little-endian; BYTES as `u32 length ‖ UTF-8
    bytes` each.

    Raises InputError `input_size`, `input_data`.
    """
    if spec.dtype == "BYTES":
        return strings_from_binary(bytes(raw), spec, shape)
    dtype = OIP_TO_NUMPY[spec.dtype]
    if len(raw) != prod(shape) * dtype.itemsize:
        raise InputError(
            f"input {spec.name!r}: {spec.dtype} of shape {list(shape)} has {prod(shape) * dtype.itemsize} "
            f"bytes, "
            f"got {len(raw)}",
            code="input_size",
        )
    array = np.frombuffer(raw, dtype=dtype).reshape(shape)
    if not array.flags.aligned:
        array = array.copy()
    if dtype.kind == "b" and array.size and int(array.view(np.uint8).max()) > 1:
        raise InputError(f"input {spec.name!r}: a BOOL byte is 0 or 1", code="input_data")
    return array


def _finite(array: Array, spec: TensorSpec) -> Array:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError(
            f"input {spec.name!r} holds NaN or infinite values (or numbers too great for {spec.dtype}); "
            f"clean it first",
            code="input_not_finite",
        )
    return array


def requested(outputs: Any, specs: Sequence[TensorSpec], default: bool) -> tuple[RequestedOutput, ...] | None:
    """What a request's `outputs` ask for; None: all. Raises InputError."""
    if outputs is None or outputs == []:
        return None
    if not isinstance(outputs, list):
        raise InputError("outputs: expected a JSON array", code="input_json")
    names = [spec.name for spec in specs]
    result: list[RequestedOutput] = []
    for item in outputs:
        name = _object(item, "outputs[]").get("name")
        if name not in names:
            raise InputError(
                f"output {str(name)[:80]!r} is not of this model; it has {', '.join(names)}",
                code="input_unknown",
            )
        parameters = _parameters(item, f"output {name!r} parameters")
        if unsupported := [key for key in ("classification", "shared_memory_region") if parameters.get(key)]:
            raise InputError(f"output {name!r}: {unsupported[0]} is not supported", code="input_unsupported")
        if any(name == other.name for other in result):
            raise InputError(f"output {name!r} is asked for twice", code="input_duplicate")
        result.append(RequestedOutput(name, parameters.get("binary_data", default) is True))
    return tuple(result)


def requested_outputs(
    request: InferRequest, specs: Sequence[TensorSpec], arrays: Sequence[Array]
) -> list[tuple[RequestedOutput, TensorSpec, Array]]:
    """What to render, in the order asked for. Raises InputError if JSON is asked for values that it cannot
    carry."""
    by_name = {spec.name: (spec, array) for spec, array in zip(specs, arrays, strict=True)}
    wanted = request.outputs
    if wanted is None:
        wanted = tuple(RequestedOutput(spec.name, request.binary_default) for spec in specs)
    result = [(output, *by_name[output.name]) for output in wanted]
    for output, spec, array in result:
        if not output.binary and array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InputError(
                f"output {spec.name!r} holds NaN or infinite values, which JSON cannot carry; ask for "
                f"binary_data",
                code="input_output_form",
            )
    return result


def render_response(
    model_name: str,
    model_version: str,
    request_id: str | None,
    outputs: Sequence[tuple[RequestedOutput, TensorSpec, Array]],
    parameters: Mapping[str, Any],
) -> InferResponse:
    """The body of an inference response, JSON first, then the binary tensors in order."""
    tensors: list[dict[str, Any]] = []
    chunks: list[bytes | memoryview] = []
    for output, spec, array in outputs:
        tensor: dict[str, Any] = {"name": spec.name, "datatype": spec.dtype, "shape": list(array.shape)}
        if output.binary:
            raw = array_bytes(array)
            tensor["parameters"] = {"binary_data_size": len(raw)}
            chunks.append(raw)
        else:
            tensor["data"] = _to_json(array)
        tensors.append(tensor)
    document: dict[str, Any] = {"model_name": model_name, "model_version": model_version, "outputs": tensors}
    if request_id is not None:
        document["id"] = request_id
    if parameters:
        document["parameters"] = parameters
    head = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    if not any(output.binary for output, _, _ in outputs):
        return InferResponse(head, None)
    return InferResponse(b"".join([head, *chunks]), len(head))


def _to_json(array: Array) -> Any:
    if array.dtype.kind == "O":
        return [
            element.decode() if isinstance(element, bytes) else element
            for element in array.reshape(-1).tolist()
        ]
    return np.ascontiguousarray(array).reshape(-1)
