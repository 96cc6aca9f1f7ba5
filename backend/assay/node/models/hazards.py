"""What ends ONNX Runtime's process, or keeps it for ever, on some requests only. Pure.

A file passes its first run on zeros and may still divide the least integer by −1, or call an operator with a
tensor of a rank, or of no elements, that the operator does not expect, once a request makes one. So whatever
decides about that must not depend on the request. Tried with onnxruntime 1.31.1, operator by operator.
"""

from __future__ import annotations

from typing import Final

import onnx
from onnx import numpy_helper

from assay.node.errors import ArtifactRefused
from assay.node.models.shapes import Facts

WEIGHTS: Final = {
    "Conv": (1,),
    "ConvTranspose": (1,),
    "ConvInteger": (1,),
    "QLinearConv": (3,),
    "STFT": (1, 2, 3),
}
"""Operands that must be the same whatever is asked."""
FILLED: Final = {
    "Attention": ((0, 4, (1,)), (1, 4, (1,)), (2, 4, (1,))),
    "ConvTranspose": ((0, 5, (2, 3, 4)),),
    "FeatureVectorizer": ((0, None, (0,)),),
    "GRU": ((0, None, (0, 1)),),
    "LSTM": ((0, None, (1,)),),
    "Unique": ((0, None, None),),
}
"""Operand, rank (None: any), axes (None: all) that must not be of length 0."""
SHAPED: Final = {"Reshape": 1, "Expand": 1, "ConstantOfShape": 0}
"""Which operand's length is the result's rank."""
SEQUENCES: Final = ("SequenceAt", "OptionalGetElement")
_DIVISIONS: Final = ("Div", "Mod")
_WIDE: Final = (onnx.TensorProto.INT32, onnx.TensorProto.INT64, onnx.TensorProto.UNDEFINED)


def check_hazards(model: onnx.ModelProto) -> None:
    """Of a model that passed the rules. Raises ArtifactRefused `hazard`, naming operator and node."""
    facts = Facts(model)
    for position, node in enumerate(model.graph.node):
        if not facts.is_fixed(node) and (problem := _problem(node, facts)):
            name = node.name or f"#{position}"
            raise ArtifactRefused(
                f"node {name} ({node.op_type}): {problem}; some request would end this node",
                code="hazard",
                operator=node.op_type,
                node=name,
            )
        facts.note(node)


def _problem(node: onnx.NodeProto, facts: Facts) -> str:
    """Empty: none."""
    inputs, operator = list(node.input), node.op_type
    if operator in _DIVISIONS:
        return _division(inputs, facts)
    if operator == "QLinearAveragePool" and any(
        one.name == "channels_last" and one.i for one in node.attribute
    ):
        return "channels_last is not taken; keep the channels in front"
    for i in WEIGHTS.get(operator, ()):
        if i < len(inputs) and inputs[i] not in facts.fixed:
            return f"its input {i} depends on the request; store it in the file"
    for i, rank, axes in FILLED.get(operator, ()):
        if i < len(inputs) and _may_be_empty(facts.dims(inputs[i]), rank, axes):
            return f"its input {i} may have no elements; declare how long its axes are"
    return _rank(node, inputs, facts)


def _division(inputs: list[str], facts: Facts) -> str:
    if inputs[0] in facts.sizes or not all(facts.dtype(name) in _WIDE for name in inputs):
        return ""
    divisor = facts.constants.get(inputs[-1])
    if divisor is not None and not (numpy_helper.to_array(divisor) == -1).any():
        return ""
    return "it divides integers by what may be -1; divide by a constant, or as floats"


def _may_be_empty(dims: list[int] | None, rank: int | None, axes: tuple[int, ...] | None) -> bool:
    if dims is None:
        return True
    if rank not in (None, len(dims)):
        return False
    return any(not dims[i] for i in (axes if axes is not None else range(len(dims))) if i < len(dims))


def _rank(node: onnx.NodeProto, inputs: list[str], facts: Facts) -> str:
    """Whether the request decides how many axes the result has."""
    operator = node.op_type
    changed = "the request decides how many axes its output has"
    if operator in SHAPED:
        shape = inputs[SHAPED[operator]] if SHAPED[operator] < len(inputs) else ""
        dims = facts.dims(shape)
        return "" if shape in facts.fixed or (dims and dims[0] > 0) else changed
    if operator in ("Squeeze", "Unsqueeze") or operator.startswith("Reduce"):
        if len(inputs) > 1 and inputs[1]:
            return "" if inputs[1] in facts.fixed else changed
        if operator == "Squeeze" and not any(one.name == "axes" for one in node.attribute):
            dims = facts.dims(inputs[0])
            return "" if dims is not None and all(dim > 0 for dim in dims) else changed
    if operator in SEQUENCES and not any(facts.dims(name) for name in node.output):
        return changed
    return ""
