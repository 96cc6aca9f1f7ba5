"""Expressions of any instructions, and of any bytes, equal the scalar interpreter or are refused by both."""

from __future__ import annotations

import os
import random
from itertools import product

import pytest
from assay.exact.assembler import Expression
from assay.exact.errors import RecordError
from assay.exact.instructions import WIDTHS, parse, pops
from assay.exact.opcodes import IMMEDIATE_BYTES, MAX_EXPRESSION_BYTES, MAX_INSTRUCTIONS, MAX_STACK, Op
from assay.exact.step import run_expression
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.steps import OnAnvil, Refused

pytestmark = pytest.mark.network
LIMIT = 1 << 255
BITS = (0, 1, 7, 8, 22, 23, 24, 31, 32, 52, 63, 64, 127, 128, 254)
EDGES = sorted(
    {sign * (1 << bits) + near for bits in BITS for sign in (1, -1) for near in (-1, 0, 1)}
    | {LIMIT - 1, -LIMIT, 5, 149, 255, 257, 0x3F000000, 0x3FC00000, 0x4B000001, 0x5F000000}
    | {0x7F800000, 0x7FC00001, 0xFF800000, 0xFF800001, 0xBFC00000, 1 << 31, 1 << 159}
)
SOME = EDGES[::5]
DEEP = bool(os.environ.get("ASSAY_DEEP"))

Case = tuple[bytes, int, tuple[int, ...], tuple[int, ...]]
"""Expression, accumulator, the operands' values, the loop variables."""


def expected(case: Case) -> int | None:
    """What the scalar interpreter finds; None where it refuses."""
    code, acc, operands, variables = case
    try:
        return run_expression(parse(code), acc, operands, variables)
    except RecordError:
        return None


def check(expressions: OnAnvil, cases: list[Case]) -> None:
    for case, found in zip(cases, expressions.call("run", cases), strict=True):
        wanted = expected(case)
        if wanted is None:
            assert isinstance(found, Refused), case
            assert found.reason.startswith("steps: "), (case, found)
        else:
            assert found == wanted, case


def immediates(op: Op) -> list[int]:
    return sorted(WIDTHS) if op is Op.WRAP else [0]


@pytest.mark.parametrize("op", [op for op in Op if pops(op)], ids=lambda op: op.name)
def test_instruction__every_edge_with_every_edge__equals_the_interpreter(
    expressions: OnAnvil, op: Op
) -> None:
    count = pops(op)
    rng = random.Random(int(op))
    runs = list(product(EDGES if count < 3 else SOME, repeat=count))
    runs += [
        tuple(rng.getrandbits(256) - LIMIT >> rng.randrange(256) for _ in range(count)) for _ in range(500)
    ]
    for immediate in immediates(op):
        code = b"".join(bytes((Op.OPERAND, i)) for i in range(count)) + Expression().op(op, immediate).body
        at_once = 4_096 // count
        parts = [runs[i : i + at_once] for i in range(0, len(runs), at_once)]
        calls = [(code, [value for run in part for value in run], count) for part in parts]
        found = [one for answer in expressions.call("run_many", calls) for one in answer]
        instructions = parse(code)
        assert found == [run_expression(instructions, 0, run, ()) for run in runs]


