"""Files made to break the lowering are refused like others: a report, never another exception."""

from __future__ import annotations

import random

import numpy as np
import onnx
import pytest
from assay.exact.lowering import check_model
from onnx import helper

from tests.support.exact_models import FACTORIES, random_case
from tests.support.random_networks import random_network

VALUES = (-1, 0, 1, 2**31, -(2**63), [], [-1], [0, 0], [2**62] * 4, "x", 0.5, [1.5], float("nan"))
NAMES = ("axis", "pads", "strides", "kernel_shape", "group", "dilations", "auto_pad", "alpha", "perm", "mode")


def _mutate(proto: onnx.ModelProto, source: random.Random) -> None:
    node = source.choice(proto.graph.node)
    kind = source.randrange(5)
    if kind == 0:
        value = source.choice(VALUES)
        kind_of = onnx.AttributeProto.INTS if value == [] else None
        attribute = helper.make_attribute(source.choice(NAMES), value, attr_type=kind_of)
        kept = [one for one in node.attribute if one.name != attribute.name]
        del node.attribute[:]
        node.attribute.extend([*kept, attribute])
    elif kind == 1 and node.input:
        node.input[source.randrange(len(node.input))] = source.choice(["", "x", "nothing"])
    elif kind == 2 and node.input:
        del node.input[source.randrange(len(node.input)) :]
    elif kind == 3 and proto.graph.initializer:
        tensor = source.choice(proto.graph.initializer)
        tensor.dims[:] = source.choice([[0], [1, 1, 1], [2**40], [-1], []])
    else:
        other = source.choice([*FACTORIES, "Reshape", "Transpose", "Concat", "Slice", "Pad", "Clip"])
        node.op_type = other


@pytest.mark.parametrize("seed", range(60))
def test_check_model__mutated_networks__reports(seed: int) -> None:
    source = random.Random(seed)
    case = random_network(seed) if seed % 2 else random_case(source.choice(list(FACTORIES)), seed)
    proto = onnx.load_from_string(case.artifact)
    for _ in range(source.randrange(1, 4)):
        _mutate(proto, source)
    report = check_model(proto.SerializeToString())
    assert report.is_exact != bool(report.findings)


@pytest.mark.parametrize("seed", range(40))
def test_check_model__changed_bytes__reports(seed: int) -> None:
    source = random.Random(seed)
    data = bytearray(random_network(seed).artifact)
    for _ in range(source.randrange(1, 6)):
        data[source.randrange(len(data))] = source.randrange(256)
    report = check_model(bytes(data))
    assert report.is_exact != bool(report.findings)


def test_check_model__pool_of_too_many_windows__refused() -> None:
    attributes = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    names = ["x", "s", "z", "s", "z"]
    made = helper.make_node("QLinearAveragePool", names, ["y"], domain="com.microsoft", **attributes)
    graph = helper.make_graph(
        [made],
        "test",
        [helper.make_tensor_value_info("x", 2, ["rows", 1, 30000, 30000])],
        [helper.make_empty_tensor_value_info("y")],
        [
            onnx.numpy_helper.from_array(np.array(0.1, np.float32), "s"),
            onnx.numpy_helper.from_array(np.array(0, np.uint8), "z"),
        ],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    report = check_model(helper.make_model(graph, opset_imports=opsets).SerializeToString())
    assert "too many to count" in report.findings[0].reason
