"""What an ONNX file may contain to be served. Pure: bytes in, a parsed model or a typed refusal out.

A file is hostile until it passed: operators only of known domains and only those that finish and repeat (no
control flow, no random numbers, no training), no data outside the file, no functions of its own, bounded size
and shapes.
"""

from __future__ import annotations

from math import prod
from typing import Final

import onnx
from google.protobuf.message import DecodeError

from assay.commitments.tensors import MAX_RANK, ONNX_TO_OIP
from assay.node.errors import ArtifactRefused
from assay.node.models.hazards import check_hazards
from assay.node.models.text_rules import check_text
from assay.types import TensorSpec

MAX_ARTIFACT: Final = 512 << 20
MAX_NODES: Final = 20_000
MAX_INITIALIZERS: Final = 80_000
MAX_ATTRIBUTES: Final = 256
"""Of one node, and of its inputs and outputs together ten times as many."""
MAX_VALUES: Final = 64
"""Inputs, and outputs."""
MAX_ELEMENTS: Final = 1 << 28
"""Elements of one tensor that the file declares."""

ONNX_DOMAINS: Final = frozenset(("", "ai.onnx"))
ML_DOMAIN: Final = "ai.onnx.ml"
QUANTISER_DOMAIN: Final = "com.microsoft"
QUANTISER_OPERATORS: Final = frozenset(
    (
        "DequantizeLinear",
        "QGemm",
        "QLinearAdd",
        "QLinearAveragePool",
        "QLinearConcat",
        "QLinearGlobalAveragePool",
        "QLinearLeakyRelu",
        "QLinearMul",
        "QLinearSigmoid",
        "QLinearSoftmax",
        "QLinearWhere",
        "QuantizeLinear",
    )
)
"""What onnxruntime's quantiser writes in QOperator form beyond ONNX's own operators."""
CONTROL_FLOW: Final = frozenset(("If", "Loop", "Scan", "SequenceMap"))
RANDOM: Final = frozenset(
    ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")
)
_SUBGRAPHS: Final = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)


def check_artifact(data: bytes) -> onnx.ModelProto:
    """The parsed model. Raises ArtifactRefused with the rule's code, naming operator and node."""
    if len(data) > MAX_ARTIFACT:
        raise ArtifactRefused(
            f"the file has {len(data)} bytes, at most {MAX_ARTIFACT} are taken", code="too_large"
        )
    try:
        model: onnx.ModelProto = onnx.ModelProto.FromString(data)
    except DecodeError:
        raise ArtifactRefused("the file is not an ONNX model: it does not parse", code="not_onnx") from None
    try:
        return _check_model(model)
    except UnicodeDecodeError:
        raise ArtifactRefused("a name in the file is not UTF-8", code="not_onnx") from None


def _check_model(model: onnx.ModelProto) -> onnx.ModelProto:
    if not model.graph.node or not model.opset_import:
        raise ArtifactRefused(
            "the file is not an ONNX model: it has no graph or no operator sets", code="not_onnx"
        )
    if model.functions:
        raise ArtifactRefused(
            f"the model defines functions of its own ({model.functions[0].name!r}); export it with them "
            f"inlined",
            code="functions",
        )
    if model.training_info:
        raise ArtifactRefused(
            "the model carries training information; export it for inference", code="training"
        )
    _check_graph(model.graph)
    check_text(model)
    check_hazards(model)
    return model


def graph_specs(model: onnx.ModelProto) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """(inputs, outputs) that a checked model declares; a dimension without a fixed size is -1."""
    initialised = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in initialised]
    return tuple(map(_declared, inputs)), tuple(map(_declared, model.graph.output))


def _declared(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim)
    return TensorSpec(value.name, ONNX_TO_OIP[tensor.elem_type], shape)


