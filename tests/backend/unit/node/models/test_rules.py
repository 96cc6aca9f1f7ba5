"""Hostile ONNX files are refused by rule and by name; honest ones pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from assay.node.errors import ArtifactRefused
from assay.node.models.rules import QUANTISER_OPERATORS, check_artifact
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from tests.support import onnx_models
from tests.support.onnx_models import build_model, tensor, value

X, Y = value("x", [1]), value("y", [1])
IDENTITY = helper.make_node("Identity", ["x"], ["y"])


def model_of(*nodes: onnx.NodeProto, initializers: tuple[onnx.TensorProto, ...] = ()) -> onnx.ModelProto:
    return build_model(nodes, [X], [Y], initializers)


def loop_model() -> onnx.ModelProto:
    """Iterates 2^62 times."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["c2"]), helper.make_node("Identity", ["v"], ["v2"])],
        "body",
        [value("i", [], TensorProto.INT64), value("c", [], TensorProto.BOOL), value("v", [1])],
        [value("c2", [], TensorProto.BOOL), value("v2", [1])],
    )
    node = helper.make_node("Loop", ["n", "t", "x"], ["y"], name="for_ever", body=body)
    return model_of(node, initializers=(tensor("n", np.int64(1 << 62)), tensor("t", np.bool_(True))))


def if_model() -> onnx.ModelProto:
    branch = helper.make_graph(
        [helper.make_node("Constant", [], ["z"], value_floats=[1.0])], "b", [], [value("z", [1])]
    )
    node = helper.make_node("If", ["t"], ["y"], then_branch=branch, else_branch=branch)
    return model_of(node, initializers=(tensor("t", np.bool_(True)),))


def disguised_graph_model() -> onnx.ModelProto:
    """A harmless operator with a graph attribute whose declared type is another."""
    node = helper.make_node("Identity", ["x"], ["y"])
    attribute = node.attribute.add(name="hidden", type=onnx.AttributeProto.INT)
    attribute.g.CopyFrom(loop_model().graph)
    return model_of(node)


def external_model() -> onnx.ModelProto:
    weights = tensor("w", np.ones(1, np.float32))
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="/etc/passwd")
    return model_of(helper.make_node("Add", ["x", "w"], ["y"]), initializers=(weights,))


def external_constant_model() -> onnx.ModelProto:
    weights = tensor("w", np.ones(1, np.float32))
    weights.external_data.add(key="location", value="../../secret")
    return model_of(
        helper.make_node("Constant", [], ["w"], value=weights), helper.make_node("Add", ["x", "w"], ["y"])
    )


def custom_domain_model() -> onnx.ModelProto:
    node = helper.make_node("Evil", ["x"], ["y"], name="evil", domain="com.example")
    return build_model([node], [X], [Y], opsets={"": 17, "com.example": 1})


def microsoft_model() -> onnx.ModelProto:
    node = helper.make_node("Inverse", ["x"], ["y"], domain="com.microsoft")
    return build_model([node], [X], [Y], opsets={"": 17, "com.microsoft": 1})


def random_model() -> onnx.ModelProto:
    return model_of(helper.make_node("RandomNormalLike", ["x"], ["y"]))


def dropout_model() -> onnx.ModelProto:
    node = helper.make_node("Dropout", ["x", "", "t"], ["y"])
    return model_of(node, initializers=(tensor("t", np.bool_(True)),))


def function_model() -> onnx.ModelProto:
    model = model_of(IDENTITY)
    function = helper.make_function(
        "local", "f", ["a"], ["b"], [helper.make_node("Identity", ["a"], ["b"])], []
    )
    model.functions.append(function)
    return model


def huge_shape_model() -> onnx.ModelProto:
    return build_model([IDENTITY], [value("x", [1 << 20, 1 << 20])], [Y])


def huge_initializer_model() -> onnx.ModelProto:
    weights = onnx.TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1 << 40])
    return model_of(helper.make_node("Add", ["x", "w"], ["y"]), initializers=(weights,))


def negative_dims_model() -> onnx.ModelProto:
    weights = onnx.TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[-1])
    return model_of(helper.make_node("Add", ["x", "w"], ["y"]), initializers=(weights,))


def sequence_model() -> onnx.ModelProto:
    output = helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)
    return build_model([helper.make_node("SequenceConstruct", ["x"], ["y"])], [X], [output])


def complex_model() -> onnx.ModelProto:
    return build_model([IDENTITY], [value("x", [1], TensorProto.COMPLEX64)], [Y])


