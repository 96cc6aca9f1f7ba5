"""Every step of every kernel is provable and equals the interpreter; what was tampered with is refused."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from assay.exact.assembler import Expression
from assay.exact.program import Affine, Bound, Kernel, Operand, Signature, Source

from tests.support.random_programs import places, random_program, special_inputs
from tests.support.small_programs import PlainTrace, constant, ladder, random_input
from tests.support.steps import OnAnvil, Refused, every_step, program_of, step_arguments

pytestmark = pytest.mark.network
DEEP = bool(os.environ.get("ASSAY_DEEP"))
SEEDS = range(2_000 if DEEP else 60)
INT8, UINT8, INT32 = 3, 2, 6
Arguments = tuple[Any, ...]


def random_trace(seed: int) -> PlainTrace:
    rng = random.Random(seed)
    program = random_program(rng)
    rows = rng.randint(1, 3) if program.batched else 1
    return PlainTrace(program, special_inputs(rng, program, rows), rows)


def convolution() -> PlainTrace:
    """2 rows of 2 × 5 × 5 uint8, 3 padded filters of 3 × 3, requantised, pooled: what int8 networks do."""
    weights = constant(np.random.default_rng(5).integers(-64, 64, (3, 2, 3, 3), dtype="i1"))
    inside = (Bound(Affine(-1, ((1, 1), (4, 1))), 5), Bound(Affine(-1, ((2, 1), (5, 1))), 5))
    sums = Kernel(
        INT32,
        (3, 5, 5),
        (2, 3, 3),
        (
            Operand(
                Source.INPUT,
                UINT8,
                50,
                Affine(-6, ((1, 5), (2, 1), (3, 25), (4, 5), (5, 1))),
                0,
                b"",
                9,
                inside,
            ),
            Operand(Source.CONSTANT, INT8, 54, Affine(0, ((0, 18), (3, 9), (4, 3), (5, 1))), 0, weights[0]),
        ),
        Expression().operand(0).integer(9).sub().operand(1).mul().acc().add().code,
        init=-77,
    )
    scaled = Expression().operand(0).i2f().float(0.0123).fmul().f2i().integer(128).add().clamp(0, 255)
    same = Operand(Source.KERNEL, INT32, 75, Affine(0, ((0, 25), (1, 5), (2, 1))))
    requantised = Kernel(UINT8, (3, 5, 5), (), (same,), scaled.code)
    window = Affine(0, ((0, 25), (1, 10), (2, 2), (3, 5), (4, 1)))
    pool = Kernel(
        UINT8,
        (3, 2, 2),
        (2, 2),
        (Operand(Source.KERNEL, UINT8, 75, window, 1),),
        Expression().acc().operand(0).max().code,
    )
    program = program_of(
        [sums, requantised, pool], [Signature(UINT8, (2, 5, 5))], dict([weights]), batched=True
    )
    return PlainTrace(program, random_input(random.Random(5), program, 2), 2)


def check(verifier: OnAnvil, trace: Any) -> int:
    """Proves every step; returns how many there were."""
    steps = [one for kernel in range(len(trace.program.kernels)) for one in every_step(trace, kernel)]
    answers = verifier.call("step", [arguments for arguments, _ in steps])
    for place, answer, (_, after) in zip(places(trace.program, trace.rows), answers, steps, strict=True):
        assert answer == after, place
    return len(steps)


def test_step__every_step_of_random_programs__equals_the_interpreter(verifier: OnAnvil) -> None:
    assert sum(check(verifier, random_trace(seed)) for seed in SEEDS) > 30 * len(SEEDS)


def test_step__every_step_of_a_quantised_convolution__equals_the_interpreter(verifier: OnAnvil) -> None:
    assert check(verifier, convolution()) == 2 * (75 * 18 + 75 + 12 * 4)


def test_step__every_step_over_several_chunks__equals_the_interpreter(verifier: OnAnvil) -> None:
    program = ladder(random.Random(2), wide=400, steps=40, rungs=3, batched=True)
    assert check(verifier, PlainTrace(program, random_input(random.Random(3), program, 2), 2)) > 1_000


def flipped(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + bytes((data[at] ^ 1 << rng.randrange(8),)) + data[at + 1 :]


def tampered_openings(arguments: Arguments, rng: random.Random) -> Iterator[list[Any]]:
    """Each a list of openings with one lie in it."""
    openings = arguments[3]
    for number, (root, trace_siblings, chunk, siblings) in enumerate(openings):

        def put(*opening: Any, at: int = number) -> list[Any]:
            return [*openings[:at], opening, *openings[at + 1 :]]

        if not chunk:
            yield put(root, trace_siblings, b"\x01", siblings)
            yield put(root, [bytes(32)], chunk, siblings)
            yield put(root, trace_siblings, chunk, [bytes(32)])
            continue
        yield put(root, trace_siblings, flipped(chunk, rng), siblings)
        yield put(root, trace_siblings, chunk[:-1], siblings)
        yield put(root, trace_siblings, (chunk + b"\0")[-1024:], siblings)
        yield put(root, trace_siblings, b"", [])
        yield put(root, trace_siblings, chunk, [*siblings, bytes(32)])
        for place, sibling in enumerate(siblings):
            yield put(
                root,
                trace_siblings,
                chunk,
                [*siblings[:place], flipped(sibling, rng), *siblings[place + 1 :]],
            )
        if siblings:
            yield put(root, trace_siblings, chunk, siblings[1:])
            yield put(root, trace_siblings, chunk, siblings[:-1])
            yield put(
                root, trace_siblings, chunk, siblings[::-1] if siblings != siblings[::-1] else siblings[1:]
            )
        if trace_siblings:
            yield put(flipped(root, rng), trace_siblings, chunk, siblings)
            yield put(root, [flipped(trace_siblings[0], rng), *trace_siblings[1:]], chunk, siblings)
            yield put(root, trace_siblings[1:], chunk, siblings)
            yield put(root, [*trace_siblings, bytes(32)], chunk, siblings)
    if openings:
        yield openings[:-1]
    if len(openings) < 8:
        yield [*openings, (bytes(32), [], b"", [])]


def refused(answers: list[Any]) -> bool:
    return all(isinstance(one, Refused) and one.reason.startswith("steps: ") for one in answers)


def test_step__tampered_openings__are_refused(verifier: OnAnvil) -> None:
    rng = random.Random(1)
    traces = [random_trace(seed) for seed in SEEDS[:30]] + [convolution()]
    calls = []
    for trace in traces:
        for place in rng.sample(places(trace.program, trace.rows), 6):
            record, task, roots, openings = step_arguments(trace, *place, 0)
            calls += [
                (record, task, roots, lie) for lie in tampered_openings((record, task, roots, openings), rng)
            ]
    assert len(calls) > 2_000
    answers = verifier.call("step", calls)
    assert refused(answers), next(one for one in zip(calls, answers, strict=True) if not refused([one[1]]))


def test_step__swapped_operands_and_other_roots__are_refused(verifier: OnAnvil) -> None:
    trace = convolution()
    record, task, roots, (first, second) = step_arguments(trace, 0, 57, 13, 0)
    *others, trace_root = task
    other = convolution()
    assert verifier.call("step", [(record, task, roots, [first, second])])[0] not in (0, None)
    answers = verifier.call(
        "step",
        [
            (record, task, roots, [second, first]),
            (record, task, [bytes(32)], [first, second]),
            (record, task, [trace.root], [first, second]),
            (record, task, [], [first, second]),
        ],
    )
    assert [one.reason for one in answers] == [
        "steps: chunk has the wrong length",
        "steps: chunk is not in the tensor",
        "steps: chunk is not in the tensor",
        "steps: input is not there",
    ]
    record, task, roots, openings = step_arguments(other, 1, 3, 0, 0)
    *others, trace_root = task
    wrong = verifier.call("step", [(record, (*others, trace_root[::-1]), roots, openings)])
    assert wrong == [Refused("steps: operand is not in the trace")]


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        (0, 3, "steps: kernel is outside the program"),
        (0, 1 << 255, "steps: kernel is outside the program"),
        (0, 0, "steps: operand is not an earlier kernel"),
        (1, 1, "steps: kernel is outside the program"),
        (1, (1 << 16) + 1, "steps: kernel is outside the program"),
        (1, 5, "steps: operand's proof has the wrong depth"),
        (2, 0, "steps: rows are none or too many"),
        (2, 1 << 32, "steps: rows are none or too many"),
        (2, 1, "steps: element is outside the tensor"),
        (2, 100, "steps: chunk has the wrong length"),
        (2, (1 << 32) - 1, "steps: tensor is too large"),
        (3, 150, "steps: element is outside the tensor"),
        (3, (1 << 256) - 1, "steps: element is outside the tensor"),
        (4, 1, "steps: step is outside the reduction"),
        (4, 1 << 255, "steps: step is outside the reduction"),
    ],
)
def test_step__task_outside__says_why(verifier: OnAnvil, field: int, value: int, reason: str) -> None:
    record, task, roots, openings = step_arguments(convolution(), 1, 103, 0, 0)
    changed = (*task[:field], value, *task[field + 1 :])
    assert verifier.call("step", [(record, changed, roots, openings)]) == [Refused(reason)]


def test_step__opening_missing_or_for_padding__says_why(verifier: OnAnvil) -> None:
    record, task, roots, openings = step_arguments(convolution(), 0, 0, 0, 0)
    assert openings[0] == (bytes(32), [], b"", [])
    filled = [openings[1], openings[1]]
    deeper = [openings[0], (*openings[1][:3], [*openings[1][3], bytes(32)])]
    answers = verifier.call("step", [(record, task, roots, each) for each in (openings[:1], filled, deeper)])
    assert [one.reason for one in answers] == [
        "steps: one opening for each operand",
        "steps: padding has no opening",
        "steps: chunk's proof has the wrong depth",
    ]


def test_step__before_is_another__computes_to_another(verifier: OnAnvil) -> None:
    """What the game compares with the claim follows from what it says that the step begins with."""
    trace = convolution()
    calls = [step_arguments(trace, 0, 57, 13, before) for before in (0, 1, -1, 1 << 31)]
    zero, one, minus, wrapped = verifier.call("step", calls)
    assert (one - zero, minus - zero) == (1, -1)
    assert wrapped == zero + (-(1 << 31) if zero >= 0 else 1 << 31)
