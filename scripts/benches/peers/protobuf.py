"""The two messages of the Open Inference Protocol's gRPC form that a load needs, in protobuf's encoding."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray


def infer_message(model: str, name: str, row: NDArray[Any]) -> bytes:
    """A `ModelInferRequest` whose one float32 input goes as raw bytes."""
    shape = b"".join(map(_varint, row.shape))
    tensor = _field(1, name.encode()) + _field(2, b"FP32") + _field(3, shape)
    return _field(1, model.encode()) + _field(5, tensor) + _field(7, row.tobytes())


def raw_output(message: bytes) -> NDArray[Any]:
    """The first float32 output of a length-prefixed `ModelInferResponse`, which comes as raw bytes where the
    inputs did. Raises ValueError."""
    for number, payload in _fields(message[5:]):
        if number == 6:
            return np.frombuffer(payload, np.float32)
    raise ValueError(f"an answer without raw outputs: {message[:200]!r}")


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*parts, value))


def _field(number: int, payload: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _read(data: bytes, at: int) -> tuple[int, int]:
    """(value, where it ends)."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Its length-delimited fields; numbers are passed over."""
    at = 0
    while at < len(data):
        key, at = _read(data, at)
        if key & 7 == 2:
            size, at = _read(data, at)
            yield key >> 3, data[at : at + size]
            at += size
        elif key & 7 == 0:
            _, at = _read(data, at)
        else:
            at += 4 if key & 7 == 5 else 8
