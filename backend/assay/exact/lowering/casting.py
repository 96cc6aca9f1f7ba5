"""Cast among integers, bool and float32."""

from __future__ import annotations

from math import trunc

import numpy as np

from assay.exact.assembler import Expression
from assay.exact.lowering import ranges
from assay.exact.lowering.context import COPY, Context
from assay.exact.lowering.registry import Node, operator
from assay.exact.lowering.report import Refusal
from assay.exact.lowering.values import BOOL, DTYPES, FLOAT, Interval, Value, dtype_interval, dtype_name


@operator("Cast", versions=(9, 13, 19, 21, 23, 24, 25), attributes=("to", "saturate", "round_mode"))
def lower_cast(node: Node, context: Context) -> Value:
    """Integers wrap; whatever is not zero is true; integers round to the nearest float32.

    Floats are cut toward zero, only if known to fit: beyond that CPUs differ. `saturate` and `round_mode`
    concern float8 alone.
    """
    value = node.input(0, "input", tuple(sorted(DTYPES)))
    target = int(node.attributes.get("to", 0))
    if target not in DTYPES:
        raise Refusal(f"{dtype_name(target)} is not in the profile", "cast to another element type")
    if target == value.dtype:
        return value
    if target == FLOAT and context.origin(value, "MatMulInteger", "ConvInteger"):
        raise Refusal(
            "onnxruntime fuses MatMulInteger, Cast and Mul, and computes something else",
            "use DequantizeLinear, or QLinearMatMul",
        )
    expression, interval = _rule(value, target)
    return context.elementwise(node, target, [value], expression, interval=interval)


def _rule(value: Value, target: int) -> tuple[Expression, Interval]:
    pushed, held = Expression().operand(0), value.interval
    if target == BOOL:
        zero = pushed.integer(0).feq() if value.dtype == FLOAT else pushed.integer(0).eq()
        return zero.integer(0).eq(), dtype_interval(BOOL)
    if target == FLOAT:
        return pushed.i2f(), Interval(float(np.float32(held.low)), float(np.float32(held.high)), False)
    if value.dtype != FLOAT:
        return COPY, ranges.wrapped(held.low, held.high, target)
    whole = dtype_interval(target)
    if not held.is_finite or trunc(held.low) < whole.low or trunc(held.high) > whole.high:
        raise Refusal(
            f"a float may lie outside {dtype_name(target)}, where CPUs differ", "Clip to constants before it"
        )
    return pushed.trunc(), Interval(trunc(held.low), trunc(held.high))
