"""Concat, Pad and Gather: kernels that copy elements from where affine maps, or constant indices, say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from assay.exact.assembler import Expression
from assay.exact.lowering import forms, ranges
from assay.exact.lowering.context import COPY, Context
from assay.exact.lowering.registry import Node, operator
from assay.exact.lowering.report import Refusal
from assay.exact.lowering.values import (
    BOOL,
    FLOAT,
    INT8,
    INT32,
    INT64,
    UINT8,
    UINT32,
    UINT64,
    Interval,
    Value,
    constant_value,
)
from assay.exact.program import MAX_BOUNDS, MAX_OPERANDS, Affine, Bound

PADDED: Final = (FLOAT, UINT8, INT8, INT32, INT64, BOOL, UINT32, UINT64)
"""What onnxruntime pads on a CPU."""
Read = tuple[Value, Affine, Bound]
"""A part of an axis: what is read, its index there as a form, and where it applies."""


@operator("Concat", versions=(4, 11, 13), attributes=("axis",))
def lower_concat(node: Node, context: Context) -> Value:
    values = [node.input(position, f"input {position}") for position in range(len(node.inputs))]
    return join(node, context, values, int(node.attributes.get("axis", 0)))


def join(node: Node, context: Context, values: Sequence[Value], onnx_axis: int) -> Value:
    """Any number of tensors along ONNX's axis. Refuses those that do not fit each other."""
    first = values[0]
    axis = first.axis(onnx_axis)
    for value in values:
        others = [
            (v.dims[:axis], v.dims[axis + 1 :], len(v.dims), v.batched, v.dtype) for v in (first, value)
        ]
        if others[0] != others[1]:
            raise Refusal(
                "its inputs differ in more than one axis, in dtype or in the batch axis", "align them"
            )
    values = [value for value in values if value.dims[axis]] or list(values[:1])
    while len(values) > 1:
        taken = values[:MAX_OPERANDS]
        values = [concatenate(node, context, taken, axis), *values[MAX_OPERANDS:]]
    return values[0]


def concatenate(node: Node, context: Context, values: Sequence[Value], axis: int) -> Value:
    """Up to MAX_OPERANDS tensors along an axis of `dims`, in one kernel."""
    reads: list[Read] = []
    offset = 0
    for value in values:
        form = forms.variable(axis, base=-offset)
        reads.append((value, form, Bound(form, value.dims[axis])))
        offset += value.dims[axis]
    return _join(node, context, reads, axis, offset)


def _join(node: Node, context: Context, reads: Sequence[Read], axis: int, extent: int) -> Value:
    """One kernel whose parts along an axis do not overlap: each reads 0 elsewhere, so it takes their sum."""
    first = reads[0][0]
    domain = (*first.dims[:axis], extent, *first.dims[axis + 1 :])
    operands = []
    expression = Expression()
    for position, (value, form, bound) in enumerate(reads):
        index = [form if one == axis else forms.variable(one) for one in range(len(domain))]
        operands.append(context.operand(value, index, bounds=(bound,)))
        expression = expression.operand(position)
        expression = expression.add() if position else expression
    values = [value for value, _, _ in reads]
    return context.emit(
        node,
        dtype=first.dtype,
        domain=domain,
        operands=operands,
        expression=expression,
        batched=first.batched,
        interval=ranges.union(values),
        dequantised=any(value.dequantised for value in values),
    )


@operator("Pad", versions=(2, 11, 13, 18, 19, 21, 23, 24, 25), attributes=("mode", "pads", "value"))
def lower_pad(node: Node, context: Context) -> Value:
    """Pads and their value are constants; negative pads (mode constant only) cut off."""
    data = node.input(0, "data", PADDED)
    begins, ends = _read_pads(node, data)
    mode = str(node.attributes.get("mode", "constant"))
    if mode == "constant":
        return _pad_constant(node, context, _cut(data, begins, ends), begins, ends)
    rule = _RULES.get(mode)
    if rule is None or min(begins + ends, default=0) < 0:
        raise Refusal(f"mode {mode!r} with pads {begins}, {ends}", "use a known mode and pads from 0")
    for axis, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        if begin or end:
            data = _join(node, context, rule(data, axis, begin, end), axis, data.dims[axis] + begin + end)
    return data


