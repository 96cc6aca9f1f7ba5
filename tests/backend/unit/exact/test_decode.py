"""Records: decoding inverts encoding, and hostile bytes are refused with a RecordError, never another one."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import pytest
from assay.exact.assembler import Expression
from assay.exact.decode import decode_header, decode_kernel
from assay.exact.errors import RecordError
from assay.exact.instructions import WIDTHS
from assay.exact.program import (
    Affine,
    Bound,
    Kernel,
    Operand,
    Program,
    Signature,
    Source,
    encode_header,
    encode_kernel,
)
from hypothesis import given
from hypothesis import strategies as st

INT32 = st.integers(-(1 << 31), (1 << 31) - 1)
INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
DTYPES = st.sampled_from(sorted(WIDTHS))


@st.composite
def affines(draw: st.DrawFn, variables: int) -> Affine:
    chosen = sorted(draw(st.sets(st.integers(0, variables - 1)))) if variables else []
    return Affine(draw(INT32), tuple((one, draw(INT32.filter(bool))) for one in chosen))


@st.composite
def operands(draw: st.DrawFn, number: int, variables: int) -> Operand:
    source = draw(st.sampled_from(Source))
    bounds = tuple(
        Bound(draw(affines(variables)), draw(st.integers(0, (1 << 32) - 1)))
        for _ in range(draw(st.integers(0, 4)))
    )
    constant = source is Source.CONSTANT
    return Operand(
        source,
        draw(DTYPES),
        draw(st.integers(0, 1 << 30)),
        draw(affines(variables)),
        index=0 if constant else draw(st.integers(0, 65535)),
        root=draw(st.binary(min_size=32, max_size=32)) if constant else b"",
        pad=draw(INT64),
        bounds=bounds,
        indirect=(draw(st.integers(0, number - 1)), draw(INT32)) if number and draw(st.booleans()) else None,
    )


@st.composite
def kernels(draw: st.DrawFn) -> Kernel:
    extents = st.lists(st.integers(1, 9), max_size=4).map(tuple)
    domain, reduction = draw(extents), draw(extents)
    return Kernel(
        draw(DTYPES),
        domain,
        reduction,
        tuple(
            draw(operands(number, len(domain) + len(reduction))) for number in range(draw(st.integers(0, 3)))
        ),
        Expression().acc().integer(draw(INT64)).add().code,
        draw(INT64),
    )


@given(kernels())
def test_decode_kernel__encoded__gives_it_back(kernel: Kernel) -> None:
    assert decode_kernel(encode_kernel(kernel)) == kernel


@given(kernels(), st.data())
def test_decode_kernel__one_byte_changed_or_cut__is_refused_or_encodes_to_the_same(
    kernel: Kernel, data: st.DataObject
) -> None:
    record = bytearray(encode_kernel(kernel))
    at = data.draw(st.integers(0, len(record) - 1))
    record[at] = data.draw(st.integers(0, 255))
    for changed in (bytes(record), bytes(record[:at])):
        with suppress(RecordError):
            assert encode_kernel(decode_kernel(changed)) == changed


def test_decode_header__encoded__gives_it_back() -> None:
    kernel = Kernel(2, (3,), (), (), Expression().acc().code)
    inputs, outputs = (Signature(2, (3, 4)), Signature(1, ())), (Signature(2, (3,), 1), Signature(2, (1, 3)))
    program = Program(True, inputs, outputs, (kernel, kernel))
    header, count = decode_header(encode_header(program))
    assert (header, count) == (replace(program, kernels=()), 2)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("", "ends at byte 0"),
        ("02", "profile 2"),
        ("0102", "batched is 2"),
        ("010000010001", "kernels is 65537"),
        ("01000000000109", "inputs is 9"),
        ("0100000000010108", "dtype 8"),
        ("010000000001010209", "rank is 9"),
        ("01000000000100010000000102", "kernel is 1"),
        ("010000000001000000", "1 bytes too many"),
    ],
)
def test_decode_header__malformed__is_refused(record: str, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        decode_header(bytes.fromhex(record))


GOOD = Kernel(
    2,
    (3,),
    (),
    (Operand(Source.INPUT, 2, 3, Affine(0, ((0, 1),))),),
    Expression().operand(0).code,
)


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (replace(GOOD, domain=(0,)), "1 to 2147483647 elements"),
        (replace(GOOD, domain=(1 << 16, 1 << 15)), "1 to 2147483647 elements"),
        (replace(GOOD, reduction=(1 << 24, 2)), "16777216 steps"),
        (replace(GOOD, expression=b"\x01\x01"), "OPERAND 1, the kernel 1"),
        (replace(GOOD, expression=b"\x02\x01"), "VAR 1, the kernel 1"),
        (replace(GOOD, dtype=10), "dtype 10"),
        (replace(GOOD, operands=(replace(GOOD.operands[0], flat=Affine(0, ((0, 0),))),)), "not zero"),
        (replace(GOOD, operands=(replace(GOOD.operands[0], flat=Affine(0, ((1, 1),))),)), "variable is 1"),
        (replace(GOOD, operands=(replace(GOOD.operands[0], indirect=(0, 1)),)), "indirect is 1"),
        (replace(GOOD, operands=GOOD.operands * 9), "operands is 9"),
        (replace(GOOD, domain=(1,) * 13), "axes is 13"),
    ],
)
def test_decode_kernel__outside_the_profile__is_refused(kernel: Kernel, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        decode_kernel(encode_kernel(kernel))


def test_decode_kernel__too_long__is_refused() -> None:
    with pytest.raises(RecordError, match="at most 2048 bytes"):
        decode_kernel(bytes(2049))
