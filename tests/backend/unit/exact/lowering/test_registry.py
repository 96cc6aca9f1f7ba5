"""Operators and their definitions are all known, and unknown ones are named."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import onnx
import pytest
from assay.exact.lowering import check_model
from assay.exact.lowering.graph import OPSETS
from assay.exact.lowering.registry import REGISTRY
from onnx import helper

from tests.support.exactness import assert_refused, model, node

FEEDS = {"x": np.arange(12, dtype=np.uint8).reshape(3, 4)}


def known_definitions() -> dict[tuple[str, str], set[int]]:
    found: dict[tuple[str, str], set[int]] = defaultdict(set)
    for schema in onnx.defs.get_all_schemas_with_history():
        found[schema.domain, schema.name].add(schema.since_version)
    return found


@pytest.mark.parametrize("name", sorted(name for domain, name in REGISTRY if not domain))
def test_registry__definitions_of_onnx__are_all_listed(name: str) -> None:
    listed = REGISTRY["", name].versions
    first, last = max(min(listed), 1), OPSETS[""].stop - 1
    theirs = {version for version in known_definitions()["", name] if first <= version <= last}
    assert theirs == set(listed)


def test_registry__attributes_of_onnx__are_all_that_are_taken() -> None:
    for (domain, name), entry in REGISTRY.items():
        if not domain:
            versions = [onnx.defs.get_schema(name, version) for version in entry.versions]
            theirs = {attribute for schema in versions for attribute in schema.attributes}
            assert entry.attributes <= theirs, name


def test_check_model__unknown_operator__names_node_reason_and_cure() -> None:
    finding = assert_refused(model([node("Softmax", ["x"])], {"x": FEEDS["x"].astype(np.float32)}), "Softmax")
    assert finding.node == "/Softmax/y"
    assert finding.op_type == "Softmax"
    assert "quantise" in finding.cure


def test_check_model__several_faults__lists_each_node_once() -> None:
    nodes = [
        node("Softmax", ["x"], ["a"]),
        node("Relu", ["a"], ["b"]),
        node("Gelu", ["b"], ["c"]),
        node("Erf", ["x"]),
    ]
    report = check_model(model(nodes, {"x": FEEDS["x"].astype(np.float32)}))
    assert not report.is_exact
    assert [finding.op_type for finding in report.findings] == ["Softmax", "Gelu", "Erf"]


@pytest.mark.parametrize("domain", ["ai.onnx.ml", "com.example"])
def test_check_model__unknown_domain__refused(domain: str) -> None:
    assert_refused(model([node("Identity", ["x"], domain=domain)], FEEDS), repr(domain))


def test_check_model__dynamic_quantisation__refused() -> None:
    made = node("DynamicQuantizeLinear", ["x"], ["y", "s", "z"])
    assert_refused(model([made], {"x": FEEDS["x"].astype(np.float32)}), "DynamicQuantizeLinear")


@pytest.mark.parametrize("opset", [9, 26])
def test_check_model__operator_set_outside__refused(opset: int) -> None:
    report = check_model(model([node("Identity", ["x"])], FEEDS, opset=opset))
    assert "convert the model" in report.findings[0].cure


def test_check_model__control_flow__refused() -> None:
    branch = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["z"])], "branch", [], [helper.make_empty_tensor_value_info("z")]
    )
    made = node("If", ["c"], then_branch=branch, else_branch=branch)
    artifact = model([made], FEEDS, {"c": np.array(True)})
    assert_refused(artifact, "If")
