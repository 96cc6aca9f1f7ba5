"""What a request could end the node with is refused; what only looks like it is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from assay.node.errors import ArtifactRefused
from assay.node.models.hazards import check_hazards
from onnx import TensorProto, helper

from tests.support.onnx_models import build_model, tensor, value

FLOAT, INT32, INT64 = TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64
ROWS = ("rows", 4, 6)


def model(*nodes: onnx.NodeProto, x: Any = ROWS, dtype: int = FLOAT, **stored: Any) -> onnx.ModelProto:
    """Takes x, and k of one integer; gives y."""
    inputs = [value("x", x, dtype), value("k", [1], INT64)]
    constants = [tensor(name, array) for name, array in stored.items()]
    return build_model(
        nodes,
        inputs,
        [helper.make_tensor_value_info("y", dtype, None)],
        constants,
        {"": 17, "com.microsoft": 1},
    )


def node(operator: str, *inputs: str, out: str = "y", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, list(inputs), [out], **attributes)


def ints(*values: int) -> Any:
    return np.array(values, np.int64)


def size(i: int, out: str) -> list[onnx.NodeProto]:
    """Axis i of x, as exporters write it."""
    return [
        node("Shape", "x", out=f"{out}_shape"),
        node("Constant", out=f"{out}_i", value=tensor("i", np.int64(i))),
        node("Gather", f"{out}_shape", f"{out}_i", out=f"{out}_size"),
        node("Constant", out=f"{out}_axes", value=tensor("a", ints(0))),
        node("Unsqueeze", f"{out}_size", f"{out}_axes", out=out),
    ]


F = np.ones
HONEST = {
    "float division": model(node("Div", "x", "x")),
    "division by a constant": model(node("Div", "x", "c"), dtype=INT64, c=ints(2)),
    "division of narrow integers": model(node("Div", "x", "x"), dtype=TensorProto.INT8),
    "length by a computed one": model(
        *size(1, "a"), *size(2, "b"), node("Div", "a", "b", out="n"), node("Tile", "x", "n"), x=("rows",)
    ),
    "reshape by lengths": model(
        *size(0, "a"),
        *size(1, "b"),
        node("Mul", "a", "b", out="m"),
        node("Concat", "a", "m", "k", out="s", axis=0),
        node("Reshape", "x", "s"),
    ),
    "recurrence over what a reshape kept": model(
        *size(0, "a"),
        node("Mul", "k", "k", out="m"),
        node("Concat", "m", "a", "six", out="s", axis=0),
        node("Reshape", "x", "s", out="t"),
        node("LSTM", "t", "w", "r", hidden_size=2),
        six=ints(6),
        w=F((1, 8, 6), np.float32),
        r=F((1, 8, 2), np.float32),
    ),
    "recurrence over the request": model(
        node("GRU", "x", "w", "r", hidden_size=2), w=F((1, 6, 6), np.float32), r=F((1, 6, 2), np.float32)
    ),
    "weights put together from constants": model(
        node("Concat", "w", "w", out="ww", axis=0), node("Conv", "x", "ww"), w=F((1, 4, 3), np.float32)
    ),
    "squeeze of known lengths": model(node("Squeeze", "x"), x=(1, 4, 6)),
    "dense sums": model(node("ReduceSum", "x", "a"), a=ints(1)),
    "divided behind a quantised sum": model(
        helper.make_node(
            "QLinearAdd", ["x", "s", "z", "x", "s", "z", "s", "z"], ["q"], domain="com.microsoft"
        ),
        node("DequantizeLinear", "q", "s", "z", out="f"),
        node("Div", "f", "f"),
        dtype=TensorProto.UINT8,
        s=np.float32(1),
        z=np.uint8(0),
    ),
}
HAZARDS = {
    "division by minus one": model(node("Div", "x", "c"), dtype=INT32, c=np.array([2, -1], np.int32)),
    "division by the request": model(node("Mod", "x", "x"), dtype=INT64),
    "division of unknown types": model(
        node("SequenceConstruct", "k", out="s"), node("SequenceAt", "s", "k", out="d"), node("Div", "d", "d")
    ),
    "narrowed length": model(
        *size(0, "a"), node("Cast", "a", out="n", to=INT32), node("Div", "n", "x"), dtype=INT32
    ),
    "reshape by the request": model(
        node("NonZero", "x", out="n"), node("ReduceMax", "n", out="s", axes=[0], keepdims=0),
        node("Reshape", "x", "s"),
    ),
    "expansion by the request": model(
        node("NonZero", "x", out="n"), node("ReduceMax", "n", out="s", axes=[0], keepdims=0),
        node("Expand", "x", "s"),
    ),
    "axes of the request": model(node("Unsqueeze", "x", "k")),
    "sums over axes of the request": model(node("ReduceSum", "x", "k", keepdims=0)),
    "squeeze of unknown lengths": model(node("Squeeze", "x")),
    "weights of the request": model(node("Conv", "x", "x")),
    "recurrence over a part": model(
        node("Slice", "x", "zero", "k", "one", out="t"),
        node("LSTM", "t", "w", "r", hidden_size=2),
        zero=ints(0),
        one=ints(1),
        w=F((1, 8, 6), np.float32),
        r=F((1, 8, 2), np.float32),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HONEST)
def test_check_hazards__what_no_request_decides__passes(name: str) -> None:
    check_hazards(HONEST[name])


@pytest.mark.parametrize("name", HAZARDS)
def test_check_hazards__what_a_request_decides__is_refused(name: str) -> None:
    with pytest.raises(ArtifactRefused) as caught:
        check_hazards(HAZARDS[name])
    assert caught.value.code == "hazard"
    assert caught.value.operator in str(caught.value)


def test_check_hazards__shapes_that_the_file_claims__are_not_believed() -> None:
    made = model(
        node("Slice", "x", "zero", "k", "zero", out="t"),
        node("GRU", "t", "w", "r", hidden_size=2),
        zero=ints(0),
        w=F((1, 6, 6), np.float32),
        r=F((1, 6, 2), np.float32),
    )
    made.graph.value_info.append(value("t", [2, 4, 6]))
    with pytest.raises(ArtifactRefused, match="may have no elements"):
        check_hazards(made)


def test_check_hazards__lengths_joined_again_and_again__take_no_memory() -> None:
    sizes = [node("Concat", *[f"s{i}"] * 1_000, out=f"s{i + 1}", axis=0) for i in range(6)]
    check_hazards(model(node("Shape", "x", out="s0"), *sizes, node("Identity", "x")))
