"""MaxPool and ArgMax: folds by the greatest."""

from __future__ import annotations

from math import inf
from typing import Final

from assay.exact.assembler import Expression
from assay.exact.lowering import forms, ranges
from assay.exact.lowering.context import Context
from assay.exact.lowering.registry import Node, operator
from assay.exact.lowering.report import Refusal
from assay.exact.lowering.values import FLOAT, INT8, INT32, INT64, UINT8, Interval, Value, dtype_interval
from assay.exact.lowering.windows import Window, read_window

RANKED: Final = (FLOAT, UINT8, INT8, INT32, INT64)
"""What onnxruntime has ArgMax for."""
MINUS_INFINITY: Final = 0xFF800000
_LEAST_KEY: Final = -(1 << 63)
_SIGN: Final = 1 << 31


@operator(
    "MaxPool",
    versions=(8, 10, 11, 12, 22),
    attributes=("auto_pad", "ceil_mode", "dilations", "kernel_shape", "pads", "storage_order", "strides"),
)
def lower_max_pool(node: Node, context: Context) -> Value:
    """1 to 3 spatial axes. float32 only where no choice between −0 and +0 can arise."""
    x = node.input(0, "X", (FLOAT, UINT8, INT8) if node.version >= 12 else (FLOAT,))
    lead = 1 if x.batched else 2
    kernel = tuple(int(one) for one in node.attributes.get("kernel_shape", ()))
    if not 1 <= len(kernel) <= 3 or len(kernel) != len(x.dims) - lead:
        raise Refusal(f"kernel_shape {list(kernel)} does not fit {x.rank} axes", "pool over 1 to 3 axes")
    if x.dtype == FLOAT and (ranges.has_negative_zero(x) or x.interval.low == -inf):
        raise Refusal("it may choose between -0 and +0, which CPUs order differently", ranges.ZERO_CURE)
    if x.dtype != UINT8 and context.origin(x, "Pad"):
        raise Refusal(
            "onnxruntime takes a Pad before it into its own pads, which do not read 0",
            "pad by the attribute pads, or pool uint8",
        )
    window = read_window(node, x.dims[lead:], kernel, ceil=bool(node.attributes.get("ceil_mode", 0)))
    _check_window(window)
    domain = (*x.dims[:lead], *window.outputs)
    spatial = [window.index(axis, lead + axis, len(domain) + axis) for axis in range(len(kernel))]
    index = [*(forms.variable(axis) for axis in range(lead)), *spatial]
    least = MINUS_INFINITY if x.dtype == FLOAT else int(dtype_interval(x.dtype).low)
    pushed = Expression().acc().operand(0)
    return context.emit(
        node,
        dtype=x.dtype,
        domain=domain,
        reduction=kernel,
        operands=[context.operand(x, index, pad=least, bounds=window.bounds(spatial))],
        expression=pushed.fmax() if x.dtype == FLOAT else pushed.max(),
        init=least,
        batched=x.batched,
        interval=x.interval,
        dequantised=x.dequantised,
    )


def _check_window(window: Window) -> None:
    for axis, size in enumerate(window.sizes):
        if max(window.begins[axis], window.ends[axis]) >= window.kernel[axis]:
            raise Refusal("onnxruntime takes no pads as long as the kernel", "pad by less")
        for output in range(window.outputs[axis]):
            first = output * window.strides[axis] - window.begins[axis]
            step = window.dilations[axis]
            tap = max(0, -(first // step))  # the first that is not before the tensor
            if tap >= window.kernel[axis] or first + tap * step >= size:
                raise Refusal("a window lies in the padding alone", "pad by less")


@operator("ArgMax", versions=(1, 11, 12, 13), attributes=("axis", "keepdims", "select_last_index"))
def lower_arg_max(node: Node, context: Context) -> Value:
    """A fold by the greatest of `value · 2^bits + place`, then the place. −0 and +0 are equal."""
    data = node.input(0, "data", RANKED)
    axis = data.axis(int(node.attributes.get("axis", 0)))
    dim = data.dims[axis]
    bits = (dim - 1).bit_length()
    last = bool(node.attributes.get("select_last_index", 0))
    order, reach = _order(data)
    if reach << bits >= 1 << 63:
        raise Refusal("its values are too large to be ranked in one fold", "cast them to int32")
    kept = [one for one in range(len(data.dims)) if one != axis]
    index = [
        forms.variable(len(kept)) if one == axis else forms.variable(kept.index(one))
        for one in range(len(data.dims))
    ]
    place = Expression().var(len(kept)) if last else Expression().integer(dim - 1).var(len(kept)).sub()
    keys = context.emit(
        node,
        dtype=INT64,
        domain=[data.dims[one] for one in kept],
        reduction=(dim,),
        operands=[context.operand(data, index)],
        expression=Expression().acc().then(order).integer(bits).shl().then(place).add().max(),
        init=_LEAST_KEY,
        batched=data.batched,
        part="keys",
    )
    places = Expression().operand(0).integer((1 << bits) - 1).and_()
    if not last:
        places = Expression().integer(dim - 1).then(places).sub()
    found = context.elementwise(node, INT64, [keys], places, interval=Interval(0, dim - 1))
    if not node.attributes.get("keepdims", 1):
        return found
    shape = [1 if one == axis else extent for one, extent in enumerate(data.dims)]
    return context.reshape(node, found, shape)


def _order(data: Value) -> tuple[Expression, int]:
    """Operand 0 as an integer in the order of its values, and how large it can be."""
    pushed = Expression().operand(0)
    if data.dtype != FLOAT:
        return pushed, int(data.interval.magnitude)
    if data.dequantised and not data.interval.is_finite:
        raise Refusal(
            "it may rank infinities that onnxruntime ranks before dequantising", "use smaller scales"
        )
    mirrored = Expression().integer(_SIGN).operand(0).sub()
    return pushed.integer(_SIGN).lt().operand(0).then(mirrored).select(), _SIGN
