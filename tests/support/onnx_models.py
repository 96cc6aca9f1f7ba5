"""Tiny ONNX models for tests: honest ones and hostile ones, as bytes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from assay.commitments.manifest import Manifest
from assay.types import Hash32, TensorSpec
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT


def build_model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    initializers: Sequence[onnx.TensorProto] = (),
    opsets: dict[str, int] | None = None,
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "test", inputs, outputs, initializers)
    sets = [helper.make_opsetid(domain, version) for domain, version in (opsets or {"": 17}).items()]
    return helper.make_model(graph, opset_imports=sets, ir_version=10)


def value(name: str, shape: Sequence[int | str | None], dtype: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def tensor(name: str, array: Any) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(array), name)


def linear_model(inputs: int = 4, outputs: int = 3, seed: int = 0) -> bytes:
    """`y = x · w + b`, float32, any number of rows."""
    random = np.random.default_rng(seed)
    weights = random.normal(size=(inputs, outputs)).astype(np.float32)
    bias = random.normal(size=outputs).astype(np.float32)
    model = build_model(
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"])],
        [value("x", ["rows", inputs])],
        [value("y", ["rows", outputs])],
        [tensor("w", weights), tensor("b", bias)],
    )
    return bytes(model.SerializeToString())


def mlp_model(sizes: Sequence[int] = (64, 128, 64, 10), seed: int = 0) -> bytes:
    """A float32 network of fully connected layers with ReLU between them."""
    random = np.random.default_rng(seed)
    nodes, initializers, last = [], [], "x"
    for i, (rows, columns) in enumerate(itertools.pairwise(sizes)):
        weights = random.normal(size=(rows, columns), scale=rows**-0.5).astype(np.float32)
        initializers += [tensor(f"w{i}", weights), tensor(f"b{i}", np.zeros(columns, np.float32))]
        is_last = i == len(sizes) - 2
        out = "y" if is_last else f"h{i}"
        nodes.append(helper.make_node("Gemm", [last, f"w{i}", f"b{i}"], [out]))
        last = out
        if not is_last:
            nodes.append(helper.make_node("Relu", [out], [f"r{i}"]))
            last = f"r{i}"
    model = build_model(
        nodes, [value("x", ["rows", sizes[0]])], [value("y", ["rows", sizes[-1]])], initializers
    )
    return bytes(model.SerializeToString())


def convolution_model(seed: int = 0, side: int = 4, channels: int = 2) -> bytes:
    """One `QLinearConv` in the exact profile: uint8 (rows, 1, side, side) to uint8 (rows, channels, …)."""
    random = np.random.default_rng(seed)
    weights = random.integers(-64, 64, (channels, 1, 3, 3)).astype(np.int8)
    scale, zero = np.float32(0.02), np.uint8(7)
    model = build_model(
        [
            helper.make_node(
                "QLinearConv",
                ["x", "s", "z", "w", "ws", "wz", "ys", "yz"],
                ["y"],
                name="conv",
                kernel_shape=[3, 3],
                pads=[1, 1, 1, 1],
            )
        ],
        [value("x", ["rows", 1, side, side], TensorProto.UINT8)],
        [value("y", ["rows", channels, side, side], TensorProto.UINT8)],
        [
            *(tensor("s", scale), tensor("z", zero), tensor("w", weights)),
            *(tensor("ws", np.float32(0.01)), tensor("wz", np.int8(0))),
            *(tensor("ys", np.float32(0.05)), tensor("yz", np.uint8(128))),
        ],
    )
    return bytes(model.SerializeToString())


def echo_model() -> bytes:
    """Three inputs of different types, each given back: int64 `n`, string `s`, bool `b`."""
    pairs = [("n", TensorProto.INT64), ("s", TensorProto.STRING), ("b", TensorProto.BOOL)]
    model = build_model(
        [helper.make_node("Identity", [name], [f"{name}_out"]) for name, _ in pairs],
        [value(name, ["rows", 2], dtype) for name, dtype in pairs],
        [value(f"{name}_out", ["rows", 2], dtype) for name, dtype in pairs],
    )
    return bytes(model.SerializeToString())


def logarithm_model() -> bytes:
    """`y = log(x)`: finite inputs with outputs that are not."""
    model = build_model(
        [helper.make_node("Log", ["x"], ["y"])], [value("x", ["rows", 2])], [value("y", ["rows", 2])]
    )
    return bytes(model.SerializeToString())


def manifest_of(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> Manifest:
    return Manifest(tuple(inputs), tuple(outputs), "Apache-2.0", Hash32(bytes(32)), Hash32(bytes(32)))


def linear_manifest(inputs: int = 4, outputs: int = 3) -> Manifest:
    return manifest_of([TensorSpec("x", "FP32", (-1, inputs))], [TensorSpec("y", "FP32", (-1, outputs))])
