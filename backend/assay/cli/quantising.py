"""A float model as integers of the exact profile, through onnxruntime's own quantiser.

QOperator format, unsigned activations, signed weights in −64 … 63 (two products with unsigned 8-bit
activations then fit int16, so every CPU class gives the same), one scale a channel.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from assay.cli.labelled import Examples
from assay.errors import RequestError
from assay.exact.lowering import adjust_scales

WEIGHT_MAX: Final = 63
"""The quantiser's reduced range ends at +64, the profile's at +63."""
WEIGHT_INPUTS: Final = {
    "QLinearConv": 3,
    "QLinearMatMul": 3,
    "QGemm": 3,
    "ConvInteger": 1,
    "MatMulInteger": 1,
}
QUANTISED: Final = (
    "Add",
    "ArgMax",
    "AveragePool",
    "Clip",
    "Concat",
    "Conv",
    "Flatten",
    "Gather",
    "Gemm",
    "GlobalAveragePool",
    "LeakyRelu",
    "MatMul",
    "MaxPool",
    "Mul",
    "Pad",
    "Relu",
    "Reshape",
    "Sigmoid",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
)
"""Operators whose integer form is in the profile; others stay as they are, and the check names them."""
ROWS_AT_ONCE: Final = 32

Progress = Callable[[int], None]
"""Called with the number of calibration rows done."""


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Calibration rows in batches."""

    def __init__(self, examples: Examples, progress: Progress) -> None:
        self._batches = examples.batches(ROWS_AT_ONCE)
        self._progress, self._done = progress, 0

    def get_next(self) -> dict[str, Any] | None:
        self._progress(self._done)
        batch = next(self._batches, None)
        if batch is not None:
            self._done += len(next(iter(batch.values())))
        return batch


def quantize_model(source: Path, examples: Examples, progress: Progress = lambda _: None) -> bytes:
    """The quantised file's bytes; `source` is not changed. Raises RequestError `quantiser_failed`."""
    with tempfile.TemporaryDirectory(prefix="assay-quantize-") as folder:
        prepared = Path(folder, "prepared.onnx")
        try:
            with _quiet():
                quant_pre_process(source, prepared, skip_symbolic_shape=True)
            model = run_quantiser(prepared, reader=_Reader(examples, progress), operators=QUANTISED)
        except Exception as error:
            raise RequestError(
                f"onnxruntime's quantiser does not take the model: {type(error).__name__}: "
                f"{str(error)[:400]}",
                code="quantiser_failed",
            ) from error
    return adjust_scales(model.SerializeToString(deterministic=True))


def run_quantiser(
    source: Path | onnx.ModelProto,
    *,
    reader: CalibrationDataReader | None = None,
    ranges: Path | None = None,
    operators: tuple[str, ...] | None = None,
) -> onnx.ModelProto:
    """onnxruntime's static quantiser with the profile's settings; its weights then held to the profile's.

    `ranges`: a file of `save_tensors_data` instead of calibration rows.
    """
    with tempfile.TemporaryDirectory(prefix="assay-quantize-") as folder, _quiet():
        target = Path(folder, "int8.onnx")
        quantize_static(
            source,
            target,
            calibration_data_reader=reader,
            quant_format=QuantFormat.QOperator,
            op_types_to_quantize=None if operators is None else list(operators),
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibration_cache_path=ranges,
        )
        model = onnx.load(target)
    clip_weights(model)
    onnx.checker.check_model(model, full_check=True)
    return model


def clip_weights(model: onnx.ModelProto) -> None:
    """Hold signed 8-bit weights of contractions to at most `WEIGHT_MAX`."""
    positions = WEIGHT_INPUTS.items()
    weights = {node.input[at] for node in model.graph.node for name, at in positions if node.op_type == name}
    for tensor in model.graph.initializer:
        if tensor.name in weights and tensor.data_type == onnx.TensorProto.INT8:
            values = numpy_helper.to_array(tensor)
            clipped = np.clip(values, np.int8(-WEIGHT_MAX - 1), np.int8(WEIGHT_MAX))
            tensor.CopyFrom(numpy_helper.from_array(clipped, tensor.name))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The quantiser writes advice to the root logger; what matters of it is said by the check."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def write_atomically(path: Path, content: bytes) -> None:
    """The file is there whole or not at all. Raises RequestError `output_file`."""
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise RequestError(f"{path} cannot be written: {error.strerror}", code="output_file") from None
