"""Operators that onnxruntime computes through a table of 256 entries: QLinearConcat, QLinearLeakyRelu,
QLinearSigmoid.

onnxruntime contrib_ops/cpu/quantization/qlinear_lookup_table.cc: entry of x = quantise(f(float32(x_scale ·
(x − x_zero)))).
"""

from __future__ import annotations

from decimal import Decimal, localcontext
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from assay.commitments.tensors import ONNX_TO_NUMPY
from assay.exact.assembler import Expression
from assay.exact.lowering import forms
from assay.exact.lowering.context import Context, merge_axes
from assay.exact.lowering.graph import MICROSOFT
from assay.exact.lowering.joining import join
from assay.exact.lowering.quantisation import (
    QUANTISED,
    SCALE_CURE,
    check_scales,
    scalar_scale,
    scalar_zero_point,
)
from assay.exact.lowering.registry import Node, operator
from assay.exact.lowering.report import Refusal
from assay.exact.lowering.values import Interval, Value, constant_value, dtype_interval

SIGMOID_ERROR: Final = Decimal("1e-6")
"""More than MLAS's logistic function errs on any CPU class (1.7e-7 was measured with AVX512)."""


@operator("QLinearConcat", (1,), ("axis",), MICROSOFT)
def lower_qlinear_concat(node: Node, context: Context) -> Value:
    """Inputs of the output's scale and zero point are copied, others requantised."""
    y_scale = scalar_scale(node, 0, "Y_scale")
    if len(node.inputs) < 5 or (len(node.inputs) - 2) % 3:
        raise Refusal("its inputs are not triples of tensor, scale and zero point", "export again")
    parts = []
    for first in range(2, len(node.inputs), 3):
        x = node.input(first, "a tensor", QUANTISED)
        y_zero = scalar_zero_point(node, 1, "Y_zero_point", x.dtype)
        x_scale = scalar_scale(node, first + 1, "a scale")
        x_zero = scalar_zero_point(node, first + 2, "a zero point", x.dtype)
        if (x_scale, x_zero) != (y_scale, y_zero):
            reals = dequantised_values(x.dtype, x_scale, x_zero)
            table = quantise(reals, y_scale, y_zero, x.dtype)
            x = look_up(node, context, x, table, part=f"requantised input {(first - 2) // 3}")
        parts.append(x)
    if "axis" not in node.attributes:
        raise Refusal("axis is missing", "give it")
    return join(node, context, parts, int(node.attributes["axis"]))


@operator("QLinearLeakyRelu", (1,), ("alpha",), MICROSOFT)
def lower_qlinear_leaky_relu(node: Node, context: Context) -> Value:
    """x for x ≥ 0, else float32(alpha · x)."""
    alpha = node.floats("alpha", 0.01)
    if not np.isfinite(alpha):
        raise Refusal("alpha is not finite", "use a number")
    with np.errstate(over="ignore", under="ignore"):
        return _through_table(node, context, lambda reals: np.where(reals >= 0, reals, alpha * reals))


@operator("QLinearSigmoid", (1,), (), MICROSOFT)
def lower_qlinear_sigmoid(node: Node, context: Context) -> Value:
    """1 / (1 + e^−x). CPU classes compute it differently; refused where an entry could differ between
    them."""
    x, x_scale, x_zero, y_scale, y_zero = _parameters(node)
    ends = dtype_interval(x.dtype)
    entries = [
        _sigmoid_entry(Decimal(float(real)), Decimal(float(y_scale)), y_zero, ends)
        for real in dequantised_values(x.dtype, x_scale, x_zero)
    ]
    return look_up(node, context, x, np.array(entries, ONNX_TO_NUMPY[x.dtype]))


def _sigmoid_entry(real: Decimal, scale: Decimal, zero: int, ends: Interval) -> int:
    with localcontext() as precision:
        precision.prec = 40
        exact = 1 / (1 + (-real).exp())
        candidates = {
            min(max(round(max(Decimal(0), exact + error) / scale) + zero, int(ends.low)), int(ends.high))
            for error in (-SIGMOID_ERROR, SIGMOID_ERROR)
        }
    if len(candidates) > 1:
        raise Refusal(
            f"its value at {float(real):.6g} lies too near to a rounding boundary, where CPUs differ",
            SCALE_CURE,
        )
    return candidates.pop()


def _parameters(node: Node) -> tuple[Value, np.float32, int, np.float32, int]:
    x = node.input(0, "X", QUANTISED)
    x_zero = scalar_zero_point(node, 2, "X_zero_point", x.dtype)
    y_zero = scalar_zero_point(node, 4, "Y_zero_point", x.dtype)
    return x, scalar_scale(node, 1, "X_scale"), x_zero, scalar_scale(node, 3, "Y_scale"), y_zero


def _through_table(node: Node, context: Context, function: Any) -> Value:
    x, x_scale, x_zero, y_scale, y_zero = _parameters(node)
    reals = function(dequantised_values(x.dtype, x_scale, x_zero))
    return look_up(node, context, x, quantise(reals, y_scale, y_zero, x.dtype))


def dequantised_values(dtype: int, scale: np.float32, zero: int) -> NDArray[Any]:
    """Of all 256 values, from the dtype's least to its greatest."""
    ends = dtype_interval(dtype)
    check_scales(np.float32(255) * np.atleast_1d(scale), "255 · the scale")
    return np.arange(int(ends.low) - zero, int(ends.high) - zero + 1).astype(np.float32) * scale


def quantise(reals: NDArray[Any], scale: np.float32, zero: int, dtype: int) -> NDArray[Any]:
    """MLAS `MlasQuantizeLinear`, as QuantizeLinear."""
    ends = dtype_interval(dtype)
    with np.errstate(over="ignore", under="ignore"):
        scaled = reals.astype(np.float32) / scale
    clamped = np.clip(scaled, np.float32(ends.low - zero), np.float32(ends.high - zero))
    return (np.rint(clamped).astype(np.int64) + zero).astype(ONNX_TO_NUMPY[dtype])


def look_up(node: Node, context: Context, x: Value, table: NDArray[Any], *, part: str = "") -> Value:
    """table[x − the dtype's least value], element by element; the table has 256 entries of x's dtype."""
    domain, (steps,) = merge_axes(x.dims, [x.strides])
    first = -int(dtype_interval(x.dtype).low)
    entries = constant_value(table, x.dtype)
    return context.emit(
        node,
        dtype=x.dtype,
        domain=domain,
        operands=[
            context.flat_operand(x, forms.build(x.base, enumerate(steps))),
            context.flat_operand(entries, forms.constant(first), indirect=(0, 1)),
        ],
        expression=Expression().operand(1),
        batched=x.batched,
        dims=x.dims,
        interval=entries.interval,
        part=part,
    )
