"""QuantizeLinear and DequantizeLinear, per tensor or per axis (ONNX 10 to 25, com.microsoft 1).

onnxruntime core/mlas/lib/quantize.cpp: float32(x / scale), clamped in float32 to the dtype's ends − zero
point,
rounded half to even, + zero point; and float32(x − zero point) · scale.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from assay.exact.assembler import Expression
from assay.exact.lowering.context import Context
from assay.exact.lowering.graph import MICROSOFT
from assay.exact.lowering.quantisation import QUANTISED, round_to, scale_array
from assay.exact.lowering.registry import Node, operator
from assay.exact.lowering.report import Refusal
from assay.exact.lowering.values import (
    FLOAT,
    INT32,
    UINT8,
    Interval,
    Value,
    constant_value,
    dtype_interval,
    dtype_name,
)

EPSILON: Final = float(np.finfo(np.float32).eps)
_VERSIONS = (10, 13, 19, 21, 23, 24, 25)
_QUANTIZE = ("axis", "block_size", "output_dtype", "precision", "saturate")
_DEQUANTIZE = ("axis", "block_size", "output_dtype")


@operator("QuantizeLinear", (1,), ("axis",), MICROSOFT)
@operator("QuantizeLinear", _VERSIONS, _QUANTIZE)
def lower_quantize_linear(node: Node, context: Context) -> Value:
    """Floats to uint8 or int8."""
    x = node.input(0, "x", (FLOAT,))
    if x.dequantised:
        raise Refusal(
            "it quantises floats that came through DequantizeLinear; onnxruntime fuses such graphs, and the "
            "bits depend on its settings",
            "quantise to QOperator form (assay model quantize), not QDQ",
        )
    scales = scale_array(node, 1, "y_scale")
    zeros = _zero_points(node, scales)
    dtype = _code(zeros)
    _check_attributes(node, dtype)
    if context.origin(x, "Clip"):
        _check_clip(x.interval, scales, zeros, dtype_interval(dtype))
    if scales.size == 1 and zeros.ndim <= 1:
        push = Expression().float(float(scales.reshape(-1)[0]))
        divided = Expression().operand(0).then(push).fdiv()
        return context.elementwise(node, dtype, [x], round_to(divided, dtype, int(zeros.reshape(-1)[0])))
    scale, zero = _along(node, x, scales, FLOAT), _along(node, x, zeros.astype(np.int32), INT32)
    divided = Expression().operand(0).operand(1).fdiv()
    ends = dtype_interval(dtype)
    low, high = (Expression().integer(int(end)).operand(2).sub().i2f() for end in (ends.low, ends.high))
    rounded = divided.then(low).fmax().then(high).fmin().f2i().operand(2).add()
    return context.elementwise(node, dtype, [x, scale, zero], rounded)


@operator("DequantizeLinear", (1,), ("axis",), MICROSOFT)
@operator("DequantizeLinear", _VERSIONS, _DEQUANTIZE)
def lower_dequantize_linear(node: Node, context: Context) -> Value:
    """uint8, int8 or int32 (zero point 0) to floats."""
    x = node.input(0, "x", (*QUANTISED, INT32))
    scales = scale_array(node, 1, "x_scale")
    zeros = _zero_points(node, scales, x.dtype)
    _check_attributes(node, FLOAT)
    if x.dtype == INT32 and bool(np.any(zeros)):
        raise Refusal("an int32 tensor has a zero point", "use zero point 0")
    interval = _dequantised_interval(x, scales, zeros)
    values, expression = [x], Expression().operand(0)
    if scales.size == 1:
        zero, scale = int(zeros.reshape(-1)[0]), Expression().float(float(scales.reshape(-1)[0]))
        expression = expression.integer(zero).sub() if zero else expression
        scaled = expression.i2f().then(scale).fmul()
    else:
        values.append(_along(node, x, scales, FLOAT))
        scaled = Expression().operand(0)
        if bool(np.any(zeros)):
            values.append(_along(node, x, zeros.astype(np.int32), INT32))
            scaled = scaled.operand(2).sub()
        scaled = scaled.i2f().operand(1).fmul()
    return context.elementwise(node, FLOAT, values, scaled, interval=interval, dequantised=True)


def _check_clip(held: Interval, scales: NDArray[Any], zeros: NDArray[Any], ends: Interval) -> None:
    """onnxruntime leaves a Clip out that cuts less than float32's epsilon off what the dtype can hold."""
    shift = zeros.astype(np.float64)
    below = held.low - scales * (ends.low - shift)
    above = scales * (ends.high - shift) - held.high
    if any(bool(np.any((cut > 0) & (cut < 2 * EPSILON))) for cut in (below, above)):
        raise Refusal(
            "the Clip before it cuts so little off that onnxruntime's optimiser leaves it out",
            "leave it out, or use a larger scale",
        )


def _zero_points(node: Node, scales: NDArray[Any], dtype: int | None = None) -> NDArray[Any]:
    """Of the scales' shape; zeros of `dtype` (or of `output_dtype`, or uint8) where they are left out."""
    if node.optional(2) is None:
        code = dtype or int(node.attributes.get("output_dtype", 0)) or UINT8
        return np.zeros(scales.shape, {UINT8: np.uint8, INT32: np.int32}.get(code, np.int8))
    zeros = node.constant(2, "the zero point", (dtype,) if dtype else QUANTISED)
    if zeros.shape != scales.shape:
        raise Refusal("scale and zero point differ in shape", "give both the same dims")
    return zeros


def _code(zeros: NDArray[Any]) -> int:
    return UINT8 if zeros.dtype == np.uint8 else 3


def _check_attributes(node: Node, dtype: int) -> None:
    if node.attributes.get("block_size", 0):
        raise Refusal("it is blocked", "quantise per tensor or per axis")
    if node.attributes.get("precision", 0) not in (0, FLOAT):
        raise Refusal("its precision is not float32", "leave the attribute out")
    wanted = node.attributes.get("output_dtype", 0)
    if wanted not in (0, dtype):
        raise Refusal(f"output_dtype {dtype_name(wanted)} is not in the profile", "use 8 bits and float32")


def _along(node: Node, x: Value, items: NDArray[Any], dtype: int) -> Value:
    """A 1-D constant along the node's axis, ready to broadcast."""
    axis = x.axis(int(node.attributes.get("axis", 1)))
    if items.ndim != 1 or items.size != x.dims[axis]:
        raise Refusal(f"scales of dims {list(items.shape)} do not fit axis {axis}", "correct the shape")
    shape = [1] * len(x.dims)
    shape[axis] = items.size
    return constant_value(items.reshape(shape), dtype)


def _dequantised_interval(x: Value, scales: NDArray[Any], zeros: NDArray[Any]) -> Interval:
    shift = zeros.astype(np.int64)
    with np.errstate(over="ignore"):
        ends = [
            np.float32(1) * (np.int64(end) - shift).astype(np.float32) * scales
            for end in (int(x.interval.low), int(x.interval.high))
        ]
    interval = Interval(float(np.min(ends[0])), float(np.max(ends[1])), negative_zero=False)
    if not interval.is_finite:
        raise Refusal("a dequantised value can leave float32", "use a smaller scale")
    return interval
