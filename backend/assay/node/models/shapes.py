"""What a graph says of its tensors' types and shapes, node by node, whatever the file claims of them. Pure.

Source: ONNX's own inference of one node, and beside it the lengths of axes that a graph computes with.
"""

from __future__ import annotations

from itertools import chain, islice
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, TypeProto, numpy_helper

from assay.node.errors import ArtifactRefused

MAX_SMALL: Final = 4096
"""Bytes of constants whose values are looked at."""
MAX_LENGTHS: Final = 1024
"""Of axes, that one tensor is followed for: no shape has as many."""
UNKNOWN, FILLED = 0, -1
"""Lengths of an axis: any, 0 as well; any but 0, since it is a request's."""
_DATA: Final = {
    "Concat": None,
    "Cast": 1,
    "Gather": 1,
    "Identity": 1,
    "Slice": 1,
    "Squeeze": 1,
    "Unsqueeze": 1,
}
"""Operators that hand lengths on, and how many of their inputs are such."""
_ALIKE: Final = {
    "QGemm": ("Gemm", (0, 3)),
    "QLinearAdd": ("Add", (0, 3)),
    "QLinearAveragePool": ("AveragePool", (0,)),
    "QLinearGlobalAveragePool": ("GlobalAveragePool", (0,)),
    "QLinearLeakyRelu": ("Identity", (0,)),
    "QLinearMul": ("Mul", (0, 3)),
    "QLinearSigmoid": ("Identity", (0,)),
    "QLinearSoftmax": ("Identity", (0,)),
    "QLinearWhere": ("Where", (0, 1, 4)),
}
"""ONNX's operators that give the same shapes as the quantiser's, which ONNX knows nothing of."""


