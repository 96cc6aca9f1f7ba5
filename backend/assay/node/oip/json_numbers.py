"""Tensors of numbers and booleans from JSON. Pure."""

from __future__ import annotations

from array import array as numbers
from itertools import chain
from math import prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from assay.commitments.tensors import MAX_RANK, OIP_TO_NUMPY
from assay.node.errors import InputError
from assay.types import TensorSpec

_INTEGER_KINDS = "iu"
_CODES: Final[dict[str, Any]] = {"f": "d", "i": "q", "u": "Q"}
"""Which array holds the JSON numbers of a numpy kind; it takes no others."""

Array = NDArray[Any]


def numbers_from_json(data: list[Any], spec: TensorSpec, shape: tuple[int, ...]) -> Array:
    """From nested or flat lists. Raises InputError `input_data`, `input_shape`."""
    try:
        flat, found = _flatten(data)
    except ValueError:
        raise InputError(
            f"input {spec.name!r}: data is ragged, or nested deeper than arrays can be", code="input_data"
        ) from None
    if found not in (shape, (prod(shape),)):
        raise InputError(
            f"input {spec.name!r}: data has shape {list(found)}, the request says {list(shape)}",
            code="input_shape",
        )
    return _from_numbers(flat, spec).reshape(shape)


def _flatten(data: list[Any]) -> tuple[list[Any], tuple[int, ...]]:
    """The elements of nested lists in order, and the lists' shape. Raises ValueError if they are ragged, or
    nested deeper than a tensor."""
    shape = [len(data)]
    while data and type(data[0]) is list:
        if len(shape) == MAX_RANK or set(map(type, data)) != {list}:
            raise ValueError
        sizes = set(map(len, data))
        if len(sizes) > 1:
            raise ValueError
        shape.append(sizes.pop())
        data = list(chain.from_iterable(data))
    return data, tuple(shape)


def _from_numbers(flat: list[Any], spec: TensorSpec) -> Array:
    """numpy is never asked to find a type for all of them: beside one string it makes strings of all others,
    each with as much room as the longest needs."""
    dtype = OIP_TO_NUMPY[spec.dtype]
    if not flat:
        return np.empty(0, dtype)
    try:
        if dtype.kind == "b" or type(flat[0]) is bool:
            if dtype.kind != "b" or set(map(type, flat)) != {bool}:
                raise TypeError
            return np.array(flat, dtype)
        raw = np.array(numbers(_CODES[dtype.kind], flat))
        if dtype.kind in _INTEGER_KINDS:
            limits = np.iinfo(dtype)
            if int(raw.min()) < limits.min or int(raw.max()) > limits.max:
                raise OverflowError
    except TypeError:
        kinds = ", ".join(sorted({type(value).__name__ for value in flat}))
        raise InputError(
            f"input {spec.name!r}: data holds {kinds} values where {spec.dtype} is due", code="input_data"
        ) from None
    except OverflowError:
        raise InputError(f"input {spec.name!r}: a value is outside {spec.dtype}", code="input_data") from None
    with np.errstate(over="ignore"):
        return raw.astype(dtype)
