"""Operators that compute an element otherwise where it stands in another place. Pure.

Found with onnxruntime 1.31.1 on x86-64 by comparing rows alone with rows in batches, operator by operator,
for rows of several lengths and types: they differ in a last bit, in up to three values of five.
"""

from __future__ import annotations

from math import prod
from typing import Final

import onnx

from assay.node.engines.row_rules import Node, Obstacle

VECTOR: Final = 16
"""Elements, or a divisor of them, of what processors compute at a time."""
_ENDS: Final = frozenset(
    (
        *("Acos", "Asin", "Atan", "Celu", "Cos", "Elu", "GroupNormalization", "LRN", "Log", "Mish", "Selu"),
        *("Sin", "Softplus"),
    )
)
_ENDS_FLOAT64: Final = _ENDS | {"Exp", "LogSoftmax", "Sigmoid", "Softmax", "Tanh"}


def check_places(node: Node, dtype: int, threads: int) -> None:
    """What does not fill a vector at the end of a tensor, or of a thread's part of it, is computed by other
    instructions. `dtype` of the input. Raises Obstacle."""
    operator = node.proto.op_type
    if operator not in (_ENDS_FLOAT64 if dtype == onnx.TensorProto.DOUBLE else _ENDS):
        return
    value = node.inputs[0]
    dims = value.dims if value is not None else None
    if threads > 1:
        raise Obstacle("is parted among threads, and computed otherwise where a part ends")
    if not dims or min(dims[1:], default=1) < 1 or prod(dims[1:]) % VECTOR or "Softmax" in operator:
        raise Obstacle(f"is computed otherwise at the end of a tensor, unless rows have {VECTOR} n elements")
