"""An ONNX file as the lowering sees it: nodes, constants, inputs and outputs, in the file's order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, TensorProto, numpy_helper

from assay.exact.lowering.report import Finding, Refusal
from assay.exact.lowering.values import DTYPES, Value, constant_value, dtype_name
from assay.exact.program import MAX_RANK, MAX_SIGNATURE

DEFAULT_DOMAIN: Final = ""
MICROSOFT: Final = "com.microsoft"
OPSETS: Final[Mapping[str, range]] = {DEFAULT_DOMAIN: range(10, 26), MICROSOFT: range(1, 2)}
"""Versions of operator sets whose operators were examined; later ones may define them anew."""
MAX_NODES: Final = 20_000
Dims = tuple[int | str, ...]


@dataclass(frozen=True)
class RawNode:
    """One node, with names for tensors; `name` is never empty."""

    name: str
    op_type: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, AttributeProto]


@dataclass(frozen=True)
class TensorInfo:
    """A declared input or output; a dim that is not fixed is its name, perhaps empty. dims None:
    undeclared."""

    name: str
    dtype: int
    dims: Dims | None


@dataclass(frozen=True)
class Graph:
    opsets: Mapping[str, int]
    nodes: tuple[RawNode, ...]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    constants: Mapping[str, Value]
    unreadable: frozenset[str]
    """Initialisers with a finding of their own."""
    batched: bool


def whole_file(reason: str, cure: str) -> Finding:
    return Finding("", "", reason, cure)


def parse_model(artifact: bytes) -> onnx.ModelProto:
    """Raises Refusal where the bytes are no ONNX model that could be in the profile at all."""
    try:
        model: onnx.ModelProto = onnx.ModelProto.FromString(artifact)
    except DecodeError:
        raise Refusal("the file is not an ONNX model: it does not parse", "give an ONNX file") from None
    graph = model.graph
    if not graph.node or not graph.output:
        raise Refusal("the graph is empty", "give an ONNX file with nodes and outputs")
    if model.functions:
        raise Refusal("the model defines functions of its own", "export it with functions inlined")
    if model.training_info:
        raise Refusal("the model carries training information", "export it for inference")
    if graph.sparse_initializer:
        raise Refusal("the model has sparse initialisers", "store them densely")
    if len(graph.node) > MAX_NODES:
        raise Refusal(f"the graph has {len(graph.node)} nodes, at most {MAX_NODES} are taken", "split it")
    return model


def read_graph(model: onnx.ModelProto) -> tuple[Graph, list[Finding]]:
    """The graph, and findings about what stands outside its nodes."""
    findings: list[Finding] = []
    opsets = _read_opsets(model, findings)
    constants, unreadable = _read_constants(model.graph, findings)
    given = constants.keys() | unreadable
    inputs = tuple(_tensor_info(value) for value in model.graph.input if value.name not in given)
    outputs = tuple(_tensor_info(value) for value in model.graph.output)
    batched = _check_signature(inputs, outputs, findings)
    nodes = tuple(_read_node(node, position) for position, node in enumerate(model.graph.node))
    return Graph(opsets, nodes, inputs, outputs, constants, unreadable, batched), findings


def _read_opsets(model: onnx.ModelProto, findings: list[Finding]) -> dict[str, int]:
    opsets: dict[str, int] = {}
    for entry in model.opset_import:
        domain = DEFAULT_DOMAIN if entry.domain == "ai.onnx" else entry.domain
        if domain in opsets:
            findings.append(whole_file(f"operator set {domain!r} is imported twice", "import it once"))
        opsets[domain] = entry.version
    version = opsets.get(DEFAULT_DOMAIN, OPSETS[DEFAULT_DOMAIN].start)
    if version not in OPSETS[DEFAULT_DOMAIN]:
        first, last = OPSETS[DEFAULT_DOMAIN].start, OPSETS[DEFAULT_DOMAIN].stop - 1
        cure = f"convert the model to one of {first} to {last} (onnx.version_converter)"
        findings.append(whole_file(f"ONNX operator set {version} is not examined", cure))
    return opsets


def _read_constants(
    graph: onnx.GraphProto, findings: list[Finding]
) -> tuple[dict[str, Value], frozenset[str]]:
    constants: dict[str, Value] = {}
    unreadable = set()
    for tensor in graph.initializer:
        try:
            constants[tensor.name] = read_tensor(tensor)
        except Refusal as refusal:
            unreadable.add(tensor.name)
            reason = f"initialiser {tensor.name!r}: {refusal.reason}"
            findings.append(whole_file(reason, refusal.cure))
    return constants, frozenset(unreadable)


def read_tensor(tensor: TensorProto) -> Value:
    """A stored tensor's values. Raises Refusal."""
    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        raise Refusal("its data is outside the file", "save the model with its data inside")
    if tensor.data_type not in DTYPES:
        raise Refusal(f"{dtype_name(tensor.data_type)} is not in the profile", "use another element type")
    try:
        array = numpy_helper.to_array(tensor)
    except (ValueError, TypeError) as error:
        raise Refusal(f"its data does not fill its dims ({error})", "save the model again") from None
    return constant_value(array, tensor.data_type)


