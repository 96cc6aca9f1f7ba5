"""`assay model check` and `assay model quantize` on real models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from assay.cli import main
from assay.cli.quantising import WEIGHT_MAX, clip_weights
from assay.exact.lowering import lower
from assay.programs.figures import figures_of
from click.testing import Result
from onnx import helper, numpy_helper

from scripts.training.datasets import load_digits_split
from tests.support.cli import RUNNER
from tests.support.onnx_models import build_model, convolution_model, linear_model, tensor, value

MODELS = Path(__file__).resolve().parents[4] / "scripts" / "models"


def run(*args: str | Path, code: int = 0) -> Result:
    result = RUNNER.invoke(main, ["model", *map(str, args)], catch_exceptions=False)
    assert result.exit_code == code, result.output + result.stderr
    return result


def loads(result: Result) -> Any:
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """calibration.npz and labelled.npz of the digits."""
    folder, split = tmp_path_factory.mktemp("digits"), load_digits_split()
    np.savez(folder / "calibration.npz", image=split.train_inputs[:100].astype(np.float32))
    inputs, labels = split.held_out_inputs.astype(np.float32), split.held_out_labels
    np.savez(folder / "labelled.npz", image=inputs, labels=labels)
    return folder


def test_check__model_of_the_profile__gives_root_and_figures(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(convolution_model())
    found, program = loads(run("check", path, "--json")), lower(convolution_model())
    assert (found["exact"], found["program_root"]) == (True, "0x" + program.root.hex())
    figures = figures_of(program)
    assert found["figures"] == {name: getattr(figures, name) for name in figures.__slots__}
    assert found["findings"] == []
    assert "is in the exact profile" in run("check", path).stdout


def test_check__float_model__names_each_node_with_a_cure_and_exits_1() -> None:
    path = MODELS / "digits" / "model.onnx"
    found = loads(run("check", path, "--json", code=1))
    assert (found["exact"], found["program_root"], found["figures"]) == (False, None, None)
    named = {finding["node"]: finding for finding in found["findings"]}
    assert {"conv1", "conv4"} <= set(named) and all(one["reason"] and one["cure"] for one in named.values())
    shown = run("check", path, code=1).stdout
    assert "outside the exact profile" in shown and "conv1" in shown


def test_check__no_onnx_file__is_outside(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    (finding,) = loads(run("check", tmp_path / "text", "--json", code=1))["findings"]
    assert "does not parse" in finding["reason"]


def test_quantize__digits__is_exact_and_nearly_as_accurate(digits: Path, tmp_path: Path) -> None:
    output = tmp_path / "int8.onnx"
    data = ("--calibration", digits / "calibration.npz", "--data", digits / "labelled.npz")
    found = loads(run("quantize", MODELS / "digits" / "model.onnx", *data, "--output", output, "--json"))
    assert found["output"] == str(output)
    assert (found["exact"], found["program_root"]) == (True, "0x" + lower(output.read_bytes()).root.hex())
    measured = found["measured"]
    assert measured["rows"] == 360
    assert measured["before"] >= 0.97 and measured["after"] >= measured["before"] - 0.02
    assert measured["agreement"] >= 0.97 and measured["largest_difference"] > 0
    graph = onnx.load(output).graph
    constants = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    weights = [constants[node.input[3]] for node in graph.node if node.op_type == "QLinearConv"]
    assert all(one.min() >= -64 and one.max() <= 63 for one in weights) and len(weights) == 4
    assert list(tmp_path.iterdir()) == [output], "nothing else is left"


def test_quantize__without_labels__reports_agreement_alone(digits: Path, tmp_path: Path) -> None:
    data = ("--calibration", digits / "calibration.npz", "--output", tmp_path / "int8.onnx")
    result = run("quantize", MODELS / "digits" / "model.onnx", *data)
    assert "same class" in result.stdout and "accuracy" not in result.stdout
    assert "is in the exact profile" in result.stdout and "wrote" in result.stdout


def softmax_model() -> bytes:
    """Scores of a linear layer through Softmax, which no integers stand for."""
    model = build_model(
        [
            helper.make_node("Gemm", ["x", "w", "b"], ["h"], name="gemm"),
            helper.make_node("Softmax", ["h"], ["y"], name="softmax", axis=1),
        ],
        [value("x", ["rows", 4])],
        [value("y", ["rows", 3])],
        [tensor("w", np.eye(4, 3, dtype=np.float32)), tensor("b", np.zeros(3, np.float32))],
    )
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("keep", [False, True])
def test_quantize__result_outside_the_profile__is_not_claimed(tmp_path: Path, keep: bool) -> None:
    source, output = tmp_path / "float.onnx", tmp_path / "int8.onnx"
    source.write_bytes(softmax_model())
    np.save(tmp_path / "x.npy", np.random.default_rng(1).normal(size=(64, 4)).astype(np.float32))
    options = ("--keep-outside",) if keep else ()
    data = ("--calibration", tmp_path / "x.npy", "--output", output)
    found = loads(run("quantize", source, *data, *options, "--json", code=1))
    assert (found["exact"], found["program_root"]) == (False, None)
    assert "Softmax" in {finding["op_type"] for finding in found["findings"]}
    assert output.exists() == keep and found["output"] == (str(output) if keep else None)


def test_quantize__linear_model__is_exact(tmp_path: Path) -> None:
    source, output = tmp_path / "float.onnx", tmp_path / "int8.onnx"
    source.write_bytes(linear_model())
    np.save(tmp_path / "x.npy", np.random.default_rng(1).normal(size=(64, 4)).astype(np.float32))
    found = loads(run("quantize", source, "--calibration", tmp_path / "x.npy", "--output", output, "--json"))
    assert found["exact"] and found["measured"]["agreement"] > 0.8


def test_quantize__model_of_the_profile__is_left_as_it_is(tmp_path: Path) -> None:
    source = tmp_path / "int8.onnx"
    source.write_bytes(convolution_model())
    np.save(tmp_path / "x.npy", np.zeros((2, 1, 4, 4), np.uint8))
    data = ("--calibration", tmp_path / "x.npy", "--output", tmp_path / "out.onnx")
    assert loads(run("quantize", source, *data, "--json", code=2))["code"] == "already_exact"


def test_quantize__onto_itself__is_refused(digits: Path) -> None:
    model = MODELS / "digits" / "model.onnx"
    result = run("quantize", model, "--calibration", "x", "--output", model, "--json", code=2)
    assert loads(result)["code"] == "output_file"


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--data", "calibration.npz"), "labels_missing"),
        (("--data", "labelled.npz", "--labels", "image"), "data_names"),
        (("--data", "labelled.npz", "--scores", "nothing"), "output_name"),
        (("--labels", "digit"), "labels_missing"),
    ],
)
def test_quantize__wrong_data__says_so_before_any_work(
    digits: Path, tmp_path: Path, options: tuple[str, ...], code: str
) -> None:
    named = [str(digits / option) if option.endswith(".npz") else option for option in options]
    data = ("--calibration", digits / "calibration.npz", "--output", tmp_path / "out.onnx")
    result = run("quantize", MODELS / "digits" / "model.onnx", *data, *named, "--json", code=2)
    assert loads(result)["code"] == code and not (tmp_path / "out.onnx").exists()


def test_quantize__folder_that_is_not_there__writes_nothing(digits: Path, tmp_path: Path) -> None:
    data = ("--calibration", digits / "calibration.npz", "--output", tmp_path / "no" / "out.onnx")
    result = run("quantize", MODELS / "digits" / "model.onnx", *data, "--json", code=2)
    assert loads(result)["code"] == "output_file"


def test_clip_weights__full_range__ends_at_the_profile_s_bounds() -> None:
    model = onnx.load_from_string(convolution_model())
    position = next(i for i, one in enumerate(model.graph.initializer) if one.name == "w")
    full = np.array([-128, -64, 63, 64, 127, 0, 1, 2, 3], np.int8).reshape(1, 1, 3, 3)
    model.graph.initializer[position].CopyFrom(numpy_helper.from_array(full, "w"))
    clip_weights(model)
    found = numpy_helper.to_array(model.graph.initializer[position])
    assert found.reshape(-1)[:5].tolist() == [-64, -64, WEIGHT_MAX, WEIGHT_MAX, WEIGHT_MAX]