WORDS = st.sampled_from(EDGES) | st.integers(-LIMIT, LIMIT - 1)
PICKS = st.lists(st.tuples(st.integers(0, 255), st.integers(-(1 << 63), (1 << 63) - 1)), min_size=1)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Expressions that run through, of up to 64 instructions on up to 16 values."""
    operands = tuple(draw(st.lists(WORDS, max_size=8)))
    variables = tuple(draw(st.lists(st.integers(0, (1 << 31) - 1), max_size=12)))
    code, depth = b"", 0
    for pick, number in draw(PICKS)[:MAX_INSTRUCTIONS]:
        possible = [
            op
            for op in Op
            if pops(op) <= depth
            and depth + 1 - pops(op) <= MAX_STACK
            and (op is not Op.OPERAND or operands)
            and (op is not Op.VAR or variables)
            and (op is not Op.DUP or depth)
        ]
        op = possible[pick % len(possible)]
        span = {Op.OPERAND: len(operands), Op.VAR: len(variables), Op.DUP: depth, Op.WORD: 1 << 32}.get(op)
        value = sorted(WIDTHS)[number % len(WIDTHS)] if op is Op.WRAP else number % span if span else number
        longer = Expression(code).op(op, value if op in IMMEDIATE_BYTES else 0).body
        if len(longer) > MAX_EXPRESSION_BYTES:
            break
        code, depth = longer, depth + 1 - pops(op)
    return code, draw(WORDS), operands, variables


@given(st.lists(cases(), min_size=1, max_size=20))
@settings(max_examples=1_000 if DEEP else 40)
def test_run__random_expressions__equal_the_interpreter(expressions: OnAnvil, several: list[Case]) -> None:
    assert all(expected(case) is not None for case in several)
    check(expressions, several)


def test_run__random_bytes__are_refused_by_both_or_equal(expressions: OnAnvil) -> None:
    rng = random.Random(11)
    likely = [*map(int, Op)] * 3 + list(range(0x40))
    several: list[Case] = []
    for _ in range(20_000 if DEEP else 3_000):
        code = bytes(
            rng.choice(likely) if rng.random() < 0.7 else rng.getrandbits(8) for _ in range(rng.randrange(9))
        )
        start = Expression().acc().operand(0).operand(1).body[: rng.choice((0, 5, 5, 5))]
        several.append((start + code, rng.choice(EDGES), (rng.choice(EDGES), rng.choice(EDGES)), (3,)))
    accepted = sum(expected(case) is not None for case in several)
    assert accepted > len(several) // 50
    check(expressions, several)


def test_run__every_first_byte__is_an_instruction_or_refused(expressions: OnAnvil) -> None:
    push = Expression().acc().acc().acc().body
    check(
        expressions, [(push + bytes((byte, *tail)), 7, (), ()) for byte in range(256) for tail in ((), (2,))]
    )


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (b"", "steps: stack is empty"),
        (Expression().add().body, "steps: stack is empty"),
        (Expression().acc().add().body, "steps: stack is empty"),
        (Expression().acc().acc().select().body, "steps: stack is empty"),
        (Expression().i2f().body, "steps: stack is empty"),
        (Expression().acc().dup(1).body, "steps: stack is empty"),
        (Expression().acc().body * (MAX_STACK + 1), "steps: stack is full"),
        (Expression().operand(2).body, "steps: operand is not there"),
        (Expression().var(1).body, "steps: variable is not there"),
        (Expression().acc().wrap(8).body, "steps: dtype is none that programs have"),
        (Expression().acc().acc().body + b"\x06", "steps: instruction is unknown"),
        (Expression().acc().acc().body + b"\x21", "steps: instruction is unknown"),
        (Expression().acc().body + b"\x3c", "steps: instruction is unknown"),
        (Expression().integer(1).body[:-1], "steps: expression is cut short or too long"),
        (
            Expression().acc().body + Expression().i2f().body * MAX_INSTRUCTIONS,
            "steps: expression is cut short or too long",
        ),
    ],
)  # fmt: skip
def test_run__malformed__says_why(expressions: OnAnvil, code: bytes, reason: str) -> None:
    assert expected((code, 0, (1, 2), (3,))) is None
    assert expressions.call("run", [(code, 0, (1, 2), (3,))]) == [Refused(reason)]


def test_run__at_the_limits__runs(expressions: OnAnvil) -> None:
    full = Expression().acc().body * MAX_STACK + Expression().add().body * (MAX_STACK - 1)
    longest = Expression().acc().body + Expression().i2f().body * (MAX_INSTRUCTIONS - 1)
    widest = (
        Expression().op(Op.LONG, -1).body * 14
        + Expression().op(Op.LONG, 5).body
        + Expression().add().body * 14
    )
    cases: list[Case] = [(code, 3, (), ()) for code in (full, longest, widest)]
    assert [expected(case) for case in cases] == [48, expected(cases[1]), -9]
    check(expressions, cases)
