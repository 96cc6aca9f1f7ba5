"""Changes output scales by a few parts in ten thousand, so that all CPU classes agree on what is computed
with them.

QLinearAdd and QLinearSigmoid are in the profile for most scales, not for all: near a rounding boundary a sum
with
and without fused multiply-add may differ. Another scale nearby moves the boundaries.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx
from onnx import numpy_helper

from assay.exact.lowering.lower import check_model
from assay.exact.lowering.quantisation import SCALE_CURE

OUTPUT_SCALES: Final = {"QLinearAdd": 6, "QLinearSigmoid": 3}
"""Which input is the output's scale."""
MAX_ROUNDS: Final = 64
STEP: Final = 1 + 2.0**-12


def adjust_scales(artifact: bytes) -> bytes:
    """The file with the scales of such nodes raised by as little as makes them agree; as it was, if none is
    in the way.

    A scale is a named initialiser, which the quantiser shares between a tensor's maker and its readers, so
    that
    both go on with the new one. Nodes that no nearby scale helps stay, for `check_model` to name.
    """
    model = onnx.ModelProto.FromString(artifact)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    names = _output_scales(model)
    for _ in range(MAX_ROUNDS):
        findings = check_model(artifact).findings
        wanted = {names.get(finding.node, "") for finding in findings if finding.cure == SCALE_CURE}
        adjustable = sorted(wanted & stored.keys())
        if not adjustable:
            return artifact
        for name in adjustable:
            scale = numpy_helper.to_array(stored[name])
            raised = (scale.astype(np.float64) * STEP).astype(np.float32)
            stored[name].CopyFrom(numpy_helper.from_array(raised.reshape(scale.shape), name))
        artifact = model.SerializeToString(deterministic=True)
    return artifact


def _output_scales(model: onnx.ModelProto) -> dict[str, str]:
    """By node, named as findings name it: the initialiser of its output's scale."""
    return {
        node.name or f"#{position}": node.input[OUTPUT_SCALES[node.op_type]]
        for position, node in enumerate(model.graph.node)
        if node.op_type in OUTPUT_SCALES and len(node.input) > OUTPUT_SCALES[node.op_type]
    }
