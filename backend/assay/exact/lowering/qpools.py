"""QLinearGlobalAveragePool and QLinearAveragePool on uint8.

onnxruntime core/mlas/lib/qlgavgpool.cpp: integer sums, requantised.
contrib_ops/cpu/quantization/qlinear_pool.cc: float32
sums of dequantised values in row-major order, / count, / y_scale, + y_zero, rounded, clamped; global where
the window is
the whole image.
"""

from __future__ import annotations

from math import prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from assay.exact.assembler import Expression
from assay.exact.lowering import forms
from assay.exact.lowering.context import Context
from assay.exact.lowering.contractions import check_accumulator, shifted
from assay.exact.lowering.graph import MICROSOFT
from assay.exact.lowering.quantisation import check_scales, requantise, scalar_scale, scalar_zero_point
from assay.exact.lowering.registry import Node, operator
from assay.exact.lowering.report import Refusal
from assay.exact.lowering.values import FLOAT, INT32, UINT8, Value, constant_value
from assay.exact.lowering.windows import Window, read_window

_ATTRIBUTES = (
    "auto_pad",
    "ceil_mode",
    "channels_last",
    "count_include_pad",
    "kernel_shape",
    "pads",
    "strides",
)
MAX_COUNTS: Final = 1 << 24
MAX_RESULT: Final = float(1 << 30)
Parameters = tuple[np.float32, int, np.float32, int]
"""x's scale and zero point, y's scale and zero point."""


@operator("QLinearGlobalAveragePool", (1,), ("channels_last",), MICROSOFT)
def lower_qlinear_global_average_pool(node: Node, context: Context) -> Value:
    """Σ (x − x_zero) requantised by float32(x_scale / float32(y_scale · count))."""
    x, parameters = _read(node)
    return _global_average(node, context, x, parameters)


@operator("QLinearAveragePool", (1,), _ATTRIBUTES, MICROSOFT)
def lower_qlinear_average_pool(node: Node, context: Context) -> Value:
    """A sum in float32, in the order of the reduction, and its division in a second kernel."""
    x, parameters = _read(node)
    sizes = _sizes(x)
    taps = tuple(node.attributes.get("kernel_shape", ()))
    window = read_window(node, sizes, taps, ceil=bool(node.attributes.get("ceil_mode", 0)))
    if len(sizes) > 3 or any(
        pad >= k for pads in (window.begins, window.ends) for pad, k in zip(pads, taps, strict=True)
    ):
        raise Refusal("onnxruntime has no such pool", "use up to 3 spatial axes and pads below the window")
    if taps == sizes and not any(window.begins + window.ends):
        return _global_average(node, context, x, parameters)
    total = _float_sum(node, context, x, window, parameters)
    return _divided(node, context, total, window, parameters)


def _read(node: Node) -> tuple[Value, Parameters]:
    x = node.input(0, "X", (UINT8,))
    if node.attributes.get("channels_last", 0):
        raise Refusal("its channels are last", "use the layout with channels second")
    if x.rank < 3:
        raise Refusal(f"X has rank {x.rank}, at least 3 is needed", "correct the shape")
    x_zero = scalar_zero_point(node, 2, "x_zero_point", UINT8)
    y_zero = scalar_zero_point(node, 4, "y_zero_point", UINT8)
    return x, (scalar_scale(node, 1, "x_scale"), x_zero, scalar_scale(node, 3, "y_scale"), y_zero)


def _sizes(x: Value) -> tuple[int, ...]:
    return x.dims[1:] if x.batched else x.dims[2:]


def _global_average(node: Node, context: Context, x: Value, parameters: Parameters) -> Value:
    x_scale, x_zero, y_scale, y_zero = parameters
    sizes = _sizes(x)
    kept = x.dims[: len(x.dims) - len(sizes)]
    with np.errstate(over="ignore", under="ignore"):
        scale = np.float32(x_scale / np.float32(y_scale * np.float32(prod(sizes))))
    check_scales(np.atleast_1d(scale), "x_scale / (y_scale · count)")
    if prod(sizes) >= 1 << 24 or not 2.0**-32 <= float(scale) < 256:
        raise Refusal("onnxruntime refuses an image or scale of this size", "use a smaller image")
    interval = check_accumulator(int(shifted(x, x_zero).magnitude) * prod(sizes))
    index = [forms.variable(axis) for axis in range(len(x.dims))]
    expression = Expression().acc().operand(0).add()
    total = context.emit(
        node,
        dtype=INT32,
        domain=kept,
        reduction=sizes,
        operands=[context.operand(x, index)],
        expression=expression.integer(x_zero).sub() if x_zero else expression,
        batched=x.batched,
        dims=(*kept, *(1 for _ in sizes)),
        interval=interval,
        part="sums",
    )
    push = Expression().float(float(scale))
    code = requantise(Expression().operand(0), push, UINT8, y_zero)
    return context.elementwise(node, UINT8, [total], code)


def _float_sum(node: Node, context: Context, x: Value, window: Window, parameters: Parameters) -> Value:
    """Outside the image the operand reads the zero point, which adds +0."""
    x_scale, x_zero, y_scale, _ = parameters
    reach = 255 * float(x_scale) * prod(window.kernel)
    if reach / float(y_scale) > MAX_RESULT or reach > 2.0**120:
        raise Refusal("its result can leave int32", "use scales of like size")
    rank = len(window.sizes)
    kept = x.dims[: len(x.dims) - rank]
    domain = (*kept, *window.outputs)
    first, inner = len(kept), len(domain)
    spatial = [window.index(axis, first + axis, inner + axis) for axis in range(rank)]
    index = [*(forms.variable(axis) for axis in range(first)), *spatial]
    centred = Expression().acc().operand(0).integer(x_zero).sub().i2f()
    return context.emit(
        node,
        dtype=FLOAT,
        domain=domain,
        reduction=window.kernel,
        operands=[context.operand(x, index, pad=x_zero, bounds=window.bounds(spatial))],
        expression=centred.float(float(x_scale)).fmul().fadd(),
        batched=x.batched,
        part="sums",
    )


def _divided(node: Node, context: Context, total: Value, window: Window, parameters: Parameters) -> Value:
    _, _, y_scale, y_zero = parameters
    values, divisor = [total], Expression().float(float(prod(window.kernel)))
    if not node.attributes.get("count_include_pad", 0):
        counts = _counts(window)
        if np.all(counts == counts.reshape(-1)[0]):
            divisor = Expression().float(float(counts.reshape(-1)[0]))
        else:
            values.append(constant_value(counts, FLOAT))
            divisor = Expression().operand(1)
    mean = Expression().operand(0).then(divisor).fdiv()
    scaled = mean.float(float(y_scale)).fdiv().float(float(y_zero)).fadd()
    return context.elementwise(node, UINT8, values, scaled.f2i().clamp(0, 255))


def _counts(window: Window) -> NDArray[Any]:
    """How many elements of the image each window covers, as float32 of the outputs' dims."""
    if prod(window.outputs) > MAX_COUNTS:
        raise Refusal(
            "its windows cover the image unevenly, and are too many to count", "use count_include_pad"
        )
    counts = np.ones((), np.float32)
    for axis, outputs in enumerate(window.outputs):
        starts = np.arange(outputs) * window.strides[axis] - window.begins[axis]
        ends = np.minimum(starts + window.kernel[axis], window.sizes[axis])
        covered = (ends - np.maximum(starts, 0)).astype(np.float32)
        counts = np.multiply.outer(counts, covered)
    if counts.min() < 1:
        raise Refusal("a window lies outside the image", "use smaller pads")
    return counts
