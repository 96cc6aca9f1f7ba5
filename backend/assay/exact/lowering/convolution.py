"""QLinearConv and ConvInteger: a contraction to int32, then (QLinearConv) a requantisation.

onnxruntime core/providers/cpu/quantization/{qlinearconv,conv_integer}.cc; ONNX operators QLinearConv-10,
ConvInteger-10.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.exact.assembler import Expression
from assay.exact.lowering import forms
from assay.exact.lowering.context import Context
from assay.exact.lowering.contractions import (
    check_accumulator,
    check_activations,
    check_weights,
    multiply_add,
    shifted,
)
from assay.exact.lowering.quantisation import (
    check_scales,
    common_zero_point,
    requantise,
    scalar_scale,
    scalar_zero_point,
    scale_array,
)
from assay.exact.lowering.registry import Node, operator
from assay.exact.lowering.report import Refusal
from assay.exact.lowering.values import INT32, UINT8, Value, constant_value, dtype_interval
from assay.exact.lowering.windows import Window, read_window
from assay.exact.program import Operand

_ATTRIBUTES = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")


@operator("QLinearConv", versions=(10,), attributes=_ATTRIBUTES)
def lower_qlinear_conv(node: Node, context: Context) -> Value:
    """Output scale of channel c: float32(float32(x_scale · w_scale[c]) / y_scale)."""
    x, w = node.input(0, "x"), node.input(3, "w")
    x_zero = scalar_zero_point(node, 2, "x_zero_point", x.dtype)
    y_zero = scalar_zero_point(node, 7, "y_zero_point", UINT8)
    w_zero = common_zero_point(node, 5, "w_zero_point", w.dtype)
    channels = w.dims[0] if w.dims else 0
    scales = _output_scales(node, channels)
    bias = _bias(node, channels)
    acc = convolve(node, context, x, w, x_zero=x_zero, w_zero=w_zero, bias=bias)
    shape = (channels,) + (1,) * (len(acc.dims) - 1 - (not x.batched))
    values, expression = [acc], Expression().operand(0)
    if bias is not None:
        values.append(constant_value(bias.reshape(shape), INT32))
        expression = expression.operand(1).add()
    if scales.size == 1:
        push = Expression().float(float(scales.reshape(-1)[0]))
    else:
        push = Expression().operand(len(values))
        values.append(constant_value(scales.reshape(shape), 1))
    return context.elementwise(
        node, UINT8, values, requantise(expression, push, UINT8, y_zero), interval=dtype_interval(UINT8)
    )


@operator("ConvInteger", versions=(10,), attributes=_ATTRIBUTES)
def lower_conv_integer(node: Node, context: Context) -> Value:
    """The accumulator alone."""
    x, w = node.input(0, "x"), node.input(1, "w", (UINT8,))
    x_zero = scalar_zero_point(node, 2, "x_zero_point", x.dtype)
    w_zero = common_zero_point(node, 3, "w_zero_point", w.dtype)
    return convolve(node, context, x, w, x_zero=x_zero, w_zero=w_zero, part="")


def _output_scales(node: Node, channels: int) -> NDArray[Any]:
    x_scale, y_scale = scalar_scale(node, 1, "x_scale"), scalar_scale(node, 6, "y_scale")
    w_scales = scale_array(node, 4, "w_scale")
    if w_scales.ndim > 1 or w_scales.size not in (1, channels):
        raise Refusal(f"w_scale has dims {list(w_scales.shape)}", "quantise per tensor or per channel")
    with np.errstate(over="ignore", under="ignore"):
        scales: NDArray[Any] = (x_scale * w_scales) / y_scale
    check_scales(scales, "x_scale · w_scale / y_scale")
    return scales


def _bias(node: Node, channels: int) -> NDArray[Any] | None:
    if node.optional(8) is None:
        return None
    bias = node.constant(8, "B", (INT32,))
    if bias.shape != (channels,):
        raise Refusal(f"B has dims {list(bias.shape)}, not [{channels}]", "correct the shape")
    return bias


def convolve(
    node: Node,
    context: Context,
    x: Value,
    w: Value,
    *,
    x_zero: int,
    w_zero: int,
    bias: NDArray[Any] | None = None,
    part: str = "accumulators",
) -> Value:
    """Σ (x − x_zero)(w − w_zero) as int32; the bias only counts toward the bound."""
    check_activations(x, "x")
    check_weights(w, "w")
    weights = w.array
    if weights is None:
        raise Refusal("w is computed, not constant", "store it as an initialiser")
    lead = () if x.batched else x.dims[:1]
    channels, sizes = _spatial(x, weights)
    group = int(node.attributes.get("group", 1))
    outputs, per_group = weights.shape[:2]
    if group < 1 or channels != per_group * group or outputs % group:
        raise Refusal(
            f"{channels} channels and w {list(weights.shape)} do not fit group {group}", "correct it"
        )
    window = read_window(node, sizes, weights.shape[2:])
    total = np.abs(weights.astype(np.int64) - w_zero).reshape(outputs, -1).sum(axis=1)
    reach = total * int(shifted(x, x_zero).magnitude)
    offset = 0 if bias is None else np.abs(bias.astype(np.int64))
    interval = check_accumulator(int(np.max(reach + offset)))
    groups = (group,) if group > 1 else ()
    domain = (*lead, *groups, outputs // group, *window.outputs)
    return context.emit(
        node,
        dtype=INT32,
        domain=domain,
        reduction=(per_group, *window.kernel),
        operands=_operands(context, (x, w), window, domain, pad=x_zero, group=group),
        expression=multiply_add(x_zero, w_zero),
        batched=x.batched,
        dims=(*lead, outputs, *window.outputs),
        interval=interval,
        part=part,
    )


def _spatial(x: Value, weights: NDArray[Any]) -> tuple[int, tuple[int, ...]]:
    if not 3 <= weights.ndim <= 5 or x.rank != weights.ndim:
        raise Refusal(
            f"x of rank {x.rank} and w of rank {weights.ndim} are no convolution", "use 1 to 3 spatial axes"
        )
    channels, *sizes = x.dims if x.batched else x.dims[1:]
    return channels, tuple(sizes)


def _operands(
    context: Context,
    tensors: tuple[Value, Value],
    window: Window,
    domain: tuple[int, ...],
    *,
    pad: int,
    group: int,
) -> list[Operand]:
    """Loop variables: [row], [group], channel in group, positions…, input channel in group, taps…"""
    x, w = tensors
    rank = len(window.sizes)
    channel = len(domain) - rank - 1
    inner = len(domain)
    per_group_in, per_group_out = w.dims[1], w.dims[0] // group
    spatial = [window.index(axis, channel + 1 + axis, inner + 1 + axis) for axis in range(rank)]
    taps = [forms.variable(inner + 1 + axis) for axis in range(rank)]
    read_channel, written = forms.variable(inner), forms.variable(channel)
    if group > 1:
        read_channel = forms.add(read_channel, forms.variable(channel - 1, per_group_in))
        written = forms.add(written, forms.variable(channel - 1, per_group_out))
    lead = [] if x.batched else [forms.variable(0)]
    bounds = window.bounds(spatial)
    return [
        context.operand(x, [*lead, read_channel, *spatial], pad=pad, bounds=bounds),
        context.operand(w, [written, forms.variable(inner), *taps]),
    ]
