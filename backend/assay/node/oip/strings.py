"""BYTES tensors of the Open Inference Protocol: arrays of str, from JSON and from binary data. Pure."""

from __future__ import annotations

import struct
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.node.errors import InputError
from assay.types import TensorSpec

Array = NDArray[Any]


def strings_from_json(data: list[Any], spec: TensorSpec, shape: tuple[int, ...]) -> Array:
    """From nested or flat lists. Raises InputError `input_data`."""
    flat = data
    while len(flat) and isinstance(flat[0], list):
        if not all(isinstance(part, list) for part in flat):
            raise InputError(f"input {spec.name!r}: data is ragged", code="input_data")
        flat = [element for part in flat for element in part]
    if len(flat) != prod(shape) or not all(isinstance(element, str) for element in flat):
        raise InputError(f"input {spec.name!r}: data must be {prod(shape)} strings", code="input_data")
    array = np.empty(len(flat), dtype=object)
    array[:] = flat
    return array.reshape(shape)


def strings_from_binary(raw: bytes, spec: TensorSpec, shape: tuple[int, ...]) -> Array:
    """From `u32 length ‖ UTF-8 bytes` each. Raises InputError `input_size`, `input_data`."""
    count, offset = prod(shape), 0
    few = InputError(f"input {spec.name!r}: holds fewer than {count} strings", code="input_size")
    if 4 * count > len(raw):
        raise few
    array = np.empty(count, dtype=object)
    try:
        for i in range(count):
            (length,) = struct.unpack_from("<I", raw, offset)
            offset += 4 + length
            if offset > len(raw):
                raise InputError(f"input {spec.name!r}: string {i} is cut off", code="input_size")
            array[i] = raw[offset - length : offset].decode()
    except struct.error:
        raise few from None
    except UnicodeDecodeError:
        raise InputError(f"input {spec.name!r}: a string is not UTF-8", code="input_data") from None
    if offset != len(raw):
        raise InputError(
            f"input {spec.name!r}: {len(raw) - offset} bytes follow the last string", code="input_size"
        )
    return array.reshape(shape)
