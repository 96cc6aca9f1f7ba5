"""Small random models of each quantised operator of the exact profile, with inputs, random and extreme."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from assay.commitments.tensors import onnx_dtype
from numpy.typing import NDArray
from onnx import helper

from tests.support.onnx_models import build_model, tensor, value

Array = NDArray[Any]
MICROSOFT: Final = "com.microsoft"
DIGITS: Final = Path(__file__).resolve().parents[2] / "scripts" / "models" / "digits-int8" / "model.onnx"


@dataclass(frozen=True)
class Case:
    """A model and inputs for it, by name."""

    operator: str
    artifact: bytes
    feeds: Mapping[str, Array]


@dataclass(frozen=True)
class Random:
    """Draws the parameters of a case. Extreme: activations and weights at their ends. Tiny: few steps."""

    source: np.random.Generator
    extreme: bool = False
    tiny: bool = False

    @property
    def rows(self) -> int:
        return 1 if self.tiny else 3

    def integer(self, low: int, high: int) -> int:
        """low … high, both included."""
        return int(self.source.integers(low, high + 1))

    def size(self, low: int, high: int) -> int:
        """An extent; one of the two least if tiny."""
        return self.integer(low, min(high, low + 1) if self.tiny else high)

    def flag(self, chance: float = 0.5) -> bool:
        return bool(self.source.random() < chance)

    def pick(self, items: Sequence[Any]) -> Any:
        return items[self.integer(0, len(items) - 1)]

    def integers(self, shape: Sequence[int], low: int, high: int, dtype: Any) -> Array:
        drawn = self.source.integers(low, high + 1, shape)
        if self.extreme:
            drawn = np.where(self.source.random(shape) < 0.8, self.source.choice([low, high], shape), drawn)
        return np.asarray(drawn).astype(dtype)

    def quantised(self, shape: Sequence[int], dtype: Any = np.uint8) -> Array:
        ends = np.iinfo(dtype)
        return self.integers(shape, int(ends.min), int(ends.max), dtype)

    def weights(self, shape: Sequence[int]) -> Array:
        return self.quantised(shape) if self.flag() else self.integers(shape, -64, 64, np.int8)

    def scale(self, low: float = 0.002, high: float = 0.2, shape: Sequence[int] = ()) -> Array:
        return np.asarray(np.exp(self.source.uniform(np.log(low), np.log(high), shape)), np.float32)

    def zero(self, dtype: Any = np.uint8) -> Array:
        ends = np.iinfo(dtype)
        drawn = self.integer(int(ends.min), int(ends.max))
        return np.asarray(self.pick([int(ends.min), int(ends.max), 0, drawn, drawn]), dtype)


def make_case(
    node: Any,
    feeds: Mapping[str, Array],
    constants: Mapping[str, Any],
    *,
    batched: bool = True,
    opset: int = 21,
) -> Case:
    """One node `y = …`; the first dim of its inputs is open if batched."""
    declared = [
        value(name, ["rows", *array.shape[1:]] if batched else array.shape, onnx_dtype(array.dtype))
        for name, array in feeds.items()
    ]
    stored = [tensor(name, np.asarray(array)) for name, array in constants.items()]
    output = helper.make_empty_tensor_value_info("y")
    opsets = {"": opset, MICROSOFT: 1}
    model = build_model([node], declared, [output], stored, opsets)
    return Case(node.op_type, bytes(model.SerializeToString()), dict(feeds))


def qlinear_conv(random: Random) -> Case:
    x, w, attributes = _convolution(random)
    channels = w.shape[0]
    per_channel = (channels,) if random.flag() else ()
    reach = 1 << 30 if random.extreme else 30000
    bias = random.integers((channels,), -reach, reach, np.int32)
    constants = {
        "x_scale": random.scale(),
        "x_zero": random.zero(),
        "w": w,
        "w_scale": random.scale(0.002, 0.05, per_channel),
        "w_zero": np.full(per_channel, _weight_zero(random, w), w.dtype),
        "y_scale": random.scale(0.02, 2e4 if random.extreme else 2.0),
        "y_zero": random.zero(),
        "bias": bias,
    }
    names = ["x", *(name for name in constants if name != "bias" or random.flag())]
    return make_case(helper.make_node("QLinearConv", names, ["y"], "conv", **attributes), {"x": x}, constants)


def conv_integer(random: Random) -> Case:
    x, w, attributes = _convolution(random)
    constants = {"w": random.quantised(w.shape), "x_zero": random.zero(), "w_zero": random.zero()}
    names = ["x", *list(constants)[: random.integer(1, 3)]]
    return make_case(helper.make_node("ConvInteger", names, ["y"], "conv", **attributes), {"x": x}, constants)


def _weight_zero(random: Random, w: Array) -> int:
    return int(random.zero()) if w.dtype == np.uint8 else int(random.pick([0, 0, 3, -128, 127]))


def _convolution(random: Random) -> tuple[Array, Array, dict[str, Any]]:
    """x, w and attributes: groups, depthwise, pads of both kinds, strides, dilations."""
    spatial = random.size(1, 3)
    group = random.pick([1, 1, 2, 3])
    inner, outer = random.size(1, 4), random.size(1, 4)
    if random.flag(0.3):
        group, inner, outer = random.size(2, 9), 1, 1
    sizes = [5 if random.tiny else random.integer(5, 8) for _ in range(spatial)]
    kernel = [random.size(1, 3) for _ in range(spatial)]
    attributes: dict[str, Any] = {
        "group": group,
        "kernel_shape": kernel,
        "strides": [random.integer(1, 3) for _ in range(spatial)],
    }
    mode = random.pick(["NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"])
    if mode in ("NOTSET", "VALID"):
        attributes["dilations"] = [random.integer(1, 2) for _ in range(spatial)]
    if mode == "NOTSET":
        attributes["pads"] = [random.integer(0, 2) for _ in range(2 * spatial)]
    else:
        attributes["auto_pad"] = mode
        attributes["strides"] = [random.integer(1, taps) for taps in kernel]
    x = random.quantised((random.rows, group * inner, *sizes))
    return x, random.weights((group * outer, inner, *kernel)), attributes


def qlinear_matmul(random: Random) -> Case:
    b, feeds, stored = _product(random)
    per_column = (b.shape[-1],) if stored and b.ndim == 2 and random.flag() else ()
    constants = {
        "a_scale": random.scale(),
        "a_zero": random.zero(),
        "b_scale": random.scale(0.002, 0.05, per_column),
        "b_zero": np.full(per_column, _weight_zero(random, b), b.dtype),
        "y_scale": random.scale(0.02, 2.0),
        "y_zero": random.zero(),
    } | stored
    names = ["a", "a_scale", "a_zero", "b", "b_scale", "b_zero", "y_scale", "y_zero"]
    return make_case(helper.make_node("QLinearMatMul", names, ["y"], "matmul"), feeds, constants)


def matmul_integer(random: Random) -> Case:
    b, feeds, stored = _product(random)
    zeros = {"a_zero": random.zero(), "b_zero": np.asarray(_weight_zero(random, b), b.dtype)}
    names = ["a", "b", *list(zeros)[: random.integer(0, 2)]]
    return make_case(helper.make_node("MatMulInteger", names, ["y"], "matmul"), feeds, zeros | stored)


def _product(random: Random) -> tuple[Array, dict[str, Array], dict[str, Array]]:
    """The right side, the inputs and the constants: matrices, stacks, constant and computed right sides."""
    rows, inner, columns = random.size(1, 5), random.size(2, 20), random.size(1, 9)
    stack, batch = random.size(1, 3), random.rows
    kind = random.integer(0, 3)
    if kind == 0:
        a, b = random.quantised((batch, inner)), random.weights((inner, columns))
    elif kind == 1:
        a, b = random.quantised((batch, rows, inner)), random.weights((inner, columns))
    elif kind == 2:
        a = random.quantised((batch, stack, rows, inner))
        b = random.weights((stack, inner, columns))
    else:
        a, b = random.quantised((batch, rows, inner)), random.quantised((batch, inner, columns))
        return b, {"a": a, "b": b}, {}
    return b, {"a": a}, {"b": b}


def qgemm(random: Random) -> Case:
    inner, columns = random.size(2, 20), random.size(1, 9)
    a, b = random.quantised((random.rows, inner)), random.weights((inner, columns))
    per_column = (columns,) if random.flag() else ()
    transposed = random.flag()
    shape = random.pick([(), (1,), (columns,), (1, columns)])
    reach = 1 << 30 if random.extreme else 30000
    constants = {
        "a_scale": random.scale(),
        "a_zero": random.zero(),
        "b": np.ascontiguousarray(b.T) if transposed else b,
        "b_scale": random.scale(0.002, 0.05, per_column),
        "b_zero": np.full(per_column, _weight_zero(random, b), b.dtype),
        "c": random.integers(shape, -reach, reach, np.int32),
        "y_scale": random.scale(0.02, 2.0),
        "y_zero": random.zero(),
    }
    names = ["a", "a_scale", "a_zero", "b", "b_scale", "b_zero", "c" if random.flag() else ""]
    names += ["y_scale", "y_zero"] if random.flag(0.7) else []
    attributes = {"transB": int(transposed), "alpha": random.pick([1.0, 0.3, 2.5])}
    node = helper.make_node("QGemm", names, ["y"], "gemm", domain=MICROSOFT, **attributes)
    return make_case(node, {"a": a}, constants)


def quantize_linear(random: Random) -> Case:
    dtype = random.pick([np.uint8, np.int8])
    channels, length = random.size(1, 4), random.size(2, 7)
    per_axis = (channels,) if random.flag() else ()
    scale = random.scale(0.01, 1.0, per_axis)
    x = random.source.normal(size=(random.rows, channels, length), scale=60).astype(np.float32) * 0.3
    halves = (random.integers(x.shape, -300, 300, np.float32) + 0.5) * np.max(scale)
    x = np.where(random.source.random(x.shape) < 0.3, halves, x).astype(np.float32)
    if random.extreme:
        wild = random.source.choice(np.array([3.4e38, -3.4e38, 1e-45, -0.0, 1e-38], np.float32), x.shape)
        x = np.where(random.source.random(x.shape) < 0.5, wild, x)
    constants = {"scale": scale, "zero": random.quantised(per_axis, dtype)}
    names = ["x", "scale", *(["zero"] if dtype == np.int8 or random.flag() else [])]
    domain = MICROSOFT if len(names) == 3 and random.flag(0.3) else ""
    node = helper.make_node("QuantizeLinear", names, ["y"], "quantize", domain=domain)
    return make_case(node, {"x": x}, constants)


def dequantize_linear(random: Random) -> Case:
    dtype = random.pick([np.uint8, np.int8, np.int32])
    channels, length = random.size(1, 4), random.size(2, 7)
    per_axis = (channels,) if random.flag() else ()
    x = random.quantised((random.rows, channels, length), dtype)
    zeros = np.zeros(per_axis, dtype) if dtype == np.int32 else random.quantised(per_axis, dtype)
    constants = {"scale": random.scale(1e-4, 10.0, per_axis), "zero": zeros}
    names = ["x", "scale", *(["zero"] if random.flag() else [])]
    domain = MICROSOFT if len(names) == 3 and random.flag(0.3) else ""
    node = helper.make_node("DequantizeLinear", names, ["y"], "dequantize", domain=domain)
    return make_case(node, {"x": x}, constants)


def _binary(random: Random, op_type: str, y_scales: tuple[float, float]) -> Case:
    shape = (random.rows, random.size(1, 4), random.size(1, 5), random.size(2, 20))
    other = random.pick([shape, shape, (shape[1], 1, 1), (shape[-1],), (1,), (1, shape[1], 1, shape[3])])
    a, b = random.quantised(shape), random.quantised(other)
    computed = len(other) == len(shape) and other[0] != 1
    constants = {
        "a_scale": random.scale(0.01, 0.1),
        "a_zero": random.zero(),
        "b_scale": random.scale(0.01, 0.1),
        "b_zero": random.zero(),
        "y_scale": random.scale(*y_scales),
        "y_zero": random.zero(),
    } | ({} if computed else {"b": b})
    names = ["a", "a_scale", "a_zero", "b", "b_scale", "b_zero"]
    if not computed and random.flag(0.3):
        names = ["b", "b_scale", "b_zero", "a", "a_scale", "a_zero"]
    node = helper.make_node(op_type, [*names, "y_scale", "y_zero"], ["y"], "binary", domain=MICROSOFT)
    return make_case(node, {"a": a} | ({"b": b} if computed else {}), constants)


def qlinear_add(random: Random) -> Case:
    """Some are refused: with their scales CPU classes differ."""
    return _binary(random, "QLinearAdd", (0.02, 0.2))


def qlinear_mul(random: Random) -> Case:
    return _binary(random, "QLinearMul", (0.005, 0.5))


def qlinear_concat(random: Random) -> Case:
    dtype = random.pick([np.uint8, np.int8])
    count, axis = random.size(1, 10), random.integer(1, 2)
    constants: dict[str, Any] = {"y_scale": random.scale(0.01, 0.1), "y_zero": random.zero(dtype)}
    feeds, names = {}, ["y_scale", "y_zero"]
    for number in range(count):
        shape = [random.rows, 2, 2, 1 if random.tiny else 3]
        shape[axis] = random.size(1, 3)
        same = random.flag(0.3)
        if number < 7:
            feeds[f"x{number}"] = random.quantised(shape, dtype)
        constants[f"scale{number}"] = constants["y_scale"] if same else random.scale(0.01, 0.1)
        constants[f"zero{number}"] = constants["y_zero"] if same else random.zero(dtype)
        names += [f"x{number if number < 7 else 0}", f"scale{number}", f"zero{number}"]
    axis_given = axis if random.flag() else axis - 4
    node = helper.make_node("QLinearConcat", names, ["y"], "concat", domain=MICROSOFT, axis=axis_given)
    return make_case(node, feeds, constants)


def _activation(random: Random, op_type: str, **attributes: Any) -> Case:
    dtype = random.pick([np.uint8, np.int8])
    constants = {
        "x_scale": random.scale(0.005, 0.2),
        "x_zero": random.zero(dtype),
        "y_scale": random.scale(1 / 256, 0.1),
        "y_zero": random.zero(dtype),
    }
    ends = np.iinfo(dtype)
    every = np.arange(ends.min, ends.max + 1).astype(dtype)
    x = np.stack([random.source.permutation(every) for _ in range(random.rows)])
    x = x[:, :5] if random.tiny else x.reshape(3, 16, 16)
    node = helper.make_node(op_type, ["x", *constants], ["y"], "table", domain=MICROSOFT, **attributes)
    return make_case(node, {"x": x}, constants)


def qlinear_leaky_relu(random: Random) -> Case:
    return _activation(random, "QLinearLeakyRelu", alpha=random.pick([0.01, 0.1, -0.5, 3.0]))


def qlinear_sigmoid(random: Random) -> Case:
    """Some are refused: an entry of the table lies too near to a rounding boundary."""
    return _activation(random, "QLinearSigmoid")


def qlinear_average_pool(random: Random) -> Case:
    spatial = random.size(1, 3)
    sizes = [random.size(3, 9) for _ in range(spatial)]
    kernel = [random.size(1, 3) for _ in range(spatial)]
    attributes: dict[str, Any] = {"kernel_shape": kernel, "count_include_pad": random.integer(0, 1)}
    attributes["strides"] = [random.integer(1, 3) for _ in range(spatial)]
    mode = random.pick(["NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"])
    if mode == "NOTSET":
        attributes["pads"] = [random.integer(0, k - 1) for k in kernel * 2]
        attributes["ceil_mode"] = random.integer(0, 1)
    else:
        attributes["auto_pad"] = mode
        attributes["strides"] = [random.integer(1, taps) for taps in kernel]
    if random.flag(0.2):
        attributes = {"kernel_shape": sizes}
    return _pool(random, "QLinearAveragePool", sizes, attributes)


def qlinear_global_average_pool(random: Random) -> Case:
    sizes = [random.size(1, 9) for _ in range(random.size(1, 3))]
    return _pool(random, "QLinearGlobalAveragePool", sizes, {})


def _pool(random: Random, op_type: str, sizes: list[int], attributes: dict[str, Any]) -> Case:
    scale = random.scale(0.01, 0.1)
    constants = {
        "x_scale": scale,
        "x_zero": random.zero(),
        "y_scale": np.asarray(scale * random.scale(0.3, 2.0), np.float32),
        "y_zero": random.zero(),
    }
    x = random.quantised((random.rows, random.size(1, 5), *sizes))
    node = helper.make_node(op_type, ["x", *constants], ["y"], "pool", domain=MICROSOFT, **attributes)
    return make_case(node, {"x": x}, constants)


FACTORIES: Final[dict[str, Callable[[Random], Case]]] = {
    "QuantizeLinear": quantize_linear,
    "DequantizeLinear": dequantize_linear,
    "QLinearConv": qlinear_conv,
    "ConvInteger": conv_integer,
    "QLinearMatMul": qlinear_matmul,
    "MatMulInteger": matmul_integer,
    "QGemm": qgemm,
    "QLinearAdd": qlinear_add,
    "QLinearMul": qlinear_mul,
    "QLinearConcat": qlinear_concat,
    "QLinearLeakyRelu": qlinear_leaky_relu,
    "QLinearSigmoid": qlinear_sigmoid,
    "QLinearAveragePool": qlinear_average_pool,
    "QLinearGlobalAveragePool": qlinear_global_average_pool,
}


def random_case(operator: str, seed: int, *, tiny: bool = False) -> Case:
    """The same for the same seed; every third one is extreme. Tiny: one row, few hundred steps at most."""
    return FACTORIES[operator](Random(np.random.default_rng(seed), extreme=seed % 3 == 0, tiny=tiny))


def digits() -> Case:
    """The int8 network of scripts/models and a batch of random images."""
    images = np.random.default_rng(0).random((3, 1, 8, 8)).astype(np.float32) * 17
    return Case("model", DIGITS.read_bytes(), {"image": images})
