"""Example rows from files: what is taken, and what each wrong file is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from assay.cli.labelled import accuracy, check_label_range, predictions, read_examples
from assay.errors import RequestError
from assay.types import TensorSpec

SPECS = [TensorSpec("x", "FP32", (-1, 3)), TensorSpec("k", "UINT8", (-1,))]
GOOD: dict[str, Any] = {"x": np.ones((4, 3), np.float32), "k": np.arange(4, dtype=np.uint8)}


def save(folder: Path, **arrays: Any) -> str:
    np.savez(folder / "data.npz", **arrays)
    return str(folder / "data.npz")


def test_read_examples__arrays_by_name__are_in_the_model_s_types(tmp_path: Path) -> None:
    source = save(tmp_path, x=GOOD["x"].astype(np.float64), k=GOOD["k"].astype(np.uint16))
    found = read_examples(source, SPECS)
    assert (found.rows, found.labels) == (4, None)
    assert {name: str(array.dtype) for name, array in found.inputs.items()} == {"x": "float32", "k": "uint8"}


def test_read_examples__one_array_for_one_input__needs_no_name(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", GOOD["x"])
    assert read_examples(str(tmp_path / "x.npy"), SPECS[:1]).rows == 4


def test_read_examples__labels__are_kept_apart(tmp_path: Path) -> None:
    source = save(tmp_path, **GOOD, labels=np.array([0, 1, 2, 1], np.uint8))
    assert read_examples(source, SPECS, "labels").labels.tolist() == [0, 1, 2, 1]  # type: ignore[union-attr]
    assert read_examples(source, SPECS).labels is None


def test_batches__model_of_fixed_rows__get_just_so_many(tmp_path: Path) -> None:
    found = read_examples(save(tmp_path, x=GOOD["x"]), [TensorSpec("x", "FP32", (2, 3))])
    assert [len(batch["x"]) for batch in found.batches(100)] == [2, 2]


@pytest.mark.parametrize(
    ("changes", "labels", "code", "said"),
    [
        ({"k": None}, None, "data_names", "inputs are 'k', 'x'"),
        ({"other": np.ones(4)}, None, "data_names", "'other'"),
        ({"x": np.ones((4, 3), np.int64)}, None, "data_dtype", "takes float32"),
        ({"k": np.ones(4)}, None, "data_dtype", "takes uint8"),
        ({"k": np.array([0, 1, 2, 256], np.uint16)}, None, "data_values", "uint8 does not hold"),
        ({"x": np.ones((4, 2), np.float32)}, None, "data_shape", "shape [4, 2]"),
        ({"x": np.ones(4, np.float32)}, None, "data_shape", "shape [4]"),
        ({"x": np.ones((0, 3), np.float32), "k": np.ones(0, np.uint8)}, None, "data_shape", "empty"),
        ({"k": np.ones(3, np.uint8)}, None, "data_shape", "unequal"),
        ({"x": np.full((4, 3), np.nan, np.float32)}, None, "data_values", "not finite"),
        ({"x": np.full((4, 3), 1e300)}, None, "data_values", "not finite"),
        ({}, "labels", "labels_missing", "no array 'labels'"),
        ({"labels": np.ones(4, np.float32)}, "labels", "labels_dtype", "as an integer"),
        ({"labels": np.ones((4, 1), np.int64)}, "labels", "labels_shape", "expected [4]"),
        ({"labels": np.ones(5, np.int64)}, "labels", "labels_shape", "expected [4]"),
        ({"labels": np.array([0, 1, -1, 0])}, "labels", "labels_range", "below 0"),
    ],
)
def test_read_examples__what_does_not_fit__says_so(
    tmp_path: Path, changes: dict[str, Any], labels: str | None, code: str, said: str
) -> None:
    arrays = {name: array for name, array in (GOOD | changes).items() if array is not None}
    with pytest.raises(RequestError) as caught:
        read_examples(save(tmp_path, **arrays), SPECS, labels)
    assert caught.value.code == code and said in str(caught.value)


def test_read_examples__rows_that_no_fixed_batch_divides__says_so(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="takes 3 at once"):
        read_examples(save(tmp_path, x=GOOD["x"]), [TensorSpec("x", "FP32", (3, 3))])


def test_read_examples__no_file__names_it(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"nothing\.npz cannot be read"):
        read_examples(str(tmp_path / "nothing.npz"), SPECS)


def test_predictions__scores_and_labels__are_classes() -> None:
    scores = np.array([[0.1, 0.9], [0.8, 0.2]], np.float32)
    assert predictions(scores, 2, "y").tolist() == [1, 0]
    assert predictions(scores[:, :, None, None], 2, "y").tolist() == [1, 0]
    assert predictions(np.array([5, 7]), 2, "y").tolist() == [5, 7]
    assert accuracy(np.array([1, 0]), np.array([1, 1])) == 0.5


@pytest.mark.parametrize("output", [np.ones((3, 2)), np.ones((2, 1)), np.ones(2), np.array(["a", "b"])])
def test_predictions__no_classes__is_refused(output: Any) -> None:
    with pytest.raises(RequestError, match="no classes to compare"):
        predictions(output, 2, "y")


def test_check_label_range__label_beyond_the_scores__is_refused() -> None:
    check_label_range(np.ones((2, 3)), np.array([0, 2]), "y")
    with pytest.raises(RequestError, match="scores 3 classes"):
        check_label_range(np.ones((2, 3)), np.array([0, 3]), "y")
