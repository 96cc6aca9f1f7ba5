"""Inference requests and responses of gRPC: protobuf messages to what `oip` checks, and back. Pure.

A request's tensors are raw (`raw_input_contents`, all of them) or typed (`contents`); the answer's come back
the same way, raw if any output's datatype has no typed field.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from assay.commitments.tensors import MAX_RANK, OIP_TO_NUMPY, array_bytes
from assay.node.errors import InputError, TooLarge
from assay.node.grpc.messages import Message, load_messages
from assay.node.oip import protocol as oip
from assay.node.oip.protocol import Array, InferRequest, RequestedOutput
from assay.types import TensorSpec

CONTENTS: Final[Mapping[str, str]] = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""The field of `InferTensorContents` that holds a datatype; FP16 has none."""
_SHARED: Final = "shared_memory_region"
_VOUCHER_NUMBERS: Final = ("voucher_amount", "voucher_count")


def read_parameters(parameters: Mapping[str, Message]) -> dict[str, Any]:
    """Parameters as JSON would have them; a voucher's numbers may be integers here."""
    found = {}
    for name, parameter in parameters.items():
        choice = parameter.WhichOneof("parameter_choice")
        value = None if choice is None else getattr(parameter, choice)
        found[name] = str(value) if name in _VOUCHER_NUMBERS and type(value) is int else value
    return found


def read_request(
    message: Message,
    voucher: Mapping[str, Any],
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    *,
    max_elements: int,
) -> InferRequest:
    """A ModelInferRequest against the model's signature; `voucher` has the parameters that came in metadata.

    Raises InputError `input_*`, TooLarge.
    """
    chunks = _chunks(message, max_elements)
    tensors = [
        {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.shape[: MAX_RANK + 1]),
            "parameters": read_parameters(tensor.parameters) | {"binary_data_size": len(chunk)},
        }
        for tensor, chunk in zip(message.inputs, chunks, strict=True)
    ]
    header = {
        "id": message.id or None,
        "inputs": tensors,
        "outputs": [
            {"name": output.name, "parameters": read_parameters(output.parameters) | {"binary_data": True}}
            for output in message.outputs
        ],
        "parameters": {**read_parameters(message.parameters), **voucher, "binary_data_output": True},
    }
    binary = memoryview(chunks[0] if len(chunks) == 1 else b"".join(chunks))
    return oip.read_request(header, binary, inputs, outputs, max_elements=max_elements)


def is_typed(message: Message) -> bool:
    """Whether a request's tensors are in `contents`."""
    return bool(message.inputs) and not message.raw_input_contents


def _chunks(message: Message, max_elements: int) -> list[bytes]:
    """Each input's bytes as the binary tensor extension has them."""
    if shared := [tensor.name for tensor in message.inputs if _SHARED in tensor.parameters]:
        raise oip.shared_memory(shared[0][:80])
    raw = message.raw_input_contents
    if not raw:
        return [_typed_bytes(tensor, max_elements) for tensor in message.inputs]
    if len(raw) != len(message.inputs):
        raise InputError(
            f"raw_input_contents has {len(raw)} tensors for {len(message.inputs)} inputs; send one for each",
            code="input_size",
        )
    if both := [tensor.name for tensor in message.inputs if tensor.HasField("contents")]:
        raise InputError(
            f"input {both[0]!r} has both contents and raw_input_contents; send one", code="input_data"
        )
    return list(raw)


def _typed_bytes(tensor: Message, max_elements: int) -> bytes:
    """The filled field of `contents` as bytes; what of it is wrong for the model, `oip` finds."""
    name = tensor.name[:80]
    if tensor.datatype not in OIP_TO_NUMPY:
        return b""
    field = CONTENTS.get(tensor.datatype)
    if field is None:
        raise InputError(
            f"input {name!r}: {tensor.datatype} has no typed contents; send raw_input_contents",
            code="input_data",
        )
    filled = [descriptor.name for descriptor, _ in tensor.contents.ListFields()]
    if other := [found for found in filled if found != field]:
        raise InputError(
            f"input {name!r}: {other[0]} is filled where {tensor.datatype} is in {field}", code="input_data"
        )
    values = getattr(tensor.contents, field)
    if len(values) > max_elements:  # each takes more memory as an object than on the wire
        raise TooLarge(
            f"input {name!r}: {len(values)} elements, this node takes {max_elements}; send fewer rows"
        )
    if tensor.datatype == "BYTES":
        return _length_prefixed(values)
    return _cast(values, tensor.datatype, name).tobytes()


def _length_prefixed(values: Iterable[bytes]) -> bytes:
    return b"".join(struct.pack("<I", len(value)) + value for value in values)


def _cast(values: Sequence[Any], datatype: str, name: str) -> Array:
    dtype = OIP_TO_NUMPY[datatype]
    if dtype.kind not in "iu" or dtype.itemsize >= 4:
        return np.array(values, dtype=dtype)
    wide = np.array(values, dtype=np.int64)
    limits = np.iinfo(dtype)
    if wide.size and not limits.min <= wide.min() <= wide.max() <= limits.max:
        raise InputError(
            f"input {name!r}: a value is outside {datatype}'s {limits.min} … {limits.max}", code="input_data"
        )
    return wide.astype(dtype)


def build_response(
    request: InferRequest,
    model_name: str,
    model_version: str,
    outputs: Sequence[tuple[RequestedOutput, TensorSpec, Array]],
    receipt: str,
    *,
    typed: bool,
) -> Message:
    """A ModelInferResponse with the outputs that were asked for; `receipt` is its parameter of that name."""
    message = load_messages().ModelInferResponse(
        model_name=model_name, model_version=model_version, id=request.id or ""
    )
    message.parameters["receipt"].string_param = receipt
    typed = typed and all(spec.dtype in CONTENTS for _, spec, _ in outputs)
    for _, spec, array in outputs:
        tensor = message.outputs.add(name=spec.name, datatype=spec.dtype, shape=array.shape)
        if typed:
            getattr(tensor.contents, CONTENTS[spec.dtype]).extend(_elements(array))
        else:
            message.raw_output_contents.append(bytes(array_bytes(array)))
    return message


def _elements(array: Array) -> list[Any]:
    flat: list[Any] = array.reshape(-1).tolist()
    if array.dtype.kind != "O":
        return flat
    return [element.encode() if isinstance(element, str) else element for element in flat]
