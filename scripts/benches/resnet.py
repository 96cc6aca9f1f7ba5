"""A ResNet-18 (He et al., 2015) with random int8 weights, in onnxruntime's `QOperator` form.

Weights in -64…63 with a scale per channel, unsigned activations; scales such that activations spread over
their range: about half of them are cut off at zero, few at 255.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

MICROSOFT = "com.microsoft"
STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))
"""(channels, stride of the first block); two blocks each."""
SMALL_STAGES = ((32, 1), (64, 2), (128, 2), (256, 2))
LOW, HIGH = -64, 63
WEIGHT_DEVIATION = 37.0
SCALE = np.float32(1 / 32)
"""Of all activations."""
SPREAD = 40.0
"""Wanted standard deviation of a convolution's outputs, in quantised steps."""


class _Builder:
    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.work = 0
        """Multiply-adds a row."""

    def constant(self, array: Any) -> str:
        name = f"c{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def zero(self, value: int) -> str:
        return self.constant(np.uint8(value))

    def node(self, op_type: str, inputs: list[str], domain: str = "", **attributes: Any) -> str:
        name = f"{op_type}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], name=name, domain=domain, **attributes))
        return name

    def weights(self, outputs: int, length: int, deviation: float) -> tuple[NDArray[Any], NDArray[Any]]:
        """(int8 weights, float32 scales a channel) for inputs of that deviation in quantised steps."""
        weights = self.random.integers(LOW, HIGH, (outputs, length), dtype=np.int8, endpoint=True)
        common = SPREAD / (sqrt(length) * WEIGHT_DEVIATION * deviation)
        return weights, (common * self.random.uniform(0.8, 1.25, outputs)).astype(np.float32)

    def convolution(
        self,
        x: str,
        shape: tuple[int, int, int],
        outputs: int,
        kernel: int,
        stride: int,
        *,
        x_zero: int = 0,
        y_zero: int = 0,
    ) -> tuple[str, tuple[int, int, int]]:
        """A zero point of 0 is that of a relu's output."""
        channels, height, width = shape
        length = channels * kernel * kernel
        weights, scales = self.weights(outputs, length, 74.0 if x_zero else SPREAD / sqrt(2))
        bias = self.random.integers(-1000, 1000, outputs, dtype=np.int32)
        pad = kernel // 2
        inputs = [
            x,
            self.constant(SCALE),
            self.zero(x_zero),
            self.constant(weights.reshape(outputs, channels, kernel, kernel)),
            self.constant(scales),
            self.constant(np.int8(0)),
            self.constant(SCALE),
            self.zero(y_zero),
            self.constant(bias),
        ]
        y = self.node("QLinearConv", inputs, kernel_shape=[kernel] * 2, pads=[pad] * 4, strides=[stride] * 2)
        out = (outputs, -(-height // stride), -(-width // stride))
        self.work += length * outputs * out[1] * out[2]
        return y, out

    def block(
        self, x: str, shape: tuple[int, int, int], channels: int, stride: int
    ) -> tuple[str, tuple[int, int, int]]:
        inner, middle = self.convolution(x, shape, channels, 3, stride)
        inner, out = self.convolution(inner, middle, channels, 3, 1, y_zero=128)
        zero = 0
        if shape != out:
            x, _ = self.convolution(x, shape, channels, 1, stride, y_zero=128)
            zero = 128
        inputs = [inner, self.constant(SCALE), self.zero(128), x, self.constant(SCALE), self.zero(zero)]
        inputs += [self.constant(np.float32(SCALE * sqrt(2))), self.zero(0)]
        return self.node("QLinearAdd", inputs, MICROSOFT), out


def build_resnet(size: int = 168, classes: int = 1000, seed: int = 18) -> bytes:
    """The ONNX file: float32 images [N, 3, size, size] to logits; 1.1 G multiply-adds a row at 168."""
    build = _Builder(seed)
    x = build.node("QuantizeLinear", ["image", build.constant(SCALE), build.zero(128)])
    x, shape = build.convolution(x, (3, size, size), 64, 7, 2, x_zero=128)
    x = build.node("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    shape = (shape[0], -(-shape[1] // 2), -(-shape[2] // 2))
    return _finish(build, x, shape, size, STAGES, classes)


def build_small_resnet(size: int = 32, classes: int = 10, seed: int = 18) -> bytes:
    """The form for small images, at half the width: no halving before the first stage. 2.8 M parameters,
    139 M multiply-adds a row at 32."""
    build = _Builder(seed)
    x = build.node("QuantizeLinear", ["image", build.constant(SCALE), build.zero(128)])
    x, shape = build.convolution(x, (3, size, size), SMALL_STAGES[0][0], 3, 1, x_zero=128)
    return _finish(build, x, shape, size, SMALL_STAGES, classes)


def _finish(
    build: _Builder,
    x: str,
    shape: tuple[int, int, int],
    size: int,
    stages: Sequence[tuple[int, int]],
    classes: int,
) -> bytes:
    """The stages of blocks, the classifier, and the file."""
    for channels, stride in stages:
        x, shape = build.block(x, shape, channels, stride)
        x, shape = build.block(x, shape, channels, 1)
    scale, zero = build.constant(SCALE), build.zero(0)
    x = build.node("QLinearGlobalAveragePool", [x, scale, zero, scale, zero], MICROSOFT)
    x = build.node("Flatten", [x])
    weights, scales = build.weights(classes, shape[0], 20.0)
    constants = [
        weights,
        scales,
        np.zeros(classes, np.int8),
        np.zeros(classes, np.int32),
        SCALE,
        np.uint8(128),
    ]
    inputs = [x, scale, zero, *map(build.constant, constants)]
    build.node("DequantizeLinear", [build.node("QGemm", inputs, MICROSOFT, transB=1), scale, build.zero(128)])
    build.nodes[-1].output[0] = "logits"
    graph = helper.make_graph(
        build.nodes,
        "resnet18-int8",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, size, size])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", classes])],
        build.initializers,
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(MICROSOFT, 1)]
    content: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    return content
