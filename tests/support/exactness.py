"""Holds a model's program to onnxruntime: lowered, evaluated, compared bit for bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from assay.commitments.tensors import onnx_dtype
from assay.exact.evaluator import evaluate
from assay.exact.lowering import Finding, UnsupportedModel, lower
from assay.exact.program import Program
from numpy.typing import NDArray
from onnx import helper

from tests.support.onnx_models import build_model, tensor, value

Array = NDArray[Any]
ROWS = "rows"
"""The batch axis of a model's inputs."""
FLOATS = (0.0, 1e-45, -1e-45, 1.5, -1.5, 2.5, 1e-38, -1e-38, 16777217.0, 3.4028235e38, -3.4028235e38, 1 / 3)
"""Extreme float32 values; without −0, which some operators are refused for."""


def node(op_type: str, inputs: Sequence[str], outputs: Sequence[str] = ("y",), **attributes: Any) -> Any:
    domain = attributes.pop("domain", "")
    return helper.make_node(
        op_type, inputs, outputs, name=f"/{op_type}/{outputs[0]}", domain=domain, **attributes
    )


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Array],
    constants: Mapping[str, Array] | None = None,
    *,
    outputs: Sequence[str] = ("y",),
    opset: int = 21,
    batched: bool = True,
) -> bytes:
    """A model whose inputs have the arrays' dtypes and dims, the first dim open if batched."""
    declared = [
        value(name, [ROWS, *array.shape[1:]] if batched else array.shape, onnx_dtype(array.dtype))
        for name, array in inputs.items()
    ]
    results = [helper.make_empty_tensor_value_info(name) for name in outputs]
    stored = [tensor(name, array) for name, array in (constants or {}).items()]
    opsets = {"": opset, "com.microsoft": 1}
    return bytes(build_model(nodes, declared, results, stored, opsets).SerializeToString())


def run_onnxruntime(artifact: bytes, feeds: Mapping[str, Array], *, optimised: bool = True) -> list[Array]:
    """One thread. Raises onnxruntime's errors."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimised else level.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(artifact, options, providers=["CPUExecutionProvider"])
    results: list[Array] = session.run(None, dict(feeds))
    return results


def run_program(program: Program, feeds: Mapping[str, Array]) -> list[Array]:
    """The program's outputs for inputs by name."""
    return list(evaluate(program, [feeds[one.name] for one in program.inputs]))


def same_bits(a: Array, b: Array) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def assert_exact(artifact: bytes, feeds: Mapping[str, Array]) -> list[Array]:
    """The program equals onnxruntime, optimised and not, together and row by row. Answers the outputs."""
    program = lower(artifact)
    mine = run_program(program, feeds)
    for optimised in (False, True):
        theirs = run_onnxruntime(artifact, feeds, optimised=optimised)
        for a, b in zip(mine, theirs, strict=True):
            assert same_bits(a, b), f"optimised={optimised}: {describe(a, b)}"
    if program.batched:
        row = {name: array[-1:] for name, array in feeds.items()}
        for a, b in zip(mine, run_onnxruntime(artifact, row), strict=True):
            assert same_bits(a[-1:], b), f"the last row alone: {describe(a[-1:], b)}"
    return mine


def describe(a: Array, b: Array) -> str:
    """Where two tensors differ, and how."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return f"{a.dtype}{list(a.shape)} against onnxruntime's {b.dtype}{list(b.shape)}"
    where = np.argwhere(_words(a) != _words(b))
    first = tuple(where[0])
    return f"{len(where)} of {a.size} differ, first at {first}: {a[first]!r} against {b[first]!r}"


def _words(array: Array) -> Array:
    return array.view(np.uint32) if array.dtype == np.float32 else array


def assert_refused(artifact: bytes, *words: str) -> Finding:
    """The model's only finding is of its node; reason and cure hold the words."""
    with pytest.raises(UnsupportedModel) as caught:
        lower(artifact)
    (finding,) = caught.value.findings
    for word in words:
        assert word in str(finding)
    assert finding.reason
    assert finding.cure
    return finding


def extremes(dtype: Any, shape: Sequence[int], random: np.random.Generator) -> Array:
    """Random values among which ends of the dtype, zeros and neighbours are frequent."""
    kind = np.dtype(dtype)
    if kind.kind == "b":
        return random.integers(0, 2, shape).astype(bool)
    if kind == np.float32:
        rare = random.choice(np.array(FLOATS, np.float32), shape)
        common = (random.normal(size=shape) * 8).astype(np.float32)
        return np.where(random.random(shape) < 0.4, rare, common).astype(np.float32)
    ends = np.iinfo(kind)
    edge = [ends.min, ends.min + 1, ends.max, ends.max - 1, 0, 1, 2]
    wild = random.choice(np.array(edge, kind), shape)
    calm = random.integers(ends.min, ends.max, shape, dtype=kind, endpoint=True)
    return np.where(random.random(shape) < 0.5, wild, calm).astype(kind)