def _tensor_info(value: onnx.ValueInfoProto) -> TensorInfo:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return TensorInfo(value.name, tensor.elem_type, None)
    dims = tuple(d.dim_value if d.HasField("dim_value") else str(d.dim_param) for d in tensor.shape.dim)
    return TensorInfo(value.name, tensor.elem_type, dims)


def _check_signature(
    inputs: tuple[TensorInfo, ...], outputs: tuple[TensorInfo, ...], findings: list[Finding]
) -> bool:
    """Whether the program is batched: each input's first dim, and no other one, is open."""
    for kind, values in (("inputs", inputs), ("outputs", outputs)):
        if not 1 <= len(values) <= MAX_SIGNATURE:
            reason = f"the model has {len(values)} {kind}; 1 to {MAX_SIGNATURE} are taken"
            findings.append(whole_file(reason, "split the model"))
    if len({value.name for value in outputs}) < len(outputs):
        findings.append(whole_file("an output is named twice", "name each output once"))
    for value in inputs:
        findings += [whole_file(f"input {value.name!r}: {why}", cure) for why, cure in _input_faults(value)]
    opens = [str(value.dims[0]) for value in inputs if value.dims and isinstance(value.dims[0], str)]
    if opens and len(opens) < len(inputs):
        cure = "give every input the batch axis, or none"
        findings.append(whole_file("some inputs have a batch axis and others have not", cure))
    if len(inputs) > 1 and opens and (len(set(opens)) > 1 or not opens[0]):
        cure = "give the first dim of all inputs the same name"
        findings.append(whole_file("the inputs' batch axes need not be equal", cure))
    return bool(opens)


def _input_faults(value: TensorInfo) -> list[tuple[str, str]]:
    if value.dtype not in DTYPES:
        return [(f"{dtype_name(value.dtype)} is not in the profile", "use another element type")]
    if value.dims is None:
        return [("its shape is not declared", "declare it; only the first dim may be open")]
    faults = []
    if any(isinstance(dim, str) for dim in value.dims[1:]):
        faults.append(("a dim other than the first is open", "fix every dim but the batch axis"))
    if any(isinstance(dim, int) and dim < 1 for dim in value.dims):
        faults.append(("a dim is zero", "fix dims to at least 1"))
    if len(value.dims) > MAX_RANK:
        faults.append((f"its rank is above {MAX_RANK}", "use fewer axes"))
    return faults


def _read_node(node: onnx.NodeProto, position: int) -> RawNode:
    return RawNode(
        name=node.name or f"#{position}",
        op_type=node.op_type,
        domain=DEFAULT_DOMAIN if node.domain == "ai.onnx" else node.domain,
        inputs=tuple(node.input),
        outputs=tuple(node.output),
        attributes={attribute.name: attribute for attribute in node.attribute},
    )


def attribute_value(attribute: AttributeProto) -> Any:
    """A plain attribute: int, float, str, tuple of them, or a TensorProto. Raises Refusal."""
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, list | tuple):
        return tuple(item.decode() if isinstance(item, bytes) else item for item in value)
    if hasattr(value, "FromString") and not isinstance(value, TensorProto):
        raise Refusal(f"attribute {attribute.name!r} is a graph or type", "export without control flow")
    if isinstance(value, list | tuple) or attribute.ref_attr_name:
        raise Refusal(f"attribute {attribute.name!r} refers to a function's", "inline functions")
    return value
