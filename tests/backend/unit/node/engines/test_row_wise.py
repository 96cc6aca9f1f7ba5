"""Which graphs compute each row by itself. What the walk allows is also tried with ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from assay.node.engines.probing import probe
from assay.node.engines.row_wise import find_obstacle
from assay.node.engines.runtime import SessionRunner, build_session, session_specs
from assay.node.engines.watchdog import Watchdog
from onnx import TensorProto, helper

from tests.support.exact_models import DIGITS
from tests.support.onnx_models import build_model, convolution_model, echo_model, mlp_model, tensor, value

FLOAT, UINT8, INT64 = TensorProto.FLOAT, TensorProto.UINT8, TensorProto.INT64
WATCHDOG = Watchdog()


def node(op_type: str, *inputs: str, domain: str = "", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op_type, list(inputs), ["y"], name="n", domain=domain, **attributes)


def model(
    made: onnx.NodeProto | list[onnx.NodeProto],
    *constants: Any,
    x: Any = ("rows", 4, 6),
    y: Any = ("rows", None, None),
    opset: int = 17,
    dtype: int = FLOAT,
    out: int | None = None,
) -> onnx.ModelProto:
    """`constants` are c0, c1, …; the input is x, the output y."""
    return build_model(
        made if isinstance(made, list) else [made],
        [value("x", x, dtype)],
        [value("y", y, dtype if out is None else out)],
        [tensor(f"c{i}", constant) for i, constant in enumerate(constants)],
        {"": opset, "ai.onnx.ml": 3, "com.microsoft": 1},
    )


def f32(*shape: int) -> Any:
    return np.linspace(-1, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape)


def ints(*values: int) -> Any:
    return np.array(values, np.int64)


def tried(made: onnx.ModelProto) -> str:
    """What ONNX Runtime gives for rows alone and together: empty if the same within rounding."""
    session = build_session(made.SerializeToString())
    runner = SessionRunner(session, *session_specs(session), WATCHDOG, 5.0)
    return probe(runner, 8, exactly=False)


ALLOWED = [
    model(node("Relu", "x")),
    model(node("Add", "x", "c0"), f32(1, 4, 6)),
    model(node("Mul", "x", "c0"), f32(6)),
    model(node("Add", "x", "x")),
    model(node("Cos", "x"), x=("rows", 4, 8), y=("rows", 4, 8)),
    model(node("LRN", "x", size=3), x=("rows", 4, 8, 2), y=("rows", 4, 8, 2)),
    model(node("Sigmoid", "x"), x=("rows", 1), y=("rows", 1)),
    model(node("Tanh", "x"), x=("rows", 32), y=("rows", 32), dtype=TensorProto.DOUBLE),
    model(node("MatMul", "x", "c0"), f32(6, 5)),
    model(node("MatMul", "x", "c0"), f32(1, 6, 5)),
    model([helper.make_node("Transpose", ["x"], ["t"], perm=[0, 2, 1]), node("MatMul", "x", "t")]),
    model(node("Gemm", "x", "c0", "c1"), f32(6, 5), f32(5), x=("rows", 6), y=("rows", None)),
    model(node("Gemm", "x", "c0", "c1", transB=1), f32(5, 6), f32(1, 5), x=("rows", 6), y=("rows", None)),
    model(node("Softmax", "x", axis=-1)),
    model(node("Softmax", "x", axis=1), opset=11),
    model(node("ReduceMean", "x", axes=[1], keepdims=0), y=("rows", None)),
    model(node("ReduceSum", "x", "c0"), ints(-1)),
    model(node("ArgMax", "x", axis=2), out=INT64),
    model([helper.make_node("TopK", ["x", "c0"], ["y", "i"], name="n")], ints(2)),
    model(node("Concat", "x", "x", axis=1)),
    model(node("Flatten", "x"), y=("rows", None)),
    model(node("Reshape", "x", "c0"), ints(0, 24), y=("rows", None)),
    model(node("Reshape", "x", "c0"), ints(-1, 24), y=("rows", None)),
    model(node("Reshape", "x", "c0"), ints(0, -1, 2)),
    model(node("Transpose", "x", perm=[0, 2, 1])),
    model(node("Unsqueeze", "x", "c0"), ints(1), y=("rows", None, None, None)),
    model(node("Squeeze", "x", "c0"), ints(-1), x=("rows", 4, 1), y=("rows", None)),
    model(node("Slice", "x", "c0", "c1", "c2"), ints(1), ints(3), ints(1)),
    model(node("Pad", "x", "c0"), ints(0, 1, 0, 0, 0, 2)),
    model(node("Gather", "x", "c0", axis=2), ints(3, 0)),
    model(node("Gather", "c0", "x"), f32(5, 3), x=("rows", 2), dtype=INT64, out=FLOAT),
    model(node("CumSum", "x", "c0"), ints(1)),
    model(node("LayerNormalization", "x", "c0", "c1"), f32(6), f32(6)),
    model(node("BatchNormalization", "x", *["c0"] * 4), np.ones(4, np.float32)),
    model(node("Conv", "x", "c0"), f32(2, 4, 3)),
    model(node("MaxPool", "x", kernel_shape=[2])),
    model(node("GlobalAveragePool", "x")),
    model(node("Where", "c0", "x", "c1"), np.array([True, False] * 3), f32(6)),
    model(node("Clip", "x", "c0", "c1"), np.float32(-0.5), np.float32(0.5)),
    model(node("QuantizeLinear", "x", "c0", "c1"), np.float32(0.1), np.uint8(3), out=UINT8),
    model(
        node("QuantizeLinear", "x", "c0", "c1", axis=1),
        np.full(4, 0.1, np.float32),
        np.full(4, 3, np.uint8),
        out=UINT8,
    ),
    model(node("Scaler", "x", domain="ai.onnx.ml", offset=[0.5], scale=[2.0]), x=("rows", 6), y=("rows", 6)),
    model(
        [helper.make_node("Constant", [], ["k"], value=tensor("", ints(0, 24))), node("Reshape", "x", "k")],
        y=("rows", None),
    ),
]

REFUSED = [
    (model(node("Add", "x", "c0"), f32(3, 4, 6)), "a value for each row"),
    (model(node("Add", "x", "c0"), f32(1, 1, 4, 6)), "more dimensions than rows"),
    (model([helper.make_node("Flatten", ["x"], ["f"]), node("Add", "x", "f")]), "unequal ranks"),
    (model(node("Softmax", "x", axis=0)), "along the rows"),
    (model(node("Softmax", "x", axis=-3)), "along the rows"),
    (model(node("ReduceMean", "x", axes=[0])), "over the rows"),
    (model(node("ReduceMean", "x", axes=[-3, 1])), "over the rows"),
    (model(node("ReduceMax", "x")), "over the rows"),
    (model(node("ReduceSum", "x", "c0"), ints()), "over the rows"),
    (model(node("ArgMax", "x"), out=INT64), "along the rows"),
    (model([helper.make_node("TopK", ["x", "c0"], ["y", "i"], axis=0)], ints(2)), "along the rows"),
    (model(node("Concat", "x", "x", axis=0)), "along the rows"),
    (model(node("Concat", "x", "c0", axis=1), f32(1, 4, 6)), "with a constant"),
    (model(node("Flatten", "x", axis=2)), "other than the first axis"),
    (model(node("Flatten", "x", axis=0)), "other than the first axis"),
    (model(node("Reshape", "x", "c0"), ints(-1, 6)), "parts of rows"),
    (model(node("Reshape", "x", "c0"), ints(2, -1)), "may not keep"),
    (model(node("Reshape", "x", "c0", allowzero=1), ints(0, 24)), "may not keep"),
    (model(node("Reshape", "x", "c0"), ints(-1, 24), x=("rows", "other", 6)), "may not keep"),
    (model(node("Transpose", "x", perm=[1, 0, 2])), "another axis"),
    (model(node("Transpose", "x")), "another axis"),
    (model(node("Unsqueeze", "x", "c0"), ints(0)), "before the rows"),
    (model(node("Unsqueeze", "x", "c0"), ints(-4)), "before the rows"),
    (model(node("Squeeze", "x")), "may take the rows"),
    (model(node("Slice", "x", "c0", "c1", "c2"), ints(0), ints(1), ints(0)), "cut rows off"),
    (model(node("Slice", "x", "c0", "c1"), ints(0), ints(1)), "cut rows off"),
    (model([helper.make_node("Split", ["x"], ["y", "z"], num_outputs=2)], opset=18), "parts the rows"),
    (model(node("Pad", "x", "c0"), ints(1, 0, 0, 0, 0, 0)), "add rows"),
    (model(node("Pad", "x", "c0"), ints(0, 0, 0, -1, 0, 0)), "add rows"),
    (model(node("Gather", "x", "c0"), ints(0)), "picks along the rows"),
    (model(node("Gather", "x", "c0", axis=-1), ints(0), x=("rows",), y=("rows",)), "picks along the rows"),
    (model(node("CumSum", "x", "c0"), ints(0)), "sums over the rows"),
    (model(node("MatMul", "c0", "x"), f32(1, 6, 4)), "elsewhere than on its left"),
    (model(node("MatMul", "x", "c0"), f32(2, 6, 5)), "a matrix for each row"),
    (model(node("MatMul", "x", "x"), x=("rows", 4), y=("rows", 4)), "rows with rows"),
    (model(node("Gemm", "x", "c0", transA=1), f32(4, 5), x=("rows", 6)), "transposes"),
    (model(node("Gemm", "x", "c0", "c1"), f32(6, 5), f32(3, 5), x=("rows", 6)), "a value for each row"),
    (model(node("BatchNormalization", "x", *["c0"] * 4, training_mode=1), f32(4)), "mean over the rows"),
    (model([helper.make_node("MaxPool", ["x"], ["y", "i"], kernel_shape=[2])]), "second output"),
    (model([helper.make_node("DynamicQuantizeLinear", ["x"], ["y", "s", "z"])], out=UINT8), "not known"),
    (model(node("LayerNormalization", "x", "c0"), f32(1, 1, 6)), "a scale for each row"),
    (model(node("LayerNormalization", "x", "c0", axis=0), f32(4, 6)), "along the rows"),
    (model(node("QuantizeLinear", "x", "c0", axis=0), f32(3)), "a scale for each row"),
    (model([helper.make_node("Shape", ["x"], ["y"])], out=INT64), "not known"),
    (model(node("Expand", "x", "c0"), ints(2, 4, 6)), "not known"),
    (
        model(node("Scaler", "x", domain="ai.onnx.ml", scale=[2.0]), x=("rows",), y=("rows",)),
        "rows of features",
    ),
    (model(node("Cos", "x"), x=("rows", 1), y=("rows", 1)), "at the end of a tensor"),
    (model(node("Log", "x"), x=("rows", "k"), y=("rows", "k")), "at the end of a tensor"),
    (model(node("LRN", "x", size=3), x=("rows", 3, 3, 3), y=("rows", 3, 3, 3)), "at the end of a tensor"),
    (
        model(node("Tanh", "x"), x=("rows", 3), y=("rows", 3), dtype=TensorProto.DOUBLE),
        "at the end of a tensor",
    ),
    (
        model(node("Softmax", "x"), x=("rows", 16), y=("rows", 16), dtype=TensorProto.DOUBLE),
        "at the end of a tensor",
    ),
    (model(node("Relu", "x"), x=(3, 4), y=(3, 4)), "first dimension of any size"),
    (model(node("Relu", "x"), x=("rows", "rows"), y=("rows", "rows")), "as another dimension"),
    (model([helper.make_node("Relu", ["c0"], ["y"])], f32(3, 4)), "does not come row by row"),
]


@pytest.mark.parametrize("made", ALLOWED, ids=lambda made: made.graph.node[-1].op_type)
def test_find_obstacle__each_row_by_itself__is_none_and_holds(made: onnx.ModelProto) -> None:
    assert find_obstacle(made) == ""
    assert tried(made) == ""


@pytest.mark.parametrize(
    ("made", "why"), REFUSED, ids=[f"{one.graph.node[-1].op_type}-{why}" for one, why in REFUSED]
)
def test_find_obstacle__rows_that_may_mix__is_named(made: onnx.ModelProto, why: str) -> None:
    found = find_obstacle(made)
    assert found
    assert why in found


def test_find_obstacle__vectors_parted_among_threads__is_named() -> None:
    made = model(node("Elu", "x"), x=("rows", 16), y=("rows", 16))
    assert find_obstacle(made) == ""
    assert "parted among threads" in find_obstacle(made, threads=2)


def test_find_obstacle__two_inputs_of_which_one_has_the_others_rows_within__is_named() -> None:
    made = build_model(
        [helper.make_node("MatMul", ["a", "b"], ["y"])],
        [value("a", ["n", "k"]), value("b", ["k", 3])],
        [value("y", ["n", 3])],
    )
    assert "'k'" in find_obstacle(made)


def test_find_obstacle__whole_networks__none() -> None:
    for artifact in (mlp_model(), convolution_model(), echo_model(), DIGITS.read_bytes()):
        assert find_obstacle(onnx.ModelProto.FromString(artifact)) == ""