class Facts:
    """Of tensors by name, as far as `note` was told of nodes. `fixed`: the same for all requests;
    `constants`: those that the file holds. `lengths`: of tensors that hold lengths of axes, which; `sizes`:
    tensors that hold nothing else, so that none is negative."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self._made: set[str] = set()
        for tensor in graph.initializer:
            if tensor.name in self._made:
                raise _made_twice(tensor.name)
            self._made.add(tensor.name)
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.fixed = {"", *self.constants}
        self.lengths: dict[str, list[int]] = {}
        self.sizes: set[str] = set()
        self._types = {tensor.name: _type_of(tensor) for tensor in graph.initializer}
        self._opsets = {("" if one.domain == "ai.onnx" else one.domain): one for one in model.opset_import}
        self._named = {dim.dim_param for one in graph.input for dim in one.type.tensor_type.shape.dim} - {""}
        self._types |= {one.name: one.type for one in graph.input if one.name not in self.constants}
        self._small = {tensor.name: tensor for tensor in graph.initializer if tensor.ByteSize() <= MAX_SMALL}

    def is_fixed(self, node: onnx.NodeProto) -> bool:
        return self.fixed.issuperset(node.input)

    def dtype(self, name: str) -> int:
        found = self._types.get(name)
        return found.tensor_type.elem_type if found else TensorProto.UNDEFINED

    def dims(self, name: str) -> list[int] | None:
        """A length of each axis, UNKNOWN or FILLED; None: not even the rank is known."""
        found = self._types.get(name)
        if found is None or not found.tensor_type.HasField("shape"):
            return None
        return [
            dim.dim_value
            if dim.HasField("dim_value")
            else (FILLED if dim.dim_param in self._named else UNKNOWN)
            for dim in found.tensor_type.shape.dim
        ]

    def note(self, node: onnx.NodeProto) -> None:
        """What the node makes. Raises ArtifactRefused `load_failed` if something else has made it."""
        if made := self._made.intersection(node.output):
            raise _made_twice(min(made))
        self._made.update(filter(None, node.output))
        if not node.output:
            return
        if self.is_fixed(node):
            self.fixed.update(node.output)
        if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
            tensor = node.attribute[0].t
            self.constants[node.output[0]] = tensor
            if tensor.ByteSize() <= MAX_SMALL:
                self._small[node.output[0]] = tensor
        self._types.update(self._infer(node))
        if node.op_type in ("Reshape", "Expand", "ConstantOfShape") and node.input:
            self._shape_by_value(node)
        lengths = self._lengths_of(node)
        if lengths is not None:
            self.lengths[node.output[0]] = lengths
            if node.op_type in ("Shape", "Size") or self.sizes.issuperset(node.input[: _DATA[node.op_type]]):
                self.sizes.add(node.output[0])

    def values(self, name: str) -> list[int] | None:
        """Of a small constant of integers."""
        tensor = self._small.get(name)
        if tensor is None or tensor.data_type not in (TensorProto.INT64, TensorProto.INT32):
            return None
        return [int(one) for one in np.asarray(numpy_helper.to_array(tensor)).reshape(-1)]

    def _infer(self, node: onnx.NodeProto) -> dict[str, TypeProto]:
        same = _alike(node)
        opset = self._opsets.get("" if same.domain == "ai.onnx" else same.domain)
        known = {name: self._types[name] for name in same.input if name in self._types}
        try:
            if opset is None:
                return {}
            schema = onnx.defs.get_schema(same.op_type, opset.version, opset.domain)
            small = {name: self._small[name] for name in same.input if name in self._small}
            opsets = list(self._opsets.values())
            found = onnx.shape_inference.infer_node_outputs(schema, same, known, small, None, opsets)
            return {name: kind for name, kind in found.items() if name}
        except Exception:  # it is C++ on a stranger's file; what is not known is an obstacle
            return {}

    def _shape_by_value(self, node: onnx.NodeProto) -> None:
        """Where the shape is a tensor of known length, though not of known values."""
        name, made = node.input[-1], self._types.setdefault(node.output[0], TypeProto())
        count, given = self.dims(name), self.dims(node.input[0])
        if any(self.dims(node.output[0]) or ()) or not count or count[0] < 1 or len(count) > 1:
            return
        wanted = [UNKNOWN] * count[0]
        if node.op_type == "Expand":
            wanted = [UNKNOWN] * max(count[0], len(given)) if given is not None else []
        elif len(self.lengths.get(name, ())) == count[0]:
            wanted = self.lengths[name]
        if not made.tensor_type.elem_type and node.op_type != "ConstantOfShape":
            made.tensor_type.elem_type = self.dtype(node.input[0])
        if wanted:
            made.tensor_type.ClearField("shape")
        for length in wanted:
            dim = made.tensor_type.shape.dim.add()
            if length > 0:
                dim.dim_value = length
            elif length == FILLED:
                dim.dim_param = min(self._named)

    def _lengths_of(self, node: onnx.NodeProto) -> list[int] | None:
        operator, first = node.op_type, node.input[0] if node.input else ""
        if operator == "Shape" and not node.attribute:
            return self.dims(first)
        if operator == "Size":
            return [UNKNOWN]
        if operator == "Concat":
            joined = list(islice(chain.from_iterable(map(self._joined, node.input)), MAX_LENGTHS + 1))
            return joined if len(joined) <= MAX_LENGTHS else None
        known = self.lengths.get(first)
        if known is None or operator not in _DATA:
            return None
        if operator == "Cast" and not any(
            one.name == "to" and one.i == TensorProto.INT64 for one in node.attribute
        ):
            return None
        return self._picked(node, known) if operator in ("Gather", "Slice") else known

    def _joined(self, name: str) -> list[int]:
        """Of constants, those that are lengths: the −1 of Reshape is none."""
        values, dims = self.values(name), self.dims(name)
        if values is not None:
            return [max(one, UNKNOWN) for one in values]
        return self.lengths.get(name) or [UNKNOWN] * min(max(dims[0], 1) if dims else 1, MAX_LENGTHS + 1)

    def _picked(self, node: onnx.NodeProto, known: list[int]) -> list[int]:
        if node.op_type == "Gather":
            at = self.values(node.input[1]) if len(node.input) > 1 else None
            if at is not None and all(-len(known) <= one < len(known) for one in at):
                return [known[one] for one in at]
            return [UNKNOWN] * max(len(at or known), 1)
        bounds = [self.values(name) for name in node.input[1:]]
        if len(bounds) in (2, 3) and all(one is not None and len(one) == 1 for one in bounds):
            return known[slice(bounds[0][0], bounds[1][0])]  # type: ignore[index]
        return [UNKNOWN] * len(known)


def _made_twice(name: str) -> ArtifactRefused:
    return ArtifactRefused(f"the tensor {name!r} is made twice", code="load_failed")


def _type_of(tensor: TensorProto) -> TypeProto:
    return onnx.helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))


def _alike(node: onnx.NodeProto) -> onnx.NodeProto:
    if node.domain != "com.microsoft":
        return node
    same = onnx.NodeProto(op_type=node.op_type, output=node.output[:1], attribute=node.attribute)
    if node.op_type == "QLinearConcat":
        same.op_type = "Concat"
        same.input.extend(node.input[2::3])
    elif node.op_type in _ALIKE:
        same.op_type, kept = _ALIKE[node.op_type]
        same.input.extend(name for i, name in enumerate(node.input) if i in kept)
    else:
        same.input.extend(node.input)
    return same
