"""How much text a file may make of a request's: it is kept outside of the memory that a node limits. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import onnx

from assay.node.errors import ArtifactRefused
from assay.node.models.shapes import Facts

GROWING: Final = frozenset(
    (
        "ArrayFeatureExtractor",
        "Concat",
        "ConcatFromSequence",
        "Expand",
        "Gather",
        "GatherElements",
        "GatherND",
        "OneHot",
        "Pad",
        "Resize",
        "ScatterElements",
        "ScatterND",
        "StringConcat",
        "StringSplit",
        "Tile",
        "Where",
    )
)
"""What can make more text than it is given."""
MAX_LABEL: Final = 128
"""Bytes of a text of the file that a model may give once for each number that it is given."""
MAX_READERS: Final = 64
"""Nodes that take text: each may keep a copy of all of the request's."""
_ML: Final = "ai.onnx.ml"
_TEXT: Final = onnx.TensorProto.STRING


def check_text(model: onnx.ModelProto) -> None:
    """Raises ArtifactRefused `strings`, naming operator and node."""
    if not _has_text(model.graph):
        return
    facts, readers = Facts(model), 0
    for position, node in enumerate(model.graph.node):
        takes = any(facts.dtype(name) in (_TEXT, onnx.TensorProto.UNDEFINED) for name in node.input if name)
        readers += takes
        if node.op_type.startswith("String") or (takes and node.op_type in GROWING):
            raise _refused(
                node, position, "it may make any amount of text; do that before the model is asked"
            )
        if readers > MAX_READERS:
            raise _refused(node, position, f"more than {MAX_READERS} nodes take text")
        if node.domain == _ML and any(len(label) > MAX_LABEL for label in _labels(node)):
            raise _refused(node, position, f"it holds a text of more than {MAX_LABEL} bytes; give numbers")
        facts.note(node)


def _has_text(graph: onnx.GraphProto) -> bool:
    """Whether any tensor may be text: inputs, initializers, and what operators make of their attributes."""
    return (
        any(value.type.tensor_type.elem_type == _TEXT for value in graph.input)
        or any(tensor.data_type == _TEXT for tensor in graph.initializer)
        or any(_makes_text(node) for node in graph.node)
    )


def _makes_text(node: onnx.NodeProto) -> bool:
    if node.op_type == "Cast":
        return any(attribute.name == "to" and attribute.i == _TEXT for attribute in node.attribute)
    if node.op_type == "Constant":
        return any(
            attribute.s or attribute.strings or attribute.t.data_type == _TEXT for attribute in node.attribute
        )
    return node.domain == _ML and any(
        attribute.strings or attribute.t.data_type == _TEXT for attribute in node.attribute
    )


def _labels(node: onnx.NodeProto) -> Iterator[bytes]:
    for attribute in node.attribute:
        yield attribute.s
        yield from attribute.strings
        yield from attribute.t.string_data


def _refused(node: onnx.NodeProto, position: int, problem: str) -> ArtifactRefused:
    name = node.name or f"#{position}"
    return ArtifactRefused(
        f"node {name} ({node.op_type}): {problem}", code="strings", operator=node.op_type, node=name
    )
