"""Example rows for a model, from files: calibration data, labelled data; accuracy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.cli.tensors_io import Arrays, read_inputs
from assay.commitments.tensors import OIP_TO_NUMPY
from assay.errors import RequestError
from assay.types import TensorSpec

LABELS = "labels"


@dataclass(frozen=True, slots=True)
class Examples:
    """`inputs` by the model's names, all with the same number of rows; `labels` int64 (rows,) or None."""

    inputs: Mapping[str, NDArray[Any]]
    rows: int
    labels: NDArray[np.int64] | None = None
    fixed: int | None = None
    """Rows that the model takes at once, where it leaves no choice."""

    def batches(self, size: int) -> Iterator[dict[str, NDArray[Any]]]:
        size = self.fixed or size
        for start in range(0, self.rows, size):
            yield {name: array[start : start + size] for name, array in self.inputs.items()}


def read_examples(source: str, specs: Sequence[TensorSpec], labels: str | None = None) -> Examples:
    """Rows for a model's inputs from `.npz` (arrays by input name), `.npy` or JSON (a model of one input).

    `labels`: name of the array of labels in the file. Raises RequestError `data_names`, `data_shape`,
    `data_dtype`, `data_values`, `labels_missing`, `labels_dtype`, `labels_shape`, `labels_range`.
    """
    read = read_inputs(source)
    arrays: Arrays = read if isinstance(read, dict) else {specs[0].name: read}
    found = None
    if labels is not None:
        if labels not in arrays:
            raise _error(
                source,
                f"has no array {labels!r}, only {_names(arrays)}; name the labels' with --labels",
                "labels_missing",
            )
        found = arrays.pop(labels)
    else:
        arrays.pop(LABELS, None)
    expected = {spec.name for spec in specs}
    if set(arrays) != expected:
        raise _error(
            source,
            f"has arrays {_names(arrays)}, the model's inputs are {_names(expected)}; save them with "
            "numpy.savez(file, **{input name: array})",
            "data_names",
        )
    inputs = {spec.name: _checked(source, spec, arrays[spec.name]) for spec in specs}
    rows = {name: len(array) for name, array in inputs.items()}
    if len(set(rows.values())) != 1:
        counted = ", ".join(f"{name} has {count}" for name, count in rows.items())
        raise _error(source, f"has unequal numbers of rows: {counted}", "data_shape")
    count = next(iter(rows.values()))
    fixed = max((spec.shape[0] for spec in specs), default=-1)
    if fixed > 0 and count % fixed:
        raise _error(source, f"has {count} rows, the model takes {fixed} at once", "data_shape")
    checked = None if found is None else _checked_labels(source, found, count)
    return Examples(inputs, count, checked, fixed if fixed > 0 else None)


def _checked(source: str, spec: TensorSpec, array: NDArray[Any]) -> NDArray[Any]:
    wanted = OIP_TO_NUMPY[spec.dtype]
    if array.dtype.kind != wanted.kind or wanted.kind == "O":
        raise _error(
            source,
            f"array {spec.name!r} is {array.dtype}, the input takes {wanted}; convert it with "
            f".astype({str(wanted)!r})",
            "data_dtype",
        )
    fits = len(array.shape) == len(spec.shape) > 0 and all(
        want in (-1, have) for want, have in zip(spec.shape[1:], array.shape[1:], strict=True)
    )
    if not fits:
        raise _error(
            source,
            f"array {spec.name!r} has shape {list(array.shape)}, the input takes "
            f"{['rows', *spec.shape[1:]]} (-1: any)",
            "data_shape",
        )
    if not array.size:
        raise _error(source, f"array {spec.name!r} is empty; give at least one row", "data_shape")
    with np.errstate(over="ignore"):
        converted: NDArray[Any] = np.ascontiguousarray(array.astype(wanted))
    if wanted.kind == "f" and not np.isfinite(converted).all():
        raise _error(source, f"array {spec.name!r} has values that are not finite as {wanted}", "data_values")
    if wanted.kind in "iu" and not np.array_equal(converted, array):
        raise _error(source, f"array {spec.name!r} has values that {wanted} does not hold", "data_values")
    return converted


def _checked_labels(source: str, labels: NDArray[Any], rows: int) -> NDArray[np.int64]:
    if labels.dtype.kind not in "iu":
        raise _error(
            source, f"labels are {labels.dtype}; give each row's class as an integer from 0", "labels_dtype"
        )
    if labels.shape != (rows,):
        raise _error(
            source, f"labels have shape {list(labels.shape)}, expected [{rows}]: one a row", "labels_shape"
        )
    if labels.min() < 0:
        raise _error(source, "labels go below 0; give each row's class as an integer from 0", "labels_range")
    return labels.astype(np.int64)


def predictions(output: NDArray[Any], rows: int, name: str) -> NDArray[np.int64]:
    """Each row's class: the output itself if it is one integer a row, else its largest element.

    Raises RequestError `output_shape`.
    """
    if output.shape[:1] != (rows,) or output.dtype.kind not in "iuf":
        raise RequestError(
            f"output {name!r} has shape {list(output.shape)} for {rows} rows: no classes to compare with "
            "labels; choose another with --scores",
            code="output_shape",
        )
    flat = output.reshape(rows, -1)
    if flat.shape[1] == 1 and flat.dtype.kind in "iu":
        return flat[:, 0].astype(np.int64)
    if flat.shape[1] < 2:
        raise RequestError(
            f"output {name!r} is one number a row: no classes to compare with labels; choose another with "
            "--scores",
            code="output_shape",
        )
    classes: NDArray[np.int64] = flat.argmax(axis=1).astype(np.int64)
    return classes


def accuracy(classes: NDArray[np.int64], labels: NDArray[np.int64]) -> float:
    return float((classes == labels).mean())


def check_label_range(output: NDArray[Any], labels: NDArray[np.int64], name: str) -> None:
    """Raises RequestError `labels_range` for labels that no score stands for."""
    scores = output.reshape(len(output), -1).shape[1]
    if scores > 1 and labels.max() >= scores:
        raise RequestError(
            f"labels go up to {labels.max()}, output {name!r} scores {scores} classes, 0 to {scores - 1}",
            code="labels_range",
        )


def _names(names: Any) -> str:
    return ", ".join(sorted(map(repr, names))) or "none"


def _error(source: str, problem: str, code: str) -> RequestError:
    return RequestError(f"{source} {problem}", code=code)