def _read_pads(node: Node, data: Value) -> tuple[list[int], list[int]]:
    """Elements before and after, for each axis of `dims`."""
    if node.version < 11:
        pads = [int(pad) for pad in node.attributes.get("pads", ())]
    else:
        pads = [int(pad) for pad in node.constant(1, "pads", (INT64,)).reshape(-1)]
    axes = list(range(data.rank))
    if node.optional(3) is not None:
        axes = [int(axis) for axis in node.constant(3, "axes", (INT32, INT64)).reshape(-1)]
    if len(pads) != 2 * len(axes):
        raise Refusal(f"pads {pads} do not fit {len(axes)} axes", "correct the pads")
    begins, ends = [0] * len(data.dims), [0] * len(data.dims)
    for axis, begin, end in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
        if begin or end:
            place = data.axis(axis)
            begins[place] += begin
            ends[place] += end
    return begins, ends


def _cut(data: Value, begins: list[int], ends: list[int]) -> Value:
    """Applies negative pads and sets them to 0."""
    starts = [max(0, -begin) for begin in begins]
    dims = [dim - start - max(0, -end) for dim, start, end in zip(data.dims, starts, ends, strict=True)]
    if min(dims, default=1) < 1:
        raise Refusal("negative pads cut the whole tensor off", "correct the pads")
    begins[:], ends[:] = [max(0, one) for one in begins], [max(0, one) for one in ends]
    return data.slice(starts, [1] * len(dims), dims)


def _pad_constant(
    node: Node, context: Context, data: Value, begins: Sequence[int], ends: Sequence[int]
) -> Value:
    fill, interval = _pad_value(node, data)
    padded = [axis for axis in range(len(data.dims)) if begins[axis] or ends[axis]]
    for chosen in (padded[start : start + MAX_BOUNDS] for start in range(0, len(padded), MAX_BOUNDS)):
        index = [
            forms.variable(axis, base=-begins[axis] if axis in chosen else 0)
            for axis in range(len(data.dims))
        ]
        dims = [
            dim + begins[axis] + ends[axis] if axis in chosen else dim for axis, dim in enumerate(data.dims)
        ]
        bounds = [Bound(index[axis], data.dims[axis]) for axis in chosen]
        data = context.emit(
            node,
            dtype=data.dtype,
            domain=dims,
            operands=[context.operand(data, index, pad=fill, bounds=bounds)],
            expression=COPY,
            batched=data.batched,
            interval=data.interval.union(interval),
            dequantised=data.dequantised,
        )
    return data


def _pad_value(node: Node, data: Value) -> tuple[int, Interval]:
    """The word that stands outside, and its interval."""
    if node.version < 11:
        filled = constant_value(np.array(node.floats("value", 0.0)), FLOAT)
    elif node.optional(2) is None:
        filled = constant_value(np.zeros(1), data.dtype)
    else:
        node.constant(2, "constant_value", (data.dtype,))
        filled = node.input(2, "constant_value")
    array = filled.array
    if array is None or array.size != 1:
        raise Refusal("constant_value is not one value", "store one value as an initialiser")
    word = array.reshape(-1).view(np.uint32)[0] if filled.dtype == FLOAT else array.reshape(-1)[0]
    signed = int(word) - (1 << 64 if int(word) >= 1 << 63 else 0)
    return signed, filled.interval


def _reflect(data: Value, axis: int, begin: int, end: int) -> list[Read]:
    dim = data.dims[axis]
    if max(begin, end) >= dim:
        raise Refusal("it reflects further than the axis is long", "pad by less")
    return _parts(
        data,
        axis,
        (begin, end),
        forms.variable(axis, -1, begin),
        forms.variable(axis, -1, begin + 2 * dim - 2),
    )


