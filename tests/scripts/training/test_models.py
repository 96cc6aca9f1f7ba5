"""The committed models are what their cards say."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from scripts.training.datasets import Split, load_breast_cancer_split, load_digits_split
from scripts.training.recipes import build_models

MODELS = Path(__file__).resolve().parents[3] / "scripts" / "models"
SPLITS = {
    "digits": load_digits_split,
    "digits-int8": load_digits_split,
    "breast-cancer": load_breast_cancer_split,
}
NAMES = sorted(SPLITS)


def run(name: str, inputs: npt.NDArray[np.float64], output: int = 0) -> npt.NDArray[np.generic]:
    session = ort.InferenceSession(MODELS / name / "model.onnx", providers=["CPUExecutionProvider"])
    result: npt.NDArray[np.generic] = session.run(
        None, {session.get_inputs()[0].name: inputs.astype(np.float32)}
    )[output]
    return result


def accuracy(name: str, split: Split) -> float:
    out = run(name, split.held_out_inputs)
    labels = out if out.ndim == 1 else out.argmax(axis=1)
    return float((labels == split.held_out_labels).mean())


def test_models__folder__holds_just_the_models_tested_here() -> None:
    assert sorted(path.parent.name for path in MODELS.glob("*/model.onnx")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_card__accuracy__is_what_the_committed_file_reaches(name: str) -> None:
    card = (MODELS / name / "MODEL_CARD.md").read_text()
    stated = re.search(r"\| accuracy \| ([\d.]+) % on (\d+) held-out", card)
    assert stated, f"{name}/MODEL_CARD.md states no accuracy"
    split = SPLITS[name]()
    assert len(split.held_out_labels) == int(stated[2])
    assert f"{100 * accuracy(name, split):.1f}" == stated[1]


def test_digits__held_out__reach_97_percent_and_int8_stays_within_one() -> None:
    split = load_digits_split()
    floating, quantized = accuracy("digits", split), accuracy("digits-int8", split)
    assert floating >= 0.97
    assert quantized >= floating - 0.01


@pytest.mark.parametrize("name", NAMES)
def test_graph__signature__has_a_symbolic_batch_and_static_rows_in_the_standard_domain(name: str) -> None:
    model = onnx.load(MODELS / name / "model.onnx")
    assert {opset.domain for opset in model.opset_import} == {""}
    assert {node.domain for node in model.graph.node} == {""}
    for info in [*model.graph.input, *model.graph.output]:
        batch, *row = info.type.tensor_type.shape.dim
        assert batch.dim_param == "N"
        assert all(dim.dim_value > 0 for dim in row)


@pytest.mark.parametrize("name", NAMES)
def test_run__empty_batch_and_many_rows__keep_the_batch_dimension(name: str) -> None:
    inputs = SPLITS[name]().held_out_inputs
    assert len(run(name, inputs[:0])) == 0
    assert len(run(name, inputs[:7])) == 7


def test_digits_int8__rows_alone_and_together__are_bit_equal() -> None:
    inputs = load_digits_split().held_out_inputs[:16]
    together = run("digits-int8", inputs)
    alone = np.concatenate([run("digits-int8", inputs[i : i + 1]) for i in range(len(inputs))])
    assert together.tobytes() == alone.tobytes()


def test_digits_int8__weights_and_activations__cannot_saturate_int16() -> None:
    graph = onnx.load(MODELS / "digits-int8" / "model.onnx").graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    convolutions = [node for node in graph.node if node.op_type == "QLinearConv"]
    assert len(convolutions) == 4
    for node in convolutions:
        weight = constants[node.input[3]]
        assert weight.dtype == np.int8
        assert -64 <= weight.min() <= weight.max() <= 63
        assert not constants[node.input[5]].any()
        assert constants[node.input[2]].dtype == constants[node.input[7]].dtype == np.uint8


def test_breast_cancer__probabilities__sum_to_one_and_their_larger_is_the_label() -> None:
    inputs = load_breast_cancer_split().held_out_inputs
    labels, probabilities = run("breast-cancer", inputs), run("breast-cancer", inputs, output=1)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, rtol=1e-6)
    np.testing.assert_array_equal(labels, probabilities.argmax(axis=1))


@pytest.mark.deep
def test_build_models__trained_again__gives_the_committed_bytes() -> None:
    for name, model in build_models().items():
        assert (MODELS / name / "model.onnx").read_bytes() == model.SerializeToString(deterministic=True), (
            name
        )
