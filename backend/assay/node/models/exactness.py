"""What an exact version is held to: its root and self-test when it is loaded, then its requests and answers.

A receipt that the contracts find wrong costs the node its stake. So a version whose program this machine
cannot reproduce is not served, and an answer that no program of the profile can give is not signed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnxruntime as ort

from assay.commitments.tensors import OIP_TO_ONNX, ONNX_TO_NUMPY, commit_tensors, onnx_dtype
from assay.exact.program import MAX_ROW_ELEMENTS, MAX_TENSOR_BYTES, Program, Signature
from assay.node.errors import ArtifactRefused, InputError, RunFailed, TooLarge
from assay.node.models.self_test import Vector, parse_self_test
from assay.types import Hash32, TensorSpec

if TYPE_CHECKING:
    from assay.node.oip.protocol import Array

MAX_FINDINGS: Final = 3
TRACE_BYTES: Final = 2 << 30
"""Of memory that the trace of a request may take: whoever asks may dispute, and a node without memory for its
answer loses. A single row may take more, as it did in the self-test."""


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of the program: ONNX dtype, dims without the rows of a batched program."""

    dtype: int
    dims: tuple[int, ...]

    @classmethod
    def of(cls, signature: Signature) -> Port:
        return cls(signature.dtype, signature.dims)


