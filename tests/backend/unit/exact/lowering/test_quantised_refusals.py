"""What keeps a quantised operator out of the profile: each refusal names node, reason and cure."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pytest

from tests.support.exactness import assert_exact, assert_refused, model, node

F32: Final = np.float32
X: Final = np.arange(2 * 2 * 5 * 5, dtype=np.uint8).reshape(2, 2, 5, 5)
MATRIX: Final = np.arange(12, dtype=np.uint8).reshape(3, 4)
MICROSOFT: Final = "com.microsoft"


def conv(x: Any = X, attributes: dict[str, Any] | None = None, **changes: Any) -> bytes:
    """A valid QLinearConv but for the changes."""
    constants = {
        "xs": F32(0.1),
        "xz": np.zeros((), x.dtype),
        "w": np.full((3, 2, 3, 3), 5, np.int8),
        "ws": F32(0.02),
        "wz": np.int8(0),
        "ys": F32(0.5),
        "yz": np.uint8(3),
        "b": np.zeros(3, np.int32),
    } | changes
    made = node("QLinearConv", ["x", *constants], **(attributes or {}))
    return model([made], {"x": x}, {name: np.asarray(value) for name, value in constants.items()})


def test_lower_qlinear_conv__without_changes__equals_onnxruntime() -> None:
    assert_exact(conv(), {"x": X})


@pytest.mark.parametrize("end", [-64, 64])
def test_lower_qlinear_conv__weights_at_the_saturation_bound__equals_onnxruntime(end: int) -> None:
    extreme = np.full_like(X, 255)
    artifact = conv(w=np.full((3, 2, 3, 3), end, np.int8), ys=F32(5))
    assert_exact(artifact, {"x": extreme})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"w": np.full((3, 2, 3, 3), 65, np.int8)}, ("-64...64", "reduce_range")),
        ({"w": np.full((3, 2, 3, 3), -65, np.int8)}, ("-64...64", "reduce_range")),
        ({"b": np.array([0, 0, 2**31 - 1], np.int32)}, ("beyond int32",)),
        ({"b": np.array([0, 0, -(2**31)], np.int32)}, ("beyond int32",)),
        ({"b": np.zeros(2, np.int32)}, ("B has dims",)),
        ({"xs": F32(0)}, ("x_scale is zero",)),
        ({"xs": F32(-0.1)}, ("x_scale is zero, negative",)),
        ({"ws": F32(np.inf)}, ("w_scale is zero",)),
        ({"ws": np.array([0.1, 1e-40, 0.1], F32)}, ("w_scale is zero, negative, subnormal",)),
        ({"ws": np.array([0.1, 0.1], F32)}, ("w_scale has dims",)),
        ({"ys": F32(1e-39)}, ("y_scale is zero",)),
        ({"xs": F32(1e-30), "ws": F32(1e-30)}, ("x_scale · w_scale / y_scale is zero",)),
        ({"xs": F32(1e30), "ws": F32(1e30)}, ("x_scale · w_scale / y_scale is zero",)),
        ({"xs": np.array([0.1, 0.1], F32)}, ("x_scale has dims",)),
        ({"wz": np.array([0, 1, 0], np.int8), "ws": np.full(3, 0.1, F32)}, ("differs between channels",)),
        ({"w": np.full((3, 1, 3, 3), 5, np.int8)}, ("do not fit group",)),
        ({"yz": np.int8(3)}, ("y_zero_point is int8",)),
    ],
)
def test_lower_qlinear_conv__outside_the_rules__refused(
    changes: dict[str, Any], words: tuple[str, ...]
) -> None:
    assert_refused(conv(**changes), "QLinearConv", *words)


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"auto_pad": "SAME_UPPER", "dilations": [2, 2]}, ("dilations",)),
        ({"auto_pad": "SAME_LOWER", "strides": [5, 5]}, ("two ways",)),
        ({"auto_pad": "OTHER"}, ("unknown",)),
        ({"pads": [0, 0, -1, 0]}, ("pads",)),
        ({"kernel_shape": [2, 2]}, ("kernel_shape",)),
        ({"strides": [1]}, ("strides",)),
        ({"dilations": [3, 3]}, ("larger than the padded tensor",)),
        ({"group": 0}, ("group 0",)),
        ({"channels_last": 1}, ("'channels_last'",)),
    ],
)
def test_lower_qlinear_conv__attributes_outside__refused(
    attributes: dict[str, Any], words: tuple[str, ...]
) -> None:
    assert_refused(conv(attributes=attributes), *words)


def test_lower_qlinear_conv__signed_activations__refused() -> None:
    assert_refused(conv(X.astype(np.int8), yz=np.int8(0)), "QLinearConv")


def test_lower_qlinear_conv__computed_weights__refused() -> None:
    constants = {
        "xs": F32(0.1),
        "xz": np.uint8(0),
        "ws": F32(0.1),
        "wz": np.uint8(0),
        "ys": F32(1),
        "yz": np.uint8(0),
    }
    inputs = {"x": X[:1], "w": np.ones((3, 2, 3, 3), np.uint8)}
    made = node("QLinearConv", ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz"])
    stored = {name: np.asarray(value) for name, value in constants.items()}
    assert_refused(model([made], inputs, stored, batched=False), "computed, not constant", "initialiser")


def matmul(b: Any, a: Any = MATRIX, *, inputs: dict[str, Any] | None = None, **changes: Any) -> bytes:
    constants = {
        "as": F32(0.1),
        "az": np.uint8(0),
        "b": b,
        "bs": F32(0.1),
        "bz": np.zeros((), b.dtype),
        "ys": F32(1),
        "yz": np.uint8(0),
    } | changes
    names = ["a", *constants]
    for name in inputs or {}:
        constants.pop(name)
    stored = {name: np.asarray(value) for name, value in constants.items()}
    return model([node("QLinearMatMul", names)], {"a": a} | (inputs or {}), stored)


def test_lower_qlinear_matmul__computed_int8_right_side__refused() -> None:
    stack = np.zeros((3, 4, 4), np.uint8)
    right = np.zeros((3, 4, 2), np.int8)
    assert_refused(matmul(right, stack, inputs={"b": right}), "-64...64")


def test_lower_qlinear_matmul__sums_over_the_batch_axis__refused() -> None:
    right = np.zeros((4, 2), np.uint8)
    assert_refused(matmul(right, inputs={"b": right}), "batch axis")


def test_lower_qlinear_matmul__batch_meets_another_axis__refused() -> None:
    assert_refused(matmul(np.zeros((5, 4, 2), np.uint8)), "batch axis")


def test_lower_qlinear_matmul__dims_do_not_multiply__refused() -> None:
    assert_refused(matmul(np.zeros((5, 2), np.uint8)), "do not multiply")


def test_lower_qlinear_matmul__accumulator_beyond_int32__refused() -> None:
    wide = np.zeros((1, 40000), np.uint8)
    assert_refused(matmul(np.full((40000, 1), 255, np.uint8), wide), "beyond int32")


def quantise(op_type: str, x: Any, *parameters: Any, **attributes: Any) -> bytes:
    constants = {f"p{number}": np.asarray(value) for number, value in enumerate(parameters)}
    return model([node(op_type, ["x", *constants], **attributes)], {"x": x}, constants, opset=23)


@pytest.mark.parametrize(
    ("parameters", "attributes", "words"),
    [
        ([F32(0.1), np.uint16(0)], {}, ("uint16",)),
        ([np.full((2, 2), 0.1, F32)], {}, ("do not fit",)),
        ([np.full(4, 0.1, F32)], {"block_size": 2}, ("blocked",)),
        ([np.full(3, 0.1, F32)], {"axis": 0}, ("batch axis",)),
        ([F32(0.1)], {"output_dtype": 16}, ("output_dtype",)),
        ([F32(0.1)], {"precision": 10}, ("precision",)),
        ([np.full(4, 0.1, F32), np.uint8(0)], {}, ("differ in shape",)),
        ([F32(np.nan)], {}, ("NaN",)),
    ],
)
def test_lower_quantize_linear__outside_the_rules__refused(
    parameters: list[Any], attributes: dict[str, Any], words: tuple[str, ...]
) -> None:
    assert_refused(quantise("QuantizeLinear", MATRIX.astype(F32), *parameters, **attributes), *words)


def test_lower_dequantize_linear__result_beyond_float32__refused() -> None:
    assert_refused(quantise("DequantizeLinear", MATRIX, F32(3e38)), "leave float32")


def test_lower_dequantize_linear__int32_with_zero_point__refused() -> None:
    x = MATRIX.astype(np.int32)
    assert_refused(quantise("DequantizeLinear", x, F32(0.1), np.int32(1)), "zero point")


def contrib(op_type: str, x: Any, *parameters: Any, **attributes: Any) -> bytes:
    return quantise(op_type, x, *parameters, domain=MICROSOFT, **attributes)


U0: Final = np.uint8(0)


@pytest.mark.parametrize("op_type", ["QLinearAveragePool", "QLinearGlobalAveragePool"])
@pytest.mark.parametrize(
    ("x", "attributes", "words"),
    [
        (X, {"channels_last": 1}, ("channels are last",)),
        (X.astype(np.int8), {}, ("is int8",)),
        (MATRIX, {}, ("rank",)),
    ],
)
def test_lower_qlinear_pools__outside_the_rules__refused(
    op_type: str, x: Any, attributes: dict[str, Any], words: tuple[str, ...]
) -> None:
    if op_type == "QLinearAveragePool":
        attributes = attributes | {"kernel_shape": [2, 2]}
    artifact = contrib(op_type, x, F32(0.1), x.dtype.type(0), F32(0.1), x.dtype.type(0), **attributes)
    assert_refused(artifact, *words)


def test_lower_qlinear_global_average_pool__scale_that_onnxruntime_refuses__refused() -> None:
    artifact = contrib("QLinearGlobalAveragePool", X, F32(1000), U0, F32(0.001), U0)
    assert_refused(artifact, "onnxruntime refuses")


def test_lower_qlinear_average_pool__result_beyond_int32__refused() -> None:
    artifact = contrib("QLinearAveragePool", X, F32(1e6), U0, F32(1e-3), U0, kernel_shape=[2, 2])
    assert_refused(artifact, "leave int32")


def test_lower_qlinear_average_pool__pads_as_long_as_the_window__refused() -> None:
    artifact = contrib(
        "QLinearAveragePool", X, F32(0.1), U0, F32(0.1), U0, kernel_shape=[2, 2], pads=[2, 0, 0, 0]
    )
    assert_refused(artifact, "pads below the window")


@pytest.mark.parametrize("op_type", ["QLinearAdd", "QLinearMul"])
def test_lower_qlinear_binary__result_beyond_int32__refused(op_type: str) -> None:
    constants = {"s": np.asarray(F32(1e4)), "z": np.asarray(U0), "t": np.asarray(F32(1e-4))}
    made = node(op_type, ["x", "s", "z", "x", "s", "z", "t", "z"], domain=MICROSOFT)
    assert_refused(model([made], {"x": MATRIX}, constants), "leave int32")


@pytest.mark.parametrize("op_type", ["QLinearAdd", "QLinearMul"])
def test_lower_qlinear_binary__int8__refused(op_type: str) -> None:
    constants = {"s": np.asarray(F32(0.1)), "z": np.asarray(np.int8(0))}
    made = node(op_type, ["x", "s", "z", "x", "s", "z", "s", "z"], domain=MICROSOFT)
    assert_refused(model([made], {"x": MATRIX.astype(np.int8)}, constants), "int8")


def test_lower_qlinear_concat__along_the_batch_axis__refused() -> None:
    constants = {"s": np.asarray(F32(0.1)), "z": np.asarray(U0)}
    made = node("QLinearConcat", ["s", "z", "x", "s", "z", "x", "s", "z"], domain=MICROSOFT, axis=0)
    assert_refused(model([made], {"x": MATRIX}, constants), "batch axis")


def test_lower_qgemm__transposes_the_batch_axis__refused() -> None:
    constants = {"s": F32(0.1), "z": U0, "b": np.ones((3, 2), np.uint8)}
    stored = {name: np.asarray(value) for name, value in constants.items()}
    names = ["x", "s", "z", "b", "s", "z", "", "s", "z"]
    assert_refused(
        model([node("QGemm", names, domain=MICROSOFT, transA=1)], {"x": MATRIX}, stored), "batch axis"
    )
