"""ONNX Runtime sessions: how they are built, their signature, and runs that end in time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime as ort

from assay.commitments.tensors import OIP_TO_NUMPY
from assay.node.engines.watchdog import Watchdog
from assay.node.errors import ArtifactRefused, RunFailed
from assay.node.oip.protocol import Array
from assay.types import TensorSpec

_TYPES: Final = {
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(float16)": "FP16",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(bool)": "BOOL",
    "tensor(string)": "BYTES",
}
_ARENA: list[int] = []


def limit_arena(max_bytes: int) -> None:
    """Cap what all sessions of this process may allocate for tensors; the first call of a process decides.

    ONNX Runtime counts weights that it has rearranged as the arena's, without holding them to the cap; once
    they are more than the cap, nothing is capped any more. So `max_bytes` must be more than all weights.
    """
    if _ARENA:
        return
    info = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(info, ort.OrtArenaCfg({"max_mem": max_bytes}))
    _ARENA.append(max_bytes)


def build_session(
    artifact: bytes | Path, *, threads: int = 1, is_optimised: bool = True
) -> ort.InferenceSession:
    """A CPU session of an ONNX file. Raises ArtifactRefused `load_failed`.

    From a path it takes the memory of the file's weights once, and little more on the way; of bytes the
    session keeps a copy.

    Not `is_optimised`: the graph is run as it is written, so that no fusion, known or not, can make the
    answer another than the program's: what exact versions are served with.
    """
    options = ort.SessionOptions()
    if not is_optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if threads == 1:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if _ARENA:
        options.add_session_config_entry("session.use_env_allocators", "1")
    try:
        source = str(artifact) if isinstance(artifact, Path) else artifact
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ArtifactRefused(
            f"ONNX Runtime does not load the model: {str(error)[:400]}", code="load_failed"
        ) from None


def session_specs(session: ort.InferenceSession) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """(inputs, outputs) in signature order; a dimension without a fixed size is -1. Raises ArtifactRefused
    `tensor_type`."""
    return tuple(map(_spec, session.get_inputs())), tuple(map(_spec, session.get_outputs()))


def _spec(value: Any) -> TensorSpec:
    if value.type not in _TYPES:
        raise ArtifactRefused(
            f"{value.name!r} has type {value.type}; a served model takes and gives plain tensors "
            "(for classifiers of scikit-learn, convert with zipmap off)",
            code="tensor_type",
        )
    shape = tuple(dim if isinstance(dim, int) and dim >= 0 else -1 for dim in value.shape or ())
    return TensorSpec(value.name, _TYPES[value.type], shape)


class SessionRunner:
    """A session with its signature and a time limit on each run. Thread-safe: ONNX Runtime takes several runs
    of one session at a time, which share its weights."""

    def __init__(
        self,
        session: ort.InferenceSession,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        watchdog: Watchdog,
        run_seconds: float,
    ) -> None:
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.run_seconds = run_seconds
        self._session = session
        self._watchdog = watchdog
        self._input_names = [spec.name for spec in self.inputs]
        self._output_names = [spec.name for spec in self.outputs]
        self._dtypes = [OIP_TO_NUMPY[spec.dtype] for spec in self.outputs]
        self._free_options: list[ort.RunOptions] = []

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """Inputs in signature order to outputs in signature order. Raises RunFailed, OutOfTime."""
        try:
            options = self._free_options.pop()
        except IndexError:  # another thread may have taken the last
            options = _run_options()
        token = self._watchdog.arm(options, self.run_seconds)
        try:
            feeds = dict(zip(self._input_names, arrays, strict=True))
            raw = self._session.run(self._output_names, feeds, options)
        except Exception as error:
            if options.terminate:
                raise OutOfTime(self.run_seconds) from None
            raise RunFailed(f"the model failed on this input: {str(error)[:300]}") from None
        finally:
            if self._watchdog.disarm(token):
                self._free_options.append(options)
        return [_as_committed(value, dtype) for value, dtype in zip(raw, self._dtypes, strict=True)]


class OutOfTime(RunFailed):
    """A run was stopped at its time limit."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the model ran longer than {seconds:g} s and was stopped; send fewer rows")


def _run_options() -> ort.RunOptions:
    options = ort.RunOptions()
    options.log_severity_level = 4
    return options


def _as_committed(value: Any, dtype: np.dtype[Any]) -> Array:
    array = np.asarray(value)
    return array if dtype.kind == "O" else array.astype(dtype, copy=False)
