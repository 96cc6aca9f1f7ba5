"""Random graphs of quantised and structural operators, with branches, layouts and joins to rewrite."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from tests.support.exact_models import MICROSOFT, Case
from tests.support.onnx_models import build_model, tensor, value

ROWS: Final = 3


@dataclass(frozen=True)
class Image:
    """A uint8 tensor of a network: channels × size × size, with the names of its scale and zero point."""

    name: str
    channels: int
    size: int
    scale: str
    zero: str

    @property
    def parameters(self) -> list[str]:
        return [self.name, self.scale, self.zero]


@dataclass
class Network:
    """Grows node by node; `images` are what further nodes may read."""

    random: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    images: list[Image] = field(default_factory=list)

    def constant(self, array: Any) -> str:
        self.constants.append(tensor(f"c{len(self.constants)}", np.asarray(array)))
        return str(self.constants[-1].name)

    def node(self, op_type: str, inputs: list[str], **attributes: Any) -> str:
        name = f"{op_type}{len(self.nodes)}"
        domain = MICROSOFT if op_type.startswith("QLinear") and op_type != "QLinearConv" else ""
        self.nodes.append(helper.make_node(op_type, inputs, [name], name=name, domain=domain, **attributes))
        return name

    def parameters(self) -> tuple[str, str]:
        scale = np.float32(np.exp(self.random.uniform(-4, -1.5)))
        zero = np.uint8(self.random.choice([0, 128, self.random.integers(256)]))
        return self.constant(scale), self.constant(zero)

    def alike(self, image: Image, *, channels: bool) -> Image:
        """Another image of the same size (and channels)."""
        fits = [
            one
            for one in self.images
            if one.size == image.size and (not channels or one.channels == image.channels)
        ]
        return fits[self.random.integers(len(fits))]


def _convolution(net: Network, x: Image) -> Image:
    outputs, kernel = int(net.random.integers(2, 9)), int(net.random.choice([1, 3]))
    shape = (outputs, x.channels, kernel, kernel)
    signed = net.random.random() < 0.6
    weights = net.random.integers(-64, 65, shape) if signed else net.random.integers(0, 256, shape)
    weights = weights.astype(np.int8 if signed else np.uint8)
    scales = net.random.uniform(0.005, 0.02, outputs).astype(np.float32)
    quantised = [weights, scales, np.zeros(outputs, weights.dtype)]
    bias = net.random.integers(-1000, 1000, outputs).astype(np.int32)
    new = net.parameters()
    inputs = [*x.parameters, *map(net.constant, quantised), *new, net.constant(bias)]
    name = net.node("QLinearConv", inputs, pads=[kernel // 2] * 4)
    return Image(name, outputs, x.size, *new)


def _max_pool(net: Network, x: Image) -> Image:
    name = net.node("MaxPool", [x.name], kernel_shape=[2, 2], strides=[2, 2])
    return Image(name, x.channels, x.size // 2, x.scale, x.zero)


def _average_pool(net: Network, x: Image) -> Image:
    new = net.parameters()
    included = int(net.random.integers(2))
    attributes = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": included}
    return Image(
        net.node("QLinearAveragePool", [*x.parameters, *new], **attributes), x.channels, x.size, *new
    )


def _binary(net: Network, x: Image) -> Image:
    op_type = str(net.random.choice(["QLinearAdd", "QLinearMul"]))
    other = net.alike(x, channels=True).parameters
    if net.random.random() < 0.3:
        each = net.random.integers(0, 256, (x.channels, 1, 1)).astype(np.uint8)
        other = [net.constant(each), *net.parameters()]
    new = net.parameters()
    return Image(net.node(op_type, [*x.parameters, *other, *new]), x.channels, x.size, *new)


def _leaky_relu(net: Network, x: Image) -> Image:
    new = net.parameters()
    return Image(net.node("QLinearLeakyRelu", [*x.parameters, *new], alpha=0.1), x.channels, x.size, *new)


def _sigmoid(net: Network, x: Image) -> Image:
    new = net.constant(np.float32(1 / 256)), net.constant(np.uint8(0))
    return Image(net.node("QLinearSigmoid", [*x.parameters, *new]), x.channels, x.size, *new)


def _there_and_back(net: Network, x: Image) -> Image:
    """Channels last for a while."""
    moved = Image(net.node("Transpose", [x.name], perm=[0, 2, 3, 1]), x.channels, x.size, x.scale, x.zero)
    moved = _leaky_relu(net, moved)
    back = net.node("Transpose", [moved.name], perm=[0, 3, 1, 2])
    return Image(back, x.channels, x.size, moved.scale, moved.zero)


def _concatenation(net: Network, x: Image) -> Image:
    other, new = net.alike(x, channels=False), net.parameters()
    name = net.node("QLinearConcat", [*new, *x.parameters, *other.parameters], axis=1)
    return Image(name, x.channels + other.channels, x.size, *new)


def _padding(net: Network, x: Image) -> Image:
    pads = net.constant(np.array([0, 0, 1, 1, 0, 0, 1, 1]))
    name = net.node("Pad", [x.name, pads, net.constant(np.uint8(net.random.choice([0, 7])))])
    return Image(name, x.channels, x.size + 2, x.scale, x.zero)


_STEPS: Final[tuple[Callable[[Network, Image], Image], ...]] = (
    _convolution,
    _convolution,
    _max_pool,
    _average_pool,
    _binary,
    _binary,
    _leaky_relu,
    _sigmoid,
    _there_and_back,
    _concatenation,
    _padding,
)


def random_network(seed: int) -> Case:
    """The same for the same seed; float32 or uint8 images in, floats out."""
    random = np.random.default_rng(seed)
    net = Network(random)
    channels, size = int(random.integers(2, 5)), int(random.integers(6, 10))
    pixels: NDArray[Any] = random.integers(0, 256, (ROWS, channels, size, size)).astype(np.uint8)
    name, dtype, first = "x", TensorProto.UINT8, net.parameters()
    if random.random() < 0.5:
        pixels, dtype = (random.normal(size=pixels.shape) * 5).astype(np.float32), TensorProto.FLOAT
        name = net.node("QuantizeLinear", ["x", *first])
    net.images.append(Image(name, channels, size, *first))
    for _ in range(random.integers(2, 8)):
        x = net.images[max(0, len(net.images) - int(random.integers(1, 3)))]
        step = _STEPS[random.integers(len(_STEPS))]
        if x.size >= 4 and x.channels <= 16:
            net.images.append(step(net, x))
    last = net.images[-1]
    if random.random() < 0.5:
        pooled = net.node("QLinearGlobalAveragePool", [*last.parameters, last.scale, last.zero])
        last = Image(pooled, last.channels, 1, last.scale, last.zero)
    net.nodes.append(helper.make_node("DequantizeLinear", last.parameters, ["y"], name="out"))
    model = build_model(
        net.nodes,
        [value("x", ["rows", channels, size, size], dtype)],
        [helper.make_empty_tensor_value_info("y")],
        net.constants,
        {"": int(random.choice([13, 17, 21])), MICROSOFT: 1},
    )
    return Case("network", bytes(model.SerializeToString()), {"x": pixels})
