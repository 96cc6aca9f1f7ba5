"""Requests to an executor and its answers: arrays to bytes and back; answers are held to the signature.
Pure."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import orjson

from assay.commitments.tensors import MAX_RANK, OIP_TO_NUMPY, array_bytes
from assay.errors import RequestError
from assay.node.errors import RunFailed
from assay.node.oip.protocol import Array, from_binary
from assay.types import TensorSpec


class BadAnswer(RunFailed):
    """An executor's answer that does not fit the version's signature: nothing is signed for it."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"the executor's answer does not fit the version: {problem}")


def encode_request(
    inputs: Sequence[TensorSpec], arrays: Sequence[Array], outputs: Sequence[TensorSpec], *, binary: bool
) -> tuple[bytes, int | None]:
    """The body, and the length of its JSON part; None: it is all JSON."""
    tensors: list[dict[str, Any]] = []
    chunks: list[bytes | memoryview] = []
    for spec, array in zip(inputs, arrays, strict=True):
        tensor: dict[str, Any] = {"name": spec.name, "datatype": spec.dtype, "shape": list(array.shape)}
        if binary:
            raw = array_bytes(array)
            tensor["parameters"] = {"binary_data_size": len(raw)}
            chunks.append(raw)
        else:
            tensor["data"] = _values(array)
        tensors.append(tensor)
    wanted = [{"name": spec.name, "parameters": {"binary_data": binary}} for spec in outputs]
    if not binary:
        wanted = [{"name": spec.name} for spec in outputs]
    head = orjson.dumps({"inputs": tensors, "outputs": wanted}, option=orjson.OPT_SERIALIZE_NUMPY)
    return (b"".join([head, *chunks]), len(head)) if binary else (head, None)


def _values(array: Array) -> Any:
    if array.dtype.kind == "O":
        return [one.decode() if isinstance(one, bytes) else one for one in array.reshape(-1).tolist()]
    return np.ascontiguousarray(array).reshape(-1)


def decode_answer(body: bytes, json_length: int | None, outputs: Sequence[TensorSpec]) -> tuple[Array, ...]:
    """All outputs in signature order. Raises BadAnswer."""
    length = len(body) if json_length is None else json_length
    try:
        document = orjson.loads(memoryview(body)[:length])
        tensors = document["outputs"]
        rest = memoryview(body)[length:]
        found = _read(tensors, rest, {spec.name: spec for spec in outputs})
        return tuple(found[spec.name] for spec in outputs)
    except KeyError as error:
        raise BadAnswer(f"it has no {error.args[0]!r}") from None
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise BadAnswer(str(error)[:200]) from None
    except BadAnswer:
        raise
    except RequestError as error:
        raise BadAnswer(str(error)[:200]) from None


def _read(tensors: Any, rest: memoryview, expected: dict[str, TensorSpec]) -> dict[str, Array]:
    found: dict[str, Array] = {}
    offset = 0
    for tensor in tensors:
        name = tensor["name"]
        size = (tensor.get("parameters") or {}).get("binary_data_size")
        spec = expected.get(name)
        if size is not None and (type(size) is not int or not 0 <= size <= len(rest) - offset):
            raise BadAnswer(f"output {str(name)[:80]!r} has binary_data_size {str(size)[:40]}")
        if spec is not None:  # others are what the executor gives beyond the signature
            if name in found:
                raise BadAnswer(f"output {name!r} is there twice")
            shape = _shape(tensor, spec)
            raw = None if size is None else rest[offset : offset + size]
            found[name] = (
                from_binary(raw, spec, shape) if raw is not None else _from_json(tensor, spec, shape)
            )
        offset += size or 0
    if offset != len(rest):
        raise BadAnswer(f"{len(rest) - offset} bytes follow its last tensor")
    return found


def _shape(tensor: dict[str, Any], spec: TensorSpec) -> tuple[int, ...]:
    shape, dtype = tensor["shape"], tensor["datatype"]
    if dtype != spec.dtype:
        raise BadAnswer(f"output {spec.name!r} is {str(dtype)[:40]}, not {spec.dtype}")
    fits = (
        isinstance(shape, list)
        and len(shape) <= MAX_RANK
        and all(type(dim) is int and dim >= 0 for dim in shape)
        and len(shape) == len(spec.shape)
        and all(want in (-1, dim) for dim, want in zip(shape, spec.shape, strict=True))
    )
    if not fits:
        raise BadAnswer(f"output {spec.name!r} has shape {str(shape)[:80]}, not {list(spec.shape)}")
    return tuple(shape)


def _from_json(tensor: dict[str, Any], spec: TensorSpec, shape: tuple[int, ...]) -> Array:
    """No value is rounded but to the nearest float of the datatype; no number is taken for another kind."""
    data = tensor["data"]
    if not isinstance(data, list):
        raise BadAnswer(f"output {spec.name!r} has no list of data")
    flat = np.empty(0, object) if not data else np.array(data, dtype=object).reshape(-1)
    if flat.size != prod(shape):
        raise BadAnswer(f"output {spec.name!r} has {flat.size} values for shape {list(shape)}")
    if spec.dtype == "BYTES":
        _check_kinds(flat, (str,), spec)
        return flat.reshape(shape)
    dtype = OIP_TO_NUMPY[spec.dtype]
    kinds: tuple[type, ...] = {"b": (bool,), "f": (int, float)}.get(dtype.kind, (int,))
    _check_kinds(flat, kinds, spec)
    if dtype.kind in "iu" and flat.size:
        limits = np.iinfo(dtype)
        if int(flat.min()) < limits.min or int(flat.max()) > limits.max:
            raise BadAnswer(f"output {spec.name!r} has a value outside of {spec.dtype}")
    with np.errstate(over="ignore"):
        array = flat.astype(dtype)
    if dtype.kind == "f" and not np.isfinite(array).all():
        raise BadAnswer(f"output {spec.name!r} has a number too great for {spec.dtype}")
    return array.reshape(shape)


def _check_kinds(flat: Array, kinds: tuple[type, ...], spec: TensorSpec) -> None:
    if wrong := {type(value) for value in flat.tolist()} - set(kinds):
        names = ", ".join(sorted(kind.__name__ for kind in wrong))
        raise BadAnswer(f"output {spec.name!r} has {names} values where {spec.dtype} is due")
