"""Records from outside back into headers and kernels (SPEC.md §10): the inverse of `program.encode_…`."""

from __future__ import annotations

from itertools import pairwise
from math import prod

from assay.exact.errors import RecordError
from assay.exact.instructions import WIDTHS, parse
from assay.exact.opcodes import Op
from assay.exact.program import (
    MAX_AXES,
    MAX_BOUNDS,
    MAX_KERNELS,
    MAX_OPERANDS,
    MAX_RANK,
    MAX_RECORD_BYTES,
    MAX_ROW_ELEMENTS,
    MAX_SIGNATURE,
    MAX_STEPS,
    PROFILE,
    Affine,
    Bound,
    Kernel,
    Operand,
    Program,
    Signature,
    Source,
)


class _Reader:
    """Takes integers off the front of a record; raises RecordError when they run out or are out of range."""

    def __init__(self, data: bytes, what: str) -> None:
        if len(data) > MAX_RECORD_BYTES:
            raise RecordError(f"a {what} record has at most {MAX_RECORD_BYTES} bytes, not {len(data)}")
        self._data, self._what, self._at = data, what, 0

    def take(self, width: int) -> bytes:
        start = self._at
        self._at += width
        if self._at > len(self._data):
            raise RecordError(
                f"the {self._what} record ends at byte {len(self._data)}, {self._at} are needed"
            )
        return self._data[start : self._at]

    def unsigned(self, width: int, name: str, most: int | None = None) -> int:
        value = int.from_bytes(self.take(width), "big")
        if most is not None and value > most:
            raise RecordError(f"{self._what} record: {name} is {value}, at most {most} is possible")
        return value

    def signed(self, width: int) -> int:
        return int.from_bytes(self.take(width), "big", signed=True)

    def dtype(self) -> int:
        dtype = self.unsigned(1, "dtype")
        if dtype not in WIDTHS:
            raise RecordError(f"{self._what} record: dtype {dtype} is none that programs have")
        return dtype

    def finish(self) -> None:
        if self._at < len(self._data):
            raise RecordError(f"the {self._what} record has {len(self._data) - self._at} bytes too many")


def decode_header(data: bytes) -> tuple[Program, int]:
    """The program without its kernels and names, and how many kernels it has. Raises RecordError."""
    reader = _Reader(data, "header")
    if (profile := reader.unsigned(1, "profile")) != PROFILE:
        raise RecordError(f"the header is of profile {profile}; this code knows profile {PROFILE}")
    batched = bool(reader.unsigned(1, "batched", 1))
    kernels = reader.unsigned(4, "kernels", MAX_KERNELS)
    inputs = tuple(_signature(reader) for _ in range(reader.unsigned(1, "inputs", MAX_SIGNATURE)))
    count = reader.unsigned(1, "outputs", MAX_SIGNATURE)
    outputs = tuple(_signature(reader, reader.unsigned(4, "kernel", kernels - 1)) for _ in range(count))
    reader.finish()
    return Program(batched, inputs, outputs, ()), kernels


def _signature(reader: _Reader, kernel: int = 0) -> Signature:
    dtype = reader.dtype()
    rank = reader.unsigned(1, "rank", MAX_RANK)
    return Signature(dtype, tuple(reader.unsigned(4, "dim") for _ in range(rank)), kernel)


def decode_kernel(data: bytes) -> Kernel:
    """The kernel, without names; encoding it gives `data` again. Raises RecordError."""
    reader = _Reader(data, "kernel")
    dtype = reader.dtype()
    axes = reader.unsigned(1, "axes", MAX_AXES)
    reduced = reader.unsigned(1, "reduced", MAX_AXES - axes)
    extents = tuple(reader.unsigned(4, "extent") for _ in range(axes + reduced))
    init = reader.signed(8)
    operands = tuple(
        _operand(reader, number, len(extents))
        for number in range(reader.unsigned(1, "operands", MAX_OPERANDS))
    )
    expression = reader.take(reader.unsigned(1, "length"))
    reader.finish()
    kernel = Kernel(dtype, extents[:axes], extents[axes:], operands, expression, init)
    _check(kernel)
    return kernel


def _check(kernel: Kernel) -> None:
    if not 0 < kernel.elements <= MAX_ROW_ELEMENTS or not 0 < prod(kernel.reduction) <= MAX_STEPS:
        raise RecordError(
            f"a kernel has 1 to {MAX_ROW_ELEMENTS} elements a row and 1 to {MAX_STEPS} steps, not"
            f" {kernel.elements} and {kernel.steps}"
        )
    there = {Op.OPERAND: len(kernel.operands), Op.VAR: len(kernel.domain) + len(kernel.reduction)}
    for op, value in parse(kernel.expression):
        if value >= there.get(op, value + 1):
            raise RecordError(f"the expression has {op.name} {value}, the kernel {there[op]}")


def _operand(reader: _Reader, number: int, variables: int) -> Operand:
    source = Source(reader.unsigned(1, "source", max(Source)))
    dtype = reader.dtype()
    elements = reader.unsigned(4, "elements", MAX_ROW_ELEMENTS)
    constant = source is Source.CONSTANT
    root = reader.take(32) if constant else b""
    index = 0 if constant else reader.unsigned(4, "index", MAX_KERNELS - 1)
    pad = reader.signed(8)
    earlier = reader.unsigned(1, "indirect", number)
    indirect = (earlier - 1, reader.signed(4)) if earlier else None
    flat = _affine(reader, variables)
    bounds = tuple(
        Bound(_affine(reader, variables), reader.unsigned(4, "extent"))
        for _ in range(reader.unsigned(1, "bounds", MAX_BOUNDS))
    )
    return Operand(source, dtype, elements, flat, index, root, pad, bounds, indirect)


def _affine(reader: _Reader, variables: int) -> Affine:
    base = reader.signed(4)
    count = reader.unsigned(1, "terms", variables)
    terms = tuple((reader.unsigned(1, "variable", variables - 1), reader.signed(4)) for _ in range(count))
    if any(not coefficient for _, coefficient in terms) or any(
        left >= right for (left, _), (right, _) in pairwise(terms)
    ):
        raise RecordError("a form's variables ascend and its coefficients are not zero")
    return Affine(base, terms)
