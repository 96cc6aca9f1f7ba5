"""Operators that look at the same elements otherwise: views cost no kernel; a reshape may cost a copy."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Final

import numpy as np
from onnx import TensorProto

from assay.commitments.tensors import ONNX_TO_NUMPY
from assay.exact.lowering.context import Context
from assay.exact.lowering.graph import read_tensor
from assay.exact.lowering.registry import Node, operator
from assay.exact.lowering.report import Refusal
from assay.exact.lowering.values import FLOAT, INT32, INT64, Value, constant_value

_BATCH: Final = "leave the first axis as it is"
_STATIC: Final = "correct the shapes, or export with fixed ones"
_OPEN_END: Final = (1 << 31) - 1
"""From here on, an end of a slice stands for the whole axis."""


@operator("Identity", versions=(1, 13, 14, 16, 19, 21, 23, 24, 25))
def lower_identity(node: Node, context: Context) -> Value:
    return node.input(0, "input")


_PLAIN: Final = {"value_int": INT64, "value_ints": INT64, "value_float": FLOAT, "value_floats": FLOAT}


@operator("Constant", versions=(9, 11, 12, 13, 19, 21, 23, 24, 25), attributes=("value", *_PLAIN))
def lower_constant(node: Node, context: Context) -> Value:
    """As an initialiser: no kernel."""
    if len(node.attributes) != 1:
        raise Refusal("it has not exactly one value", "give it one, or use an initialiser")
    ((name, given),) = node.attributes.items()
    if isinstance(given, TensorProto):
        return read_tensor(given)
    return constant_value(np.asarray(given, ONNX_TO_NUMPY[_PLAIN[name]]), _PLAIN[name])


@operator("Reshape", versions=(5, 13, 14, 19, 21, 23, 24, 25), attributes=("allowzero",))
def lower_reshape(node: Node, context: Context) -> Value:
    """The batch axis must stay first: written as 0, or as −1 with all others fixed."""
    data = node.input(0, "data")
    wanted = [int(dim) for dim in node.constant(1, "shape", (INT64,)).reshape(-1)]
    copies = not node.attributes.get("allowzero", 0)
    if data.batched:
        if not wanted or not (wanted[0] == -1 or (wanted[0] == 0 and copies)):
            cure = "write the batch axis as 0, or as -1 with the others fixed"
            raise Refusal(f"shape {wanted} does not keep the batch axis", cure)
        return context.reshape(node, data, _fill(wanted[1:], data, copies, first=1))
    return context.reshape(node, data, _fill(wanted, data, copies, first=0))


def _fill(wanted: Sequence[int], data: Value, copies: bool, first: int) -> list[int]:
    """The wanted dims from ONNX axis `first` on, with zeros copied and −1 inferred."""
    dims = list(wanted)
    for position, dim in enumerate(wanted):
        if dim == 0 and copies:
            source = position + first - data.batched
            if not 0 <= source < len(data.dims):
                raise Refusal(f"shape {list(wanted)} copies an axis that is not there", _STATIC)
            dims[position] = data.dims[source]
    known = prod(dim for dim in dims if dim != -1)
    if dims.count(-1) == 1 and known and data.size % known == 0:
        dims[dims.index(-1)] = data.size // known
    if min(dims, default=1) < 0 or prod(dims) != data.size:
        raise Refusal(f"{data.size} elements do not fill the dims {list(wanted)}", _STATIC)
    return dims


@operator("Flatten", versions=(9, 11, 13, 21, 23, 24, 25), attributes=("axis",))
def lower_flatten(node: Node, context: Context) -> Value:
    data = node.input(0, "input")
    axis = int(node.attributes.get("axis", 1))
    axis += data.rank if axis < 0 else 0
    if not 0 <= axis <= data.rank:
        raise Refusal(f"axis {axis} is outside a tensor of rank {data.rank}", "correct the attribute")
    if not data.batched:
        return context.reshape(node, data, (prod(data.dims[:axis]), prod(data.dims[axis:])))
    if axis != 1:
        raise Refusal(f"axis {axis} merges the batch axis with another one", "flatten from axis 1")
    return context.reshape(node, data, (data.size,))


def _axes(node: Node, position: int, since: int) -> list[int] | None:
    """`axes`: an attribute before the definition of version `since`, a constant input from then on."""
    if node.version < since:
        given = node.attributes.get("axes")
        return None if given is None else [int(axis) for axis in given]
    if node.optional(position) is None:
        return None
    return [int(axis) for axis in node.constant(position, "axes", (INT64,)).reshape(-1)]


@operator("Squeeze", versions=(1, 11, 13, 21, 23, 24, 25), attributes=("axes",))
def lower_squeeze(node: Node, context: Context) -> Value:
    data = node.input(0, "data")
    axes = _axes(node, 1, since=13)
    if axes is None and data.batched:
        raise Refusal("without axes it would drop a batch axis of 1", "name the axes")
    if axes is None:
        dropped = {axis for axis, dim in enumerate(data.dims) if dim == 1}
    else:
        dropped = {data.axis(axis) for axis in axes}
    if any(data.dims[axis] != 1 for axis in dropped):
        raise Refusal("an axis that it drops is longer than 1", "correct the axes")
    kept = [axis for axis in range(len(data.dims)) if axis not in dropped]
    return data.with_view([data.dims[axis] for axis in kept], [data.strides[axis] for axis in kept])


@operator("Unsqueeze", versions=(1, 11, 13, 21, 23, 24, 25), attributes=("axes",))
def lower_unsqueeze(node: Node, context: Context) -> Value:
    data = node.input(0, "data")
    axes = _axes(node, 1, since=13)
    if axes is None:
        raise Refusal("axes are missing", "export the model again")
    rank = data.rank + len(axes)
    added = {axis + rank if axis < 0 else axis for axis in axes}
    if len(added) < len(axes) or not all(0 <= axis < rank for axis in added):
        raise Refusal(f"axes {axes} do not fit a tensor of rank {rank}", "correct the axes")
    if data.batched and 0 in added:
        raise Refusal("it puts an axis before the batch axis", _BATCH)
    pairs = iter(zip(data.dims, data.strides, strict=True))
    shown = [(1, 0) if axis in added else next(pairs) for axis in range(int(data.batched), rank)]
    return data.with_view([dim for dim, _ in shown], [stride for _, stride in shown])


@operator("Transpose", versions=(1, 13, 21, 23, 24, 25), attributes=("perm",))
def lower_transpose(node: Node, context: Context) -> Value:
    data = node.input(0, "data")
    order = [int(axis) for axis in node.attributes.get("perm", range(data.rank)[::-1])]
    if sorted(order) != list(range(data.rank)):
        raise Refusal(f"perm {order} does not fit a tensor of rank {data.rank}", "correct the attribute")
    if not data.batched:
        return data.transpose(order)
    if order[0]:
        raise Refusal("it moves the batch axis", _BATCH)
    return data.transpose([axis - 1 for axis in order[1:]])


@operator("Slice", versions=(10, 11, 13))
def lower_slice(node: Node, context: Context) -> Value:
    """Starts, ends, axes and steps are constants; steps may be negative."""
    data = node.input(0, "data")
    starts, ends = (_integers(node, position, what) for position, what in ((1, "starts"), (2, "ends")))
    axes = _integers(node, 3, "axes") if node.optional(3) else list(range(len(starts)))
    steps = _integers(node, 4, "steps") if node.optional(4) else [1] * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps):
        raise Refusal("starts, ends, axes and steps are not of one length", "correct the inputs")
    begins, strides, dims = [0] * len(data.dims), [1] * len(data.dims), list(data.dims)
    seen: set[int] = set()
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if data.batched and axis in (0, -data.rank) and (start, step) == (0, 1) and end >= _OPEN_END:
            continue
        place = data.axis(axis)
        if place in seen or step == 0:
            raise Refusal("an axis is sliced twice or with step 0", "correct the inputs")
        seen.add(place)
        chosen = range(data.dims[place])[slice(start, _end(end, data.dims[place], step), step)]
        begins[place], strides[place], dims[place] = chosen.start, step, len(chosen)
    if 0 in dims:
        raise Refusal("it leaves nothing", "correct the starts and ends")
    return data.slice(begins, strides, dims)


def _integers(node: Node, position: int, what: str) -> list[int]:
    return [int(one) for one in node.constant(position, what, (INT32, INT64)).reshape(-1)]


def _end(end: int, dim: int, step: int) -> int | None:
    """As Python's slices take it: beyond the front, a negative step goes through element 0."""
    return None if step < 0 and end < -dim else end
