"""What a file's signature, constants and wiring must be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from assay.exact.lowering import UnsupportedModel, check_model, lower
from onnx import TensorProto, helper

from tests.support.exactness import assert_exact, assert_refused, model, node
from tests.support.onnx_models import build_model, tensor, value

X = np.arange(12, dtype=np.uint8).reshape(3, 4)
TWO = {"a": X, "b": X}


def added(**changes: Any) -> onnx.ModelProto:
    return onnx.load_from_string(model([node("Max", ["a", "b"])], TWO, **changes))


def open_second(proto: onnx.ModelProto) -> None:
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "columns"


def close_one(proto: onnx.ModelProto) -> None:
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3


def rename_axis(proto: onnx.ModelProto) -> None:
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "other"


def unnamed_axes(proto: onnx.ModelProto) -> None:
    for one in proto.graph.input:
        one.type.tensor_type.shape.dim[0].Clear()


def undeclared(proto: onnx.ModelProto) -> None:
    proto.graph.input[0].type.tensor_type.ClearField("shape")


def empty_dim(proto: onnx.ModelProto) -> None:
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 0


def half_precision(proto: onnx.ModelProto) -> None:
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16


def no_nodes(proto: onnx.ModelProto) -> None:
    del proto.graph.node[:]


def own_function(proto: onnx.ModelProto) -> None:
    proto.functions.add().name = "f"


def training(proto: onnx.ModelProto) -> None:
    proto.training_info.add()


def sparse(proto: onnx.ModelProto) -> None:
    proto.graph.sparse_initializer.add()


def external(proto: onnx.ModelProto) -> None:
    stored = proto.graph.initializer.add(name="w", data_type=TensorProto.UINT8, dims=[1])
    stored.data_location = TensorProto.EXTERNAL


def truncated(proto: onnx.ModelProto) -> None:
    proto.graph.initializer.add(name="w", data_type=TensorProto.UINT8, dims=[4], raw_data=b"\x01")


def two_opsets(proto: onnx.ModelProto) -> None:
    proto.opset_import.add(domain="ai.onnx", version=13)


def same_output(proto: onnx.ModelProto) -> None:
    proto.graph.output.add().CopyFrom(proto.graph.output[0])


def unmade_output(proto: onnx.ModelProto) -> None:
    proto.graph.output[0].name = "nothing"


def unmade_input(proto: onnx.ModelProto) -> None:
    proto.graph.node[0].input[0] = "nothing"


def made_twice(proto: onnx.ModelProto) -> None:
    proto.graph.node.add().CopyFrom(proto.graph.node[0])


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (open_second, "a dim other than the first is open"),
        (close_one, "some inputs have a batch axis"),
        (rename_axis, "need not be equal"),
        (unnamed_axes, "need not be equal"),
        (undeclared, "shape is not declared"),
        (empty_dim, "a dim is zero"),
        (half_precision, "fp16 is not in the profile"),
        (no_nodes, "graph is empty"),
        (own_function, "functions of its own"),
        (training, "training information"),
        (sparse, "sparse initialisers"),
        (external, "outside the file"),
        (truncated, "does not fill its dims"),
        (two_opsets, "imported twice"),
        (same_output, "an output is named twice"),
        (unmade_output, "is not computed"),
        (unmade_input, "nothing before it makes"),
        (made_twice, "is made twice"),
    ],
)
def test_check_model__faulty_file__says_what_and_how_to_mend(
    change: Callable[[onnx.ModelProto], None], word: str
) -> None:
    proto = added()
    change(proto)
    report = check_model(proto.SerializeToString())
    assert report.program is None
    assert any(word in finding.reason for finding in report.findings)
    assert all(finding.cure for finding in report.findings)


def test_lower__not_onnx__says_so() -> None:
    with pytest.raises(UnsupportedModel, match="does not parse") as caught:
        lower(b"\xff\xff\xff\xff not a model")
    assert caught.value.code == "model_not_exact"


def test_lower__fixed_dims__is_one_row() -> None:
    artifact = model([node("Max", ["a", "b"])], TWO, batched=False)
    program = lower(artifact)
    assert not program.batched
    assert program.inputs[0].dims == X.shape
    assert_exact(artifact, TWO)


def test_lower__output_without_batch_axis__refused() -> None:
    artifact = model(
        [node("Identity", ["x"]), node("Max", ["w", "w"], ["z"])],
        {"x": X},
        {"w": np.ones(3, np.uint8)},
        outputs=("y", "z"),
    )
    assert_refused(artifact, "has no batch axis")


def test_lower__initialisers_listed_as_inputs__are_constants() -> None:
    proto = build_model(
        [helper.make_node("Max", ["x", "w"], ["y"])],
        [value("x", ["rows", 4], TensorProto.UINT8), value("w", [4], TensorProto.UINT8)],
        [helper.make_empty_tensor_value_info("y")],
        [tensor("w", np.array([1, 200, 3, 4], np.uint8))],
    )
    artifact = bytes(proto.SerializeToString())
    assert len(lower(artifact).inputs) == 1
    assert_exact(artifact, {"x": X})


def test_lower__unused_nodes__leave_no_kernels() -> None:
    nodes = [node("Max", ["x", "x"], ["unused"]), node("Max", ["x", "x"])]
    assert len(lower(model(nodes, {"x": X})).kernels) == 1


def test_lower__output_is_an_input__is_copied() -> None:
    artifact = model([node("Max", ["x", "x"], ["z"])], {"x": X}, outputs=("z", "x"))
    assert lower(artifact).outputs[1].kernel == 1


def test_lower__record_beyond_its_limit__refused() -> None:
    wide = np.zeros((2, *(2,) * 9), np.uint8)
    report = check_model(model([node("Max", ["x", "x"])], {"x": wide}))
    assert "rank is above" in report.findings[0].reason


def test_lower__reduction_too_long__refused() -> None:
    inner = (1 << 24) + 1
    x = np.zeros((1, inner), np.uint8)
    artifact = model([node("MatMulInteger", ["x", "b"])], {"x": x}, {"b": np.zeros((inner, 1), np.uint8)})
    assert_refused(artifact, "beyond a limit")
