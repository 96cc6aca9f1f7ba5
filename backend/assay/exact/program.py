"""Programs: what `lower` makes of an ONNX file, and the bytes behind `program_root` (SPEC.md §10)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from math import prod
from typing import Any, Final

from numpy.typing import NDArray

from assay.commitments.merkle import MerkleTree, merkle_root
from assay.types import Hash32

PROFILE: Final = 1
"""The version byte of this profile."""
MAX_AXES: Final = 12
"""Output axes plus reduction axes of one kernel."""
MAX_OPERANDS: Final = 8
MAX_BOUNDS: Final = 4
"""Bounds of one operand."""
MAX_SIGNATURE: Final = 8
"""Inputs, and outputs, of a program."""
MAX_RANK: Final = 8
"""Rank of inputs and outputs, without the batch axis."""
MAX_KERNELS: Final = 1 << 16
MAX_RECORD_BYTES: Final = 2048
MAX_ROW_ELEMENTS: Final = (1 << 31) - 1
MAX_TENSOR_BYTES: Final = 1 << 32
"""Of one tensor for one request, all rows: 2^22 chunks."""
MAX_STEPS: Final = 1 << 24
"""Length of one reduction."""

Term = tuple[int, int]
"""(loop variable, coefficient); a coefficient is not zero, variables ascend within a form."""


class Source(IntEnum):
    """Where an operand's tensor is committed."""

    CONSTANT = 0
    INPUT = 1
    KERNEL = 2


@dataclass(frozen=True)
class Affine:
    """`base + Σ coefficient · variable`; all int32."""

    base: int = 0
    terms: tuple[Term, ...] = ()


@dataclass(frozen=True)
class Bound:
    """The operand is read only where `0 ≤ form < extent`."""

    form: Affine
    extent: int


@dataclass(frozen=True)
class Operand:
    """One tensor that a kernel reads, and at which element: `flat` (+ coefficient · an earlier operand).

    Where a bound fails, or the element lies outside the row, the value is `pad`.
    """

    source: Source
    dtype: int
    elements: int
    """Of the constant, or of one row of the input or kernel."""
    flat: Affine
    index: int = 0
    """Which input or kernel; 0 for a constant."""
    root: bytes = b""
    """Tensor root of a constant; empty otherwise."""
    pad: int = 0
    bounds: tuple[Bound, ...] = ()
    indirect: tuple[int, int] | None = None
    """(earlier operand, coefficient): adds coefficient · its value to `flat`."""


@dataclass(frozen=True)
class Kernel:
    """`out[i] = fold over r of expression(acc, operands…)`, from `init`; both orders row-major."""

    dtype: int
    domain: tuple[int, ...]
    """Extents of the output's axes in one row; their product is the row's elements."""
    reduction: tuple[int, ...]
    """Extents of the reduction's axes; empty: one step."""
    operands: tuple[Operand, ...]
    expression: bytes
    init: int = 0
    name: str = field(default="", compare=False)
    """The ONNX node that it comes from, for people; not committed."""
    op_type: str = field(default="", compare=False)
    output: str = field(default="", compare=False)
    """The ONNX tensor that it computes (or a part of it, for people); not committed."""

    @property
    def elements(self) -> int:
        """Of one row."""
        return prod(self.domain)

    @property
    def steps(self) -> int:
        return prod(self.reduction)


@dataclass(frozen=True)
class Signature:
    """One input or output: dims without the batch axis in a batched program."""

    dtype: int
    dims: tuple[int, ...]
    kernel: int = 0
    """Outputs only: the kernel whose tensor it is (same elements, perhaps another shape)."""
    name: str = field(default="", compare=False)

    @property
    def elements(self) -> int:
        return prod(self.dims)


@dataclass(frozen=True)
class Program:
    """Header and kernels, and the constants' values by tensor root (C-contiguous, little-endian)."""

    batched: bool
    inputs: tuple[Signature, ...]
    outputs: tuple[Signature, ...]
    kernels: tuple[Kernel, ...]
    constants: Mapping[bytes, NDArray[Any]] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def records(self) -> tuple[bytes, ...]:
        """Leaf bytes of the program tree: the header, then each kernel."""
        return (encode_header(self), *map(encode_kernel, self.kernels))

    @cached_property
    def root(self) -> Hash32:
        """What the registry holds as `program_root`."""
        return merkle_root(self.records)

    @cached_property
    def tree(self) -> MerkleTree:
        return MerkleTree(self.records)


def _unsigned(value: int, width: int) -> bytes:
    return value.to_bytes(width, "big")


def _signed(value: int, width: int) -> bytes:
    return value.to_bytes(width, "big", signed=True)


def _encode_dims(dims: Sequence[int]) -> bytes:
    return _unsigned(len(dims), 1) + b"".join(_unsigned(dim, 4) for dim in dims)


def encode_header(program: Program) -> bytes:
    """Leaf 0: the program's signature, as bytes of SPEC.md §10."""
    parts = [
        _unsigned(PROFILE, 1),
        _unsigned(int(program.batched), 1),
        _unsigned(len(program.kernels), 4),
        _unsigned(len(program.inputs), 1),
    ]
    parts += [_unsigned(one.dtype, 1) + _encode_dims(one.dims) for one in program.inputs]
    parts.append(_unsigned(len(program.outputs), 1))
    for one in program.outputs:
        parts.append(_unsigned(one.kernel, 4) + _unsigned(one.dtype, 1) + _encode_dims(one.dims))
    return b"".join(parts)


def _encode_affine(form: Affine) -> bytes:
    terms = b"".join(_unsigned(variable, 1) + _signed(coefficient, 4) for variable, coefficient in form.terms)
    return _signed(form.base, 4) + _unsigned(len(form.terms), 1) + terms


def _encode_operand(operand: Operand) -> bytes:
    where = operand.root if operand.source is Source.CONSTANT else _unsigned(operand.index, 4)
    earlier, coefficient = operand.indirect if operand.indirect else (-1, 0)
    indirect = _unsigned(earlier + 1, 1) + (_signed(coefficient, 4) if operand.indirect else b"")
    bounds = b"".join(_encode_affine(bound.form) + _unsigned(bound.extent, 4) for bound in operand.bounds)
    return b"".join(
        (
            _unsigned(operand.source, 1),
            _unsigned(operand.dtype, 1),
            _unsigned(operand.elements, 4),
            where,
            _signed(operand.pad, 8),
            indirect,
            _encode_affine(operand.flat),
            _unsigned(len(operand.bounds), 1),
            bounds,
        )
    )


def encode_kernel(kernel: Kernel) -> bytes:
    """Leaf 1 + k: the kernel, as bytes of SPEC.md §10."""
    extents = (*kernel.domain, *kernel.reduction)
    return b"".join(
        (
            _unsigned(kernel.dtype, 1),
            _unsigned(len(kernel.domain), 1),
            _unsigned(len(kernel.reduction), 1),
            *(_unsigned(extent, 4) for extent in extents),
            _signed(kernel.init, 8),
            _unsigned(len(kernel.operands), 1),
            *map(_encode_operand, kernel.operands),
            _unsigned(len(kernel.expression), 1),
            kernel.expression,
        )
    )