@dataclass(frozen=True, slots=True)
class ExactTerms:
    """What a program takes and gives. `max_rows`: more would make a tensor that no dispute can open, or a
    trace that takes more memory than TRACE_BYTES."""

    batched: bool
    max_rows: int
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    @classmethod
    def of(cls, program: Program) -> ExactTerms:
        from assay.exact.evaluator import memory_per_row

        sizes = [kernel.elements * ONNX_TO_NUMPY[kernel.dtype].itemsize for kernel in program.kernels]
        sizes += [one.elements * ONNX_TO_NUMPY[one.dtype].itemsize for one in program.inputs]
        return cls(
            program.batched,
            min(MAX_TENSOR_BYTES // max(1, *sizes), max(1, TRACE_BYTES // memory_per_row(program))),
            tuple(map(Port.of, program.inputs)),
            tuple(map(Port.of, program.outputs)),
        )

    def to_json(self) -> dict[str, Any]:
        def ports(row: Sequence[Port]) -> list[list[Any]]:
            return [[port.dtype, list(port.dims)] for port in row]

        return {
            "batched": self.batched,
            "max_rows": self.max_rows,
            "inputs": ports(self.inputs),
            "outputs": ports(self.outputs),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ExactTerms:
        """Raises KeyError, TypeError, ValueError on what `to_json` did not make."""

        def ports(rows: list[Any]) -> tuple[Port, ...]:
            return tuple(Port(int(dtype), tuple(map(int, dims))) for dtype, dims in rows)

        return cls(
            bool(data["batched"]), int(data["max_rows"]), ports(data["inputs"]), ports(data["outputs"])
        )

    def check_inputs(self, specs: Sequence[TensorSpec], arrays: Sequence[Array]) -> int:
        """The request's rows. Raises InputError `input_rows`, `input_shape`, TooLarge."""
        rows = arrays[0].shape[0] if self.batched and arrays[0].ndim else int(not self.batched)
        if rows < 1:
            raise InputError("an exact version takes at least one row", code="input_rows")
        if rows > self.max_rows:
            raise TooLarge(
                f"{rows} rows; of this exact version at most {self.max_rows} can be disputed; send fewer"
            )
        for spec, array, port in zip(specs, arrays, self.inputs, strict=True):
            if array.shape != self._shape(port, rows):
                code = "input_rows" if self.batched and array.shape[1:] == port.dims else "input_shape"
                raise InputError(
                    f"input {spec.name!r}: shape {list(array.shape)}; with {rows} rows this exact version "
                    f"takes {list(self._shape(port, rows))}",
                    code=code,
                )
        return rows

    def check_outputs(self, specs: Sequence[TensorSpec], arrays: Sequence[Array], rows: int) -> None:
        """Before anything is signed. Raises RunFailed `output_nan`, `output_shape`."""
        for spec, array, port in zip(specs, arrays, self.outputs, strict=True):
            if onnx_dtype(array.dtype) != port.dtype or array.shape != self._shape(port, rows):
                raise RunFailed(
                    f"output {spec.name!r} came as {array.dtype}{list(array.shape)}, the version's program "
                    f"gives {list(self._shape(port, rows))}; no receipt is signed for it",
                    code="output_shape",
                )
            if array.dtype.kind == "f" and np.isnan(array).any():
                raise RunFailed(
                    f"output {spec.name!r} holds NaN on this input; no receipt is signed for it",
                    code="output_nan",
                )

    def _shape(self, port: Port, rows: int) -> tuple[int, ...]:
        return (rows, *port.dims) if self.batched else port.dims


@dataclass(frozen=True, slots=True)
class ExactClaim:
    """What chain and manifest claim of an exact version. `self_test` is a file in the node's folder."""

    program_root: Hash32
    self_test: Path


def examine(
    artifact: bytes,
    session: ort.InferenceSession | None,
    specs: Sequence[TensorSpec],
    program_root: str,
    self_test: bytes,
) -> ExactTerms:
    """Lower, compare the root (in hex), run the self-test both ways; called in the sandbox child.

    `session` None: another server will run it, so only the evaluator does here. `specs`: the file's inputs.
    Raises ArtifactRefused `not_exact`, `program_root`, `self_test`, `self_test_runtime`,
    `self_test_expected`.
    """
    program = lower_artifact(artifact)
    if program.root.hex() != program_root:
        raise ArtifactRefused(
            f"the chain claims program root 0x{program_root}, this artifact lowers to "
            f"0x{program.root.hex()}: receipts for it could be slashed; its publisher must publish it anew",
            code="program_root",
        )
    check_ports(program, specs)
    vectors = parse_self_test(self_test, hashlib.sha256(artifact).hexdigest())
    for number, vector in enumerate(vectors, start=1):
        run_vector(program, session, specs, vector, number)
    return ExactTerms.of(program)


def lower_artifact(artifact: bytes) -> Program:
    """`exact.lower`, with what is outside the profile as ArtifactRefused `not_exact`."""
    from assay.exact.lowering import UnsupportedModel, lower

    try:
        return lower(artifact)
    except UnsupportedModel as error:
        named = [str(finding) for finding in error.findings]
        more = f" and {len(named) - MAX_FINDINGS} more" if len(named) > MAX_FINDINGS else ""
        raise ArtifactRefused(
            f"the chain has a program root for it, but it is outside the exact profile: "
            f"{'; '.join(named[:MAX_FINDINGS])}{more} (see `assay model check`)",
            code="not_exact",
        ) from None


def check_ports(program: Program, specs: Sequence[TensorSpec]) -> None:
    """The program's inputs must be the model's. Raises ArtifactRefused `not_exact`."""
    for spec, signature in zip(specs, program.inputs, strict=True):
        shape = (-1, *signature.dims) if program.batched else signature.dims
        if (OIP_TO_ONNX[spec.dtype], spec.shape) != (signature.dtype, shape):
            raise ArtifactRefused(
                f"input {spec.name!r} is {spec.dtype}{list(spec.shape)} to ONNX Runtime, and "
                f"{list(shape)} of ONNX type {signature.dtype} in the program",
                code="not_exact",
            )
        if signature.elements > MAX_ROW_ELEMENTS:
            raise ArtifactRefused(f"input {spec.name!r} is too large for a dispute", code="not_exact")


def run_vector(
    program: Program,
    session: ort.InferenceSession | None,
    specs: Sequence[TensorSpec],
    vector: Vector,
    number: int,
) -> None:
    """One self-test vector through ONNX Runtime and through the evaluator. Raises ArtifactRefused."""
    from assay.exact.evaluator import evaluate

    arrays = vector.arrays(specs)
    true = evaluate(program, arrays)
    if session is not None:
        _check_runtime(session, specs, arrays, true, number)
    if commit_tensors(true) != vector.output_hash:
        raise ArtifactRefused(
            f"self-test vector {number}: this machine's runtime and the exact evaluator agree, but on other "
            f"outputs than the self-test expects "
            f"(0x{vector.output_hash.hex()}); its publisher must publish it anew",
            code="self_test_expected",
        )


def _check_runtime(
    session: ort.InferenceSession,
    specs: Sequence[TensorSpec],
    arrays: Sequence[Array],
    true: Sequence[Array],
    number: int,
) -> None:
    """What ONNX Runtime gives here must be what is `true`. Raises ArtifactRefused."""
    names = [output.name for output in session.get_outputs()]
    try:
        ran = session.run(names, dict(zip((spec.name for spec in specs), arrays, strict=True)))
    except Exception as error:
        raise ArtifactRefused(
            f"self-test vector {number} does not run: {str(error)[:300]}", code="self_test"
        ) from None
    if difference := first_difference(names, ran, true):
        raise ArtifactRefused(
            f"self-test vector {number}: {difference}; what this machine computes can be disputed, so it "
            f"must not serve the version. Another CPU class or onnxruntime {ort.__version__} may agree",
            code="self_test_runtime",
        )


def first_difference(names: Sequence[str], ran: Sequence[Array], true: Sequence[Array]) -> str:
    """The first output element, compared as committed bytes, in which two runs differ; empty: none."""
    for name, ours, exact in zip(names, ran, true, strict=True):
        if ours.shape != exact.shape or onnx_dtype(ours.dtype) != onnx_dtype(exact.dtype):
            return (
                f"output {name!r} is {ours.dtype}{list(ours.shape)} to ONNX Runtime and "
                f"{exact.dtype}{list(exact.shape)} to the exact evaluator"
            )
        width = ours.dtype.itemsize
        pair = [np.ascontiguousarray(one).reshape(-1).view(np.uint8) for one in (ours, exact)]
        differing = np.flatnonzero(pair[0] != pair[1])
        if differing.size:
            at = int(differing[0]) // width
            return (
                f"output {name!r} element {at} is {ours.reshape(-1)[at]} by ONNX Runtime on this machine and "
                f"{exact.reshape(-1)[at]} by the exact evaluator"
            )
    return ""
