"""Whether a model's graph computes every row by itself, so that requests may be joined along the first axis.
Pure.

A walk over the nodes says of each value whether it is *rows* (its first axis is the requests' rows, and row i
depends on row i of the inputs alone) or *constant* (the same whatever the inputs are). Operators are allowed
one by one, with what must hold of their attributes and inputs; whatever is not listed, or not known, is an
obstacle. Source: ONNX's operator definitions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

from assay.node.engines.row_places import check_places
from assay.node.engines.row_rules import MAX_SMALL, RULES, Node, Obstacle, Value, keep_small


def find_obstacle(model: onnx.ModelProto, threads: int = 1) -> str:
    """Why rows may depend on one another, naming the node; empty: they do not. `threads`: of one run."""
    graph = model.graph
    shapes, dtypes = _known_types(model)
    values: dict[str, Value] = {}
    small: dict[str, Any] = {}
    for tensor in graph.initializer:
        values[tensor.name] = Value(False, tuple(tensor.dims))
        keep_small(tensor, tensor.name, small)
    for port in graph.input:
        if port.name not in values:
            values[port.name] = Value(True, shapes.get(port.name))
    if found := _ports_obstacle(graph):
        return found
    opset = max((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), default=0)
    for position, node in enumerate(graph.node):
        try:
            _walk(
                Node(node, opset, values, small), shapes, dtypes.get(next(iter(node.input), ""), 0), threads
            )
        except Obstacle as obstacle:
            return f"node {node.name or f'#{position}'} ({node.op_type}) {obstacle}"
    for port in graph.output:
        if port.name not in values or not values[port.name].is_rows:
            return f"output {port.name!r} does not come row by row from the inputs"
    return ""


def _ports_obstacle(graph: onnx.GraphProto) -> str:
    initialised = {tensor.name for tensor in graph.initializer}
    names = set()
    for port in (*graph.input, *graph.output):
        if port.name in initialised:
            continue
        dims = port.type.tensor_type.shape.dim
        if not dims or dims[0].HasField("dim_value"):
            return f"{port.name!r} has not a first dimension of any size"
        names.add(dims[0].dim_param)
        if dims[0].dim_param and dims[0].dim_param in [dim.dim_param for dim in dims[1:]]:
            return f"{port.name!r} has its number of rows as another dimension, too"
    others = {
        dim.dim_param for port in graph.input for dim in port.type.tensor_type.shape.dim[1:] if dim.dim_param
    }
    if both := names & others - {""}:
        return f"dimension {min(both)!r} is the rows of one tensor and another axis of one"
    return ""


def _known_types(model: onnx.ModelProto) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """Dims and types by ONNX's shape inference, on a copy without the weights' data."""
    light = onnx.ModelProto()
    _copy_light(model, light)
    try:
        inferred = onnx.shape_inference.infer_shapes(light).graph
    except Exception:  # it is C++ on a stranger's file; without shapes there are more obstacles
        inferred = light.graph
    known, dtypes = {}, {}
    for port in (*inferred.input, *inferred.value_info, *inferred.output):
        shape = port.type.tensor_type
        dtypes[port.name] = shape.elem_type
        if shape.HasField("shape"):
            known[port.name] = tuple(
                dim.dim_value if dim.HasField("dim_value") else -1 for dim in shape.shape.dim
            )
    return known, dtypes


def _copy_light(model: onnx.ModelProto, light: onnx.ModelProto) -> None:
    light.ir_version = model.ir_version
    light.opset_import.extend(model.opset_import)
    graph = light.graph
    graph.name = model.graph.name
    for node in model.graph.node:
        if not any(attribute.t.ByteSize() > MAX_SMALL for attribute in node.attribute):
            graph.node.append(node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    for tensor in model.graph.initializer:
        if tensor.ByteSize() <= MAX_SMALL:
            graph.initializer.append(tensor)
        else:
            graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )


def _walk(node: Node, shapes: Mapping[str, tuple[int, ...]], dtype: int, threads: int) -> None:
    """Raises Obstacle."""
    proto = node.proto
    is_rows = any(value is not None and value.is_rows for value in node.inputs)
    if is_rows:
        rule = RULES.get((domain_of(proto), proto.op_type))
        if rule is None:
            raise Obstacle("is not known to compute each row by itself")
        rule(node)
        check_places(node, dtype, threads)
    elif proto.op_type == "Constant" and "value" in node.attributes:
        keep_small(node.attributes["value"], proto.output[0], node.small)
    elif proto.op_type == "Constant":
        for name in ("value_int", "value_ints", "value_float", "value_floats"):
            if name in node.attributes:
                node.small[proto.output[0]] = np.asarray(node.attributes[name])
    for name in proto.output:
        if name in node.values:
            raise Obstacle(f"writes {name!r} anew")
        node.values[name] = Value(is_rows, shapes.get(name))


def domain_of(node: onnx.NodeProto) -> str:
    return "" if node.domain == "ai.onnx" else node.domain