def _edge(data: Value, axis: int, begin: int, end: int) -> list[Read]:
    return _parts(data, axis, (begin, end), forms.constant(0), forms.constant(data.dims[axis] - 1))


def _wrap(data: Value, axis: int, begin: int, end: int) -> list[Read]:
    dim = data.dims[axis]
    if max(begin, end) > dim:
        raise Refusal("it wraps further than the axis is long", "pad by less")
    return _parts(
        data,
        axis,
        (begin, end),
        forms.variable(axis, base=dim - begin),
        forms.variable(axis, base=-begin - dim),
    )


_RULES: Final[dict[str, Callable[[Value, int, int, int], list[Read]]]] = {
    "reflect": _reflect,
    "edge": _edge,
    "wrap": _wrap,
}


def _parts(data: Value, axis: int, pads: tuple[int, int], before: Affine, after: Affine) -> list[Read]:
    """What stands before, in and after the tensor on one axis, each with its index form."""
    dim, (begin, end) = data.dims[axis], pads
    inside = forms.variable(axis, base=-begin)
    reads = [(data, inside, Bound(inside, dim))]
    if begin:
        reads.insert(0, (data, before, Bound(forms.variable(axis), begin)))
    if end:
        reads.append((data, after, Bound(forms.variable(axis, base=-begin - dim), end)))
    return reads


@operator("Gather", versions=(1, 11, 13), attributes=("axis",))
def lower_gather(node: Node, context: Context) -> Value:
    """Constant indices: a view where they step evenly, else a look-up. Computed ones must be inside."""
    data, indices = node.input(0, "data"), node.input(1, "indices", (INT32, INT64))
    axis = data.axis(int(node.attributes.get("axis", 0)))
    dim = data.dims[axis]
    inside = -dim <= indices.interval.low and indices.interval.high < dim
    if not inside or (indices.array is None and indices.interval.low < 0):
        raise Refusal("an index may be outside the axis, where onnxruntime stops", "bound the indices")
    if indices.array is None:
        if data.batched or (indices.batched and axis):
            raise Refusal(
                "its indices are computed for a tensor that has rows of its own", "make indices constant"
            )
        return _look_up(node, context, data, indices, axis)
    chosen = np.where(indices.array < 0, indices.array + dim, indices.array).astype(np.int64)
    view = _even_view(data, chosen.reshape(-1), axis)
    if view is None:
        return _look_up(node, context, data, constant_value(chosen, INT64), axis)
    return context.reshape(node, view, (*data.dims[:axis], *chosen.shape, *data.dims[axis + 1 :]))


def _even_view(
    data: Value, chosen: np.ndarray[tuple[int, ...], np.dtype[np.int64]], axis: int
) -> Value | None:
    """The slice that takes these indices of the axis; None where they do not step evenly."""
    steps = np.unique(np.diff(chosen))
    if not chosen.size or steps.size > 1:
        return None
    starts, strides, dims = [0] * len(data.dims), [1] * len(data.dims), list(data.dims)
    starts[axis], dims[axis] = int(chosen[0]), chosen.size
    strides[axis] = int(steps[0]) if steps.size else 1
    return data.slice(starts, strides, dims)


def _look_up(node: Node, context: Context, data: Value, indices: Value, axis: int) -> Value:
    """One element of `indices` an output element says which element of the axis is read."""
    dims = (*data.dims[:axis], *indices.dims, *data.dims[axis + 1 :])
    where = [forms.variable(axis + one) for one in range(len(indices.dims))]
    outer = [forms.variable(one) for one in range(axis)]
    inner = [forms.variable(one) for one in range(axis + len(indices.dims), len(dims))]
    flat = data.form([*outer, forms.constant(0), *inner])
    return context.emit(
        node,
        dtype=data.dtype,
        domain=dims,
        operands=[
            context.operand(indices, where),
            context.flat_operand(data, flat, indirect=(0, data.strides[axis])),
        ],
        expression=Expression().operand(1),
        batched=data.batched or indices.batched,
        interval=data.interval,
        dequantised=data.dequantised,
    )
