"""ONNX graphs of what was trained: the digits network in float32 and in int8, the linear classifier.

The batch dimension is symbolic (`N`), everything else static. Bytes depend on nothing but the weights.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from assay.cli.quantising import run_quantiser
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationMethod
from onnxruntime.quantization.calibrate import TensorsData, save_tensors_data

from .network import Array, Conv, activations, round_significant

OPSET = 17
IR_VERSION = 8


def digits_graph(network: list[Conv]) -> onnx.ModelProto:
    """Convolutions down to one position, so that even the int8 graph needs standard operators only.

    image FP32 (N, 1, 8, 8) of 0 to 16 → logits FP32 (N, classes).
    """
    nodes, constants, x = [], [], "image"
    for i, layer in enumerate(network, 1):
        constants += [_constant(f"weight{i}", layer.weight), _constant(f"bias{i}", layer.bias)]
        side = layer.weight.shape[2]
        nodes.append(
            helper.make_node(
                "Conv",
                [x, f"weight{i}", f"bias{i}"],
                [f"conv{i}"],
                name=f"conv{i}",
                kernel_shape=[side, side],
                pads=[layer.pad] * 4,
            )
        )
        x = f"conv{i}"
        if layer is not network[-1]:
            nodes.append(helper.make_node("Relu", [x], [f"relu{i}"], name=f"relu{i}"))
            x = f"relu{i}"
        if layer.pool:
            nodes.append(
                helper.make_node(
                    "MaxPool", [x], [f"pool{i}"], name=f"pool{i}", kernel_shape=[2, 2], strides=[2, 2]
                )
            )
            x = f"pool{i}"
    classes = len(network[-1].bias)
    constants.append(numpy_helper.from_array(np.array([0, classes], np.int64), "logits_shape"))
    nodes.append(helper.make_node("Reshape", [x, "logits_shape"], ["logits"], name="reshape"))
    return _model(
        "digits",
        nodes,
        constants,
        {"image": (TensorProto.FLOAT, (1, 8, 8))},
        {"logits": (TensorProto.FLOAT, (classes,))},
    )


def linear_graph(name: str, weight: Array, bias: Array) -> onnx.ModelProto:
    """features FP32 (N, features) → label INT64 (N), probabilities FP32 (N, classes).

    `weight` is (features, classes), `bias` (classes,).
    """
    nodes = [
        helper.make_node("Gemm", ["features", "weight", "bias"], ["scores"], name="gemm"),
        helper.make_node("Softmax", ["scores"], ["probabilities"], name="softmax", axis=1),
        helper.make_node("ArgMax", ["scores"], ["label"], name="argmax", axis=1, keepdims=0),
    ]
    features, classes = weight.shape
    return _model(
        name,
        nodes,
        [_constant("weight", weight), _constant("bias", bias)],
        {"features": (TensorProto.FLOAT, (features,))},
        {"label": (TensorProto.INT64, ()), "probabilities": (TensorProto.FLOAT, (classes,))},
    )


def quantize_digits(model: onnx.ModelProto, network: list[Conv], images: Array) -> onnx.ModelProto:
    """The same network as `QLinearConv` integers by onnxruntime's own quantiser.

    With the settings of `assay model quantize`. The calibration ranges come from this package's
    float64 network instead of float32 kernels, whose last bits differ between CPUs.
    """
    with tempfile.TemporaryDirectory() as folder:
        ranges = Path(folder, "ranges.json")
        save_tensors_data(TensorsData(CalibrationMethod.MinMax, _ranges(network, images)), ranges)
        quantized = run_quantiser(model, ranges=ranges)
    quantized.graph.name = "digits-int8"
    return quantized


def _ranges(network: list[Conv], images: Array) -> Mapping[str, tuple[npt.NDArray[np.float32], ...]]:
    """Lowest and highest value of every tensor of `digits_graph`; a ReLU's range is its convolution's too."""
    tensors = {"image": (0.0, 16.0)}
    outputs = activations(network, images)
    for i, layer in enumerate(network, 1):
        out = next(outputs)
        tensors[f"conv{i}"] = tensors[f"relu{i}"] = (float(out.min()), float(out.max()))
        if layer.pool:
            next(outputs)
            tensors[f"pool{i}"] = tensors[f"relu{i}"]
    tensors["logits"] = tensors[f"conv{len(network)}"]
    return {
        name: tuple(round_significant(np.array(bound)).astype(np.float32) for bound in bounds)
        for name, bounds in tensors.items()
    }


def _constant(name: str, values: Array) -> TensorProto:
    exact = values.astype(np.float32)
    if not np.array_equal(exact, values):
        raise ValueError(f"{name} does not fit float32 exactly; round it first")
    return numpy_helper.from_array(exact, name)


Signature = Mapping[str, tuple[int, tuple[int, ...]]]


def _model(
    name: str,
    nodes: list[onnx.NodeProto],
    constants: list[TensorProto],
    inputs: Signature,
    outputs: Signature,
) -> onnx.ModelProto:
    def infos(signature: Signature) -> list[onnx.ValueInfoProto]:
        return [
            helper.make_tensor_value_info(tensor, dtype, ["N", *shape])
            for tensor, (dtype, shape) in signature.items()
        ]

    graph = helper.make_graph(nodes, name, infos(inputs), infos(outputs), constants)
    model = helper.make_model(
        graph,
        producer_name="assay",
        ir_version=IR_VERSION,
        opset_imports=[helper.make_operatorsetid("", OPSET)],
    )
    onnx.checker.check_model(model, full_check=True)
    return model
