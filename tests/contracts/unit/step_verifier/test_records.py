"""Kernels' records: what they prove to be, what is malformed, and bytes changed anywhere in them."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from assay.commitments.merkle import MerkleTree
from assay.exact.assembler import Expression
from assay.exact.decode import decode_kernel
from assay.exact.dispute import decode_element, element_width
from assay.exact.errors import RecordError
from assay.exact.program import Affine, Bound, Kernel, Operand, Signature, Source, encode_kernel
from assay.exact.step import run_step

from tests.support.random_programs import places, random_program, special_inputs
from tests.support.small_programs import PlainTrace, constant
from tests.support.steps import OnAnvil, Refused, program_of, shape_arguments, step_arguments

pytestmark = pytest.mark.network
DEEP = bool(os.environ.get("ASSAY_DEEP"))
MUTATIONS = 40_000 if DEEP else 2_500
INT32, UINT8 = 6, 2


TABLE = np.arange(1_000, 1_300, dtype="<i4")


def malformed(record: bytes, at: int, *values: int) -> bytes:
    """The record with other bytes from `at` on."""
    return record[:at] + bytes(values) + record[at + len(values) :]


def read_of(trace: PlainTrace, kernel: Kernel) -> Any:
    """Reads the tensors' bytes as the kernel's operands say. KeyError or IndexError: there are none."""

    def read(number: int, element: int) -> int:
        operand = kernel.operands[number]
        if operand.source is Source.CONSTANT:
            data = trace.program.constants[operand.root].tobytes()
        elif operand.source is Source.INPUT:
            data = trace.inputs[operand.index]
        else:
            data = trace.tensors[operand.index]
        width = element_width(operand.dtype)
        if (element + 1) * width > len(data):
            raise IndexError(element)
        return decode_element(operand.dtype, data[element * width : (element + 1) * width])

    return read


def expected(trace: PlainTrace, record: bytes, element: int, step: int, before: int) -> int | None:
    """What a step of the changed record is, if it is one at all."""
    try:
        kernel = decode_kernel(record)
        row, inner = divmod(element, kernel.elements)
        if row >= trace.rows:
            return None
        return run_step(kernel, row, inner, step, before, read_of(trace, kernel))
    except (RecordError, IndexError, KeyError):
        return None


def mutated(record: bytes, rng: random.Random) -> bytes:
    """One byte changed a little or a lot, inserted, dropped, or the end cut."""
    at = rng.randrange(len(record))
    kind = rng.random()
    if kind < 0.4:
        return malformed(record, at, record[at] ^ 1 << rng.randrange(8))
    if kind < 0.8:
        return malformed(record, at, rng.choice((0, 1, 2, 3, 12, 13, 127, 128, 255, rng.randrange(256))))
    if kind < 0.9:
        return record[:at] + bytes((rng.randrange(256),)) * rng.randint(0, 2) + record[at + 1 :]
    return record[:at]


def reads_the_same(record: bytes, kernel: Kernel) -> bool:
    """Whether the changed record differs in the expression, the first value or the dtype alone."""
    try:
        other = decode_kernel(record)
    except RecordError:
        return False
    return (other.domain, other.reduction, other.operands) == (
        kernel.domain,
        kernel.reduction,
        kernel.operands,
    )


def changed_records(rng: random.Random) -> Iterator[tuple[Any, int | None, bool]]:
    """(arguments of `step`, what it must answer, whether it must answer)."""
    program = random_program(rng)
    rows = rng.randint(1, 2) if program.batched else 1
    trace = PlainTrace(program, special_inputs(rng, program, rows), rows)
    for kernel, element, step in rng.sample(places(program, rows), 3):
        before = rng.choice((0, 5, -3))
        record, *rest = step_arguments(trace, kernel, element, step, before)
        for _ in range(60):
            other = mutated(record, rng)
            value = expected(trace, other, element, step, before)
            yield (other, *rest), value, reads_the_same(other, program.kernels[kernel])


def test_step__changed_records__compute_what_they_say_or_nothing(verifier: OnAnvil) -> None:
    """If the contract answers, then what the changed record means; what Python refuses, it refuses."""
    rng = random.Random(4)
    cases: list[tuple[Any, int | None, bool]] = []
    while len(cases) < MUTATIONS:
        cases += changed_records(rng)
    answers = verifier.call("step", [arguments for arguments, _, _ in cases])
    for (arguments, value, must), answer in zip(cases, answers, strict=True):
        if isinstance(answer, Refused):
            assert answer.reason.startswith("steps: ") and not must, (arguments, answer, value)
        else:
            assert answer == value, arguments
    proven = sum(not isinstance(answer, Refused) for answer in answers)
    assert len(cases) // 10 < proven < len(cases)


def sample() -> Kernel:
    """Two axes, one reduced, an input with two bounds and an indirect constant."""
    root, _ = constant(TABLE)
    return Kernel(
        INT32,
        (2, 3),
        (4,),
        (
            Operand(
                Source.INPUT, UINT8, 24, Affine(0, ((0, 12), (1, 4), (2, 1))), 0, b"", 7,
                (Bound(Affine(0, ((0, 1),)), 2), Bound(Affine(0, ((2, 1),)), 4)),
            ),
            Operand(Source.CONSTANT, INT32, len(TABLE), Affine(1), 0, root, indirect=(0, 1)),
        ),
        Expression().operand(0).operand(1).add().acc().add().code,
        init=-5,
    )  # fmt: skip


def sample_trace() -> PlainTrace:
    program = program_of([sample()], [Signature(UINT8, (2, 3, 4))], dict([constant(TABLE)]))
    return PlainTrace(program, [bytes(range(24))])


# Where things stand in the sample's record.
DTYPE, AXES, EXTENT, REDUCED, COUNT, FIRST, SECOND, LENGTH = 0, 1, 3, 11, 23, 24, 92, 149
ELEMENTS, INDIRECT, TERMS, VARIABLE, NEXT_VARIABLE, BOUNDS = 26, 42, 47, 48, 53, 63


def test_sample__record__is_laid_out_as_named() -> None:
    record = encode_kernel(sample())
    assert record[COUNT] == 2
    assert record[FIRST : FIRST + 2] == bytes((1, UINT8))
    assert (record[INDIRECT], record[TERMS], record[VARIABLE], record[NEXT_VARIABLE], record[BOUNDS]) == (
        0,
        3,
        0,
        1,
        2,
    )
    assert record[SECOND : SECOND + 2] == bytes((0, INT32))
    assert record[LENGTH] == len(sample().expression) == len(record) - LENGTH - 1


@pytest.mark.parametrize(
    ("at", "values", "reason"),
    [
        (DTYPE, (8,), "steps: dtype is none that programs have"),
        (AXES, (12,), "steps: kernel has too many axes"),
        (AXES, (255,), "steps: kernel has too many axes"),
        (EXTENT, (255,), "steps: row has too many elements"),
        (EXTENT, (0, 0, 0, 0), "steps: extent is zero"),
        (REDUCED, (1,), "steps: reduction has too many steps"),
        (REDUCED, (0, 0, 0, 0), "steps: extent is zero"),
        (COUNT, (9,), "steps: kernel has too many operands"),
        (COUNT, (1,), "steps: one opening for each operand"),
        (FIRST, (3,), "steps: source is unknown"),
        (FIRST, (2,), "steps: operand is not an earlier kernel"),
        (FIRST + 1, (8,), "steps: dtype is none that programs have"),
        (ELEMENTS, (128,), "steps: row has too many elements"),
        (ELEMENTS + 5, (1,), "steps: input is not there"),
        (INDIRECT, (1,), "steps: operand follows a later one"),
        (INDIRECT, (255,), "steps: operand follows a later one"),
        (TERMS, (4,), "steps: form has too many terms"),
        (VARIABLE, (3,), "steps: variable is not there"),
        (NEXT_VARIABLE, (0,), "steps: form is not canonical"),
        (VARIABLE + 1, (0, 0, 0, 0), "steps: form is not canonical"),
        (BOUNDS, (5,), "steps: operand has too many bounds"),
        (SECOND + 1, (14,), "steps: dtype is none that programs have"),
        (SECOND + 46, (2,), "steps: operand follows a later one"),
        (LENGTH, (0,), "steps: record has the wrong length"),
        (LENGTH, (255,), "steps: record has the wrong length"),
    ],
)
def test_step__malformed_record__says_why(
    verifier: OnAnvil, at: int, values: tuple[int, ...], reason: str
) -> None:
    record, *rest = step_arguments(sample_trace(), 0, 5, 3, 0)
    assert verifier.call("step", [(malformed(record, at, *values), *rest)]) == [Refused(reason)]


def test_step__record_of_another_length__is_refused(verifier: OnAnvil) -> None:
    record, *rest = step_arguments(sample_trace(), 0, 5, 3, 0)
    *cut, whole, longer = verifier.call(
        "step",
        [(part, *rest) for part in (*(record[:end] for end in range(len(record))), record, record + b"\0")],
    )
    assert all(isinstance(one, Refused) and one.reason.startswith("steps: ") for one in cut)
    assert cut[100] == Refused("steps: record is cut short") == cut[20]
    assert whole == 23 + 1_024
    assert longer == Refused("steps: record has the wrong length")


def test_step__pad_of_an_operand_of_no_dtype__is_refused(verifier: OnAnvil) -> None:
    kernel = sample()
    far = Operand(Source.INPUT, UINT8, 24, Affine(24), pad=3)
    trace = PlainTrace(
        program_of([replace(kernel, operands=(far, far))], [Signature(UINT8, (24,))]), [bytes(24)]
    )
    record, *rest = step_arguments(trace, 0, 0, 0, 0)
    bad, good = verifier.call("step", [(malformed(record, FIRST + 1, 10), *rest), (record, *rest)])
    assert (bad, good) == (Refused("steps: dtype is none that programs have"), 6)


def test_kernel_shape__every_kernel_of_random_programs__is_as_encoded(verifier: OnAnvil) -> None:
    programs = [random_program(random.Random(seed), kernels=1 + seed) for seed in range(10)]
    calls = [(program, kernel) for program in programs for kernel in range(len(program.kernels))]
    answers = verifier.call("kernel_shape", [shape_arguments(*call) for call in calls])
    for (program, number), answer in zip(calls, answers, strict=True):
        kernel = program.kernels[number]
        assert answer == (kernel.dtype, kernel.elements, kernel.steps, kernel.init)


def test_kernel_shape__not_the_programs__is_refused(verifier: OnAnvil) -> None:
    program = random_program(random.Random(3))
    root, record, proof, _ = shape_arguments(program, 1)
    inner = program.tree.node(0, 0) + program.tree.node(0, 1)
    calls = [
        (root, record, proof, 0),
        (root, record, proof, 2),
        (root, record, proof, 9),
        (root, record, proof, 1 << 16),
        (root, record, proof, (1 << 256) - 1),
        (root, record[:-1], proof, 1),
        (root, record, proof[:-1], 1),
        (root, record, [*proof, bytes(32)], 1),
        (root, record, [bytes(32), *proof[1:]], 1),
        (root[::-1], record, proof, 1),
        (bytes(32), record, [], 1),
        (root, inner, program.tree.proof(0)[1:], 0),
        (root, program.records[0], program.tree.proof(0), 0),
    ]
    assert verifier.call("kernel_shape", calls) == [Refused("steps: kernel is not the program's")] * len(
        calls
    )


@pytest.mark.parametrize(
    ("at", "values", "reason"),
    [
        (DTYPE, (8,), "steps: dtype is none that programs have"),
        (AXES, (12,), "steps: kernel has too many axes"),
        (EXTENT, (255,), "steps: row has too many elements"),
        (REDUCED, (1,), "steps: reduction has too many steps"),
        (REDUCED, (0, 0, 0, 0), "steps: extent is zero"),
        (COUNT, (9,), "steps: kernel has too many operands"),
    ],
)
def test_kernel_shape__malformed_in_the_program__says_why(
    verifier: OnAnvil, at: int, values: tuple[int, ...], reason: str
) -> None:
    record = malformed(encode_kernel(sample()), at, *values)
    tree = MerkleTree([b"header", record])
    assert verifier.call("kernel_shape", [(tree.root, record, tree.proof(1), 0)]) == [Refused(reason)]