def _check_graph(graph: onnx.GraphProto) -> None:
    if len(graph.node) > MAX_NODES:
        raise ArtifactRefused(
            f"the graph has {len(graph.node)} nodes, at most {MAX_NODES} are taken", code="too_large"
        )
    if len(graph.initializer) > MAX_INITIALIZERS:
        raise ArtifactRefused(
            f"the graph has {len(graph.initializer)} initializers, at most {MAX_INITIALIZERS} are taken",
            code="too_large",
        )
    if graph.sparse_initializer:
        raise ArtifactRefused("the model has sparse initializers; store them densely", code="sparse")
    for tensor in graph.initializer:
        _check_tensor(tensor, "initializer")
    initialised = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in initialised]
    for kind, values in (("inputs", inputs), ("outputs", graph.output)):
        if not 1 <= len(values) <= MAX_VALUES:
            raise ArtifactRefused(
                f"the graph has {len(values)} {kind}; 1 to {MAX_VALUES} are taken", code="signature"
            )
        for value in values:
            _check_value(value)
    for position, node in enumerate(graph.node):
        _check_node(node, node.name or f"#{position}")


def _check_value(value: onnx.ValueInfoProto) -> None:
    tensor = value.type.tensor_type
    if value.type.WhichOneof("value") != "tensor_type" or tensor.elem_type not in ONNX_TO_OIP:
        raise ArtifactRefused(
            f"{value.name!r} is not a plain tensor of a known element type; inputs and outputs must be "
            "(for classifiers of scikit-learn, convert with zipmap off)",
            code="tensor_type",
        )
    dims = [dim.dim_value for dim in tensor.shape.dim if dim.HasField("dim_value")]
    if len(tensor.shape.dim) > MAX_RANK or any(dim < 1 for dim in dims) or prod(dims) > MAX_ELEMENTS:
        raise ArtifactRefused(
            f"{value.name!r} has a shape that is not served: rank at most {MAX_RANK}, fixed dimensions from "
            f"1, "
            f"at most {MAX_ELEMENTS} elements",
            code="shape",
        )


def _check_tensor(tensor: onnx.TensorProto, where: str, node: str = "") -> None:
    if tensor.external_data or tensor.data_location == onnx.TensorProto.EXTERNAL:
        raise ArtifactRefused(
            f"{where} {tensor.name!r} keeps its data outside the file; save the model as one file",
            code="external_data",
            node=node,
        )
    if any(dim < 0 for dim in tensor.dims) or prod(tensor.dims) > MAX_ELEMENTS:
        raise ArtifactRefused(
            f"{where} {tensor.name!r} declares dims {list(tensor.dims)[:16]}, at most {MAX_ELEMENTS} "
            f"elements are taken",
            code="shape",
            node=node,
        )


def _check_node(node: onnx.NodeProto, name: str) -> None:
    def refuse(problem: str, code: str) -> ArtifactRefused:
        operator = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        return ArtifactRefused(
            f"node {name} ({operator}): {problem}", code=code, operator=operator, node=name
        )

    if node.domain == QUANTISER_DOMAIN:
        if node.op_type not in QUANTISER_OPERATORS:
            raise refuse("of com.microsoft only the quantiser's operators are taken", "operator")
    elif node.domain not in ONNX_DOMAINS and node.domain != ML_DOMAIN:
        raise refuse("operators of this domain are not taken; use ONNX's own", "domain")
    if node.op_type in CONTROL_FLOW:
        raise refuse("control flow may never end; unroll it", "control_flow")
    if node.op_type in RANDOM:
        raise refuse("random numbers cannot be repeated by anybody who checks", "random")
    if node.op_type == "Dropout" and len(node.input) > 2 and node.input[2]:
        raise refuse("Dropout with a training mode draws random numbers; export for inference", "random")
    if len(node.attribute) > MAX_ATTRIBUTES or len(node.input) + len(node.output) > 10 * MAX_ATTRIBUTES:
        raise refuse("it has more attributes or tensors than any operator", "too_large")
    for attribute in node.attribute:
        if attribute.type in _SUBGRAPHS or attribute.HasField("g") or attribute.graphs:
            raise refuse(f"attribute {attribute.name!r} holds a graph", "control_flow")
        if attribute.sparse_tensors or attribute.HasField("sparse_tensor"):
            raise refuse(f"attribute {attribute.name!r} holds a sparse tensor", "sparse")
        for tensor in (attribute.t, *attribute.tensors):
            _check_tensor(tensor, f"node {name} attribute {attribute.name!r} tensor", name)