def no_inputs_model() -> onnx.ModelProto:
    return build_model([helper.make_node("Constant", [], ["y"], value_floats=[1.0])], [], [Y])


def too_many_nodes_model() -> onnx.ModelProto:
    return model_of(*[helper.make_node("Identity", ["x"], [f"y{i}"]) for i in range(20_001)])


def training_model() -> onnx.ModelProto:
    model = model_of(IDENTITY)
    model.training_info.add()
    return model


@pytest.mark.parametrize(
    ("build", "code"),
    [
        (loop_model, "control_flow"),
        (if_model, "control_flow"),
        (disguised_graph_model, "control_flow"),
        (external_model, "external_data"),
        (external_constant_model, "external_data"),
        (custom_domain_model, "domain"),
        (microsoft_model, "operator"),
        (random_model, "random"),
        (dropout_model, "random"),
        (function_model, "functions"),
        (huge_shape_model, "shape"),
        (huge_initializer_model, "shape"),
        (negative_dims_model, "shape"),
        (sequence_model, "tensor_type"),
        (complex_model, "tensor_type"),
        (no_inputs_model, "signature"),
        (too_many_nodes_model, "too_large"),
        (training_model, "training"),
    ],
)
def test_check_artifact__hostile_file__is_refused_by_its_rule(
    build: Callable[[], onnx.ModelProto], code: str
) -> None:
    with pytest.raises(ArtifactRefused) as caught:
        check_artifact(build().SerializeToString())
    assert caught.value.code == code


def test_check_artifact__refusal__names_operator_and_node() -> None:
    with pytest.raises(ArtifactRefused) as caught:
        check_artifact(custom_domain_model().SerializeToString())
    assert (caught.value.operator, caught.value.node) == ("com.example::Evil", "evil")
    assert "evil (com.example::Evil)" in str(caught.value)


@given(st.binary(max_size=300))
def test_check_artifact__arbitrary_bytes__are_refused_not_crashed_on(data: bytes) -> None:
    with pytest.raises(ArtifactRefused):
        check_artifact(data)


@given(st.integers(0, 2000))
def test_check_artifact__truncated_model__is_refused_or_smaller(length: int) -> None:
    data = onnx_models.mlp_model((4, 8, 3))
    try:
        model = check_artifact(data[: min(length, len(data) - 1)])
    except ArtifactRefused:
        return
    assert len(model.graph.node) < 3 or not model.opset_import


@pytest.mark.parametrize("build", [onnx_models.linear_model, onnx_models.mlp_model, onnx_models.echo_model])
def test_check_artifact__honest_model__passes(build: Callable[[], bytes]) -> None:
    assert check_artifact(build()).graph.node


def test_check_artifact__text_and_numbers_to_labels__passes() -> None:
    """As scikit-learn's pipelines are converted."""
    nodes = [
        helper.make_node("Scaler", ["x"], ["a"], domain="ai.onnx.ml", offset=[0.0], scale=[1.0]),
        helper.make_node("OneHotEncoder", ["t"], ["b"], domain="ai.onnx.ml", cats_strings=["u", "v"]),
        helper.make_node("Reshape", ["b", "flat"], ["c"]),
        helper.make_node("Concat", ["a", "c"], ["d"], axis=1),
        helper.make_node(
            "LinearClassifier",
            ["d"],
            ["label", "y"],
            domain="ai.onnx.ml",
            coefficients=[1.0] * 6,
            intercepts=[0.0, 0.0],
            classlabels_strings=["no", "yes"],
        ),
    ]
    made = build_model(
        nodes,
        [value("x", ["n", 1]), value("t", ["n", 1], TensorProto.STRING)],
        [value("label", ["n"], TensorProto.STRING), value("y", ["n", 2])],
        [tensor("flat", np.array([-1, 2], np.int64))],
        {"": 17, "ai.onnx.ml": 3},
    )
    assert check_artifact(made.SerializeToString())


@pytest.mark.parametrize("operator", sorted(QUANTISER_OPERATORS))
def test_check_artifact__quantiser_operator__passes(operator: str) -> None:
    node = helper.make_node(operator, ["x"], ["y"], domain="com.microsoft")
    assert check_artifact(build_model([node], [X], [Y]).SerializeToString())


@pytest.mark.parametrize(
    "path",
    sorted((Path(__file__).parents[5] / "scripts" / "models").glob("*/model.onnx")),
    ids=lambda p: p.parent.name,
)
def test_check_artifact__the_projects_own_models__pass(path: Path) -> None:
    assert check_artifact(path.read_bytes())
