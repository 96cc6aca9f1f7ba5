"""ONNX's own backend tests of one operator each (`onnx.backend.test`): models, inputs, expected outputs."""

from __future__ import annotations

import importlib
import warnings
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

Array = NDArray[Any]
_MODULES = {
    "And": "and_",
    "GreaterOrEqual": "greater_or_equal",
    "LessOrEqual": "less_or_equal",
    "Not": "not_",
    "Or": "or_",
}
"""Where a module is not named as its operator."""


@dataclass(frozen=True)
class Case:
    """`artifact` takes `feeds`, its inputs by name; `expected` are the outputs that ONNX's authors give."""

    name: str
    op_type: str
    domain: str
    artifact: bytes
    feeds: dict[str, Array]
    expected: list[Array]


@cache
def load_cases(op_type: str) -> tuple[Case, ...]:
    """The cases in the operator's module of ONNX's tests: one node, plain tensors as inputs and outputs.

    Of what the module gives for other operators (expanded functions) nothing is taken. Loading all modules
    would take half a minute; one takes a moment.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its generators overflow on purpose
        package = importlib.import_module("onnx.backend.test.case.node")
        importlib.import_module(f"{package.__name__}.{_MODULES.get(op_type, op_type.lower())}")
    made = (_read_case(one) for one in package._NodeTestCases if one.data_sets)
    return tuple(case for case in made if case and (case.domain, case.op_type) == ("", op_type))


def _read_case(one: Any) -> Case | None:
    graph = one.model.graph
    inputs, outputs = one.data_sets[0]
    arrays = [_array(item) for item in (*inputs, *outputs)]
    known = [array for array in arrays if array is not None]
    if len(graph.node) != 1 or len(known) < len(arrays):
        return None
    feeds = dict(zip([value.name for value in graph.input], known[: len(inputs)], strict=False))
    node = graph.node[0]
    artifact = one.model.SerializeToString()
    return Case(one.name, node.op_type, node.domain, artifact, feeds, known[len(inputs) :])


def _array(item: Any) -> Array | None:
    if isinstance(item, onnx.TensorProto):
        return numpy_helper.to_array(item)
    return item if isinstance(item, np.ndarray) else None


def with_constants(case: Case, kept: int, opsets: range) -> tuple[bytes, dict[str, Array]]:
    """The model with all inputs but the first `kept` stored in it, and the inputs that are left.

    Where its operator set is outside `opsets`, it names the nearest one instead: where that has another
    definition of the operator, the outputs that ONNX expects are still to be met.
    """
    model = onnx.ModelProto.FromString(case.artifact)
    model.ir_version = min(
        model.ir_version, 10
    )  # later ones onnxruntime does not read; they change nothing here
    for entry in model.opset_import:
        if not entry.domain:
            entry.version = min(max(entry.version, opsets.start), opsets.stop - 1)
    values = list(model.graph.input)
    del model.graph.input[:]
    model.graph.input.extend(values[:kept])
    stored = [value.name for value in values[kept:]]
    model.graph.initializer.extend(numpy_helper.from_array(case.feeds[name], name) for name in stored)
    left = {name: array for name, array in case.feeds.items() if name not in stored}
    return model.SerializeToString(), left
