"""Whether a trace is one of the program for the receipt's inputs and outputs, as far as roots tell."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any

import pytest
from assay.commitments.merkle import MerkleTree
from assay.exact.assembler import Expression
from assay.exact.program import Affine, Kernel, Operand, Program, Signature, Source, encode_header

from tests.support.random_programs import random_program, special_inputs
from tests.support.small_programs import PlainTrace, commitments_of
from tests.support.steps import OnAnvil, Refused, trace_arguments

pytestmark = pytest.mark.network
PROGRAM_ROOT, HEADER, HEADER_PROOF, ROWS, INPUTS = range(5)
OUTPUTS, OUTPUT_PROOFS, TRACE_ROOT, INPUT_HASH, OUTPUT_HASH = range(5, 10)
UINT8, INT32 = 2, 6


def program(*, batched: bool = True) -> Program:
    """Two inputs, three kernels, outputs of kernels 2 and 0."""
    kernels = [
        Kernel(INT32, (2, 3), (), (Operand(Source.INPUT, UINT8, 6, Affine(0, ((0, 3), (1, 1))), index),),
               Expression().operand(0).integer(index).add().code)
        for index in (0, 1)
    ]  # fmt: skip
    last = Operand(Source.KERNEL, INT32, 6, Affine(0, ((0, 1),)), 1)
    kernels.append(Kernel(UINT8, (6,), (), (last,), Expression().operand(0).code))
    return Program(
        batched,
        (Signature(UINT8, (2, 3)), Signature(UINT8, (6,))),
        (Signature(UINT8, (3, 2), 2), Signature(INT32, (6,), 0)),
        tuple(kernels),
    )


def arguments(*, batched: bool = True, rows: int = 2) -> list[Any]:
    made = program(batched=batched)
    data = [random.Random(one).randbytes(6 * rows) for one in (1, 2)]
    return list(trace_arguments(PlainTrace(made, data, rows)))


def changed(**fields: Any) -> list[Any]:
    """Good arguments but for some."""
    found = arguments()
    for name, value in fields.items():
        found[globals()[name]] = value(found[globals()[name]]) if callable(value) else value
    return found


def with_header(header: bytes, good: Sequence[Any] | None = None) -> list[Any]:
    """The same, in a program that has this header."""
    found = list(good or arguments())
    records = [header, *program().records[1:]]
    tree = MerkleTree(records)
    found[PROGRAM_ROOT], found[HEADER], found[HEADER_PROOF] = tree.root, header, tree.proof(0)
    return found


def test_check_trace__random_programs__are_taken(verifier: OnAnvil) -> None:
    calls, kernels = [], []
    for seed in range(40):
        rng = random.Random(seed)
        made = random_program(rng, kernels=1 + seed % 9)
        rows = rng.randint(1, 9) if made.batched else 1
        calls.append(trace_arguments(PlainTrace(made, special_inputs(rng, made, rows), rows)))
        kernels.append(len(made.kernels))
    assert verifier.call("check_trace", calls) == kernels


@pytest.mark.parametrize(("batched", "rows"), [(True, 2), (True, 1), (False, 1)])
def test_check_trace__several_inputs_and_outputs__are_taken(
    verifier: OnAnvil, batched: bool, rows: int
) -> None:
    assert verifier.call("check_trace", [arguments(batched=batched, rows=rows)]) == [3]


def test_check_trace__batched_or_not__is_not_interchangeable(verifier: OnAnvil) -> None:
    """A row more in the dims is another commitment, though the bytes are the same."""
    batched, plain = arguments(rows=1), arguments(batched=False, rows=1)
    assert batched[INPUTS] == plain[INPUTS]
    batched[INPUT_HASH], plain[INPUT_HASH] = plain[INPUT_HASH], batched[INPUT_HASH]
    refused = Refused("steps: inputs are not the receipt's")
    assert verifier.call("check_trace", [batched, plain]) == [refused, refused]


def swap(pair: Sequence[Any]) -> list[Any]:
    return list(pair)[::-1]


REFUSALS: list[tuple[dict[str, Any], str]] = [
    ({"PROGRAM_ROOT": bytes(32)}, "steps: header is not the program's"),
    ({"HEADER": lambda data: data[:-1] + bytes((data[-1] ^ 1,))}, "steps: header is not the program's"),
    ({"HEADER": lambda data: data + b"\0"}, "steps: header is not the program's"),
    ({"HEADER_PROOF": lambda proof: proof[:-1]}, "steps: header is not the program's"),
    ({"HEADER_PROOF": lambda proof: [*proof, bytes(32)]}, "steps: header is not the program's"),
    ({"HEADER_PROOF": swap}, "steps: header is not the program's"),
    ({"ROWS": 0}, "steps: rows are none or too many"),
    ({"ROWS": 1 << 32}, "steps: rows are none or too many"),
    ({"ROWS": 1}, "steps: inputs are not the receipt's"),
    ({"ROWS": (1 << 32) - 1}, "steps: tensor is too large"),
    ({"INPUTS": lambda roots: roots[:1]}, "steps: one root for each input"),
    ({"INPUTS": lambda roots: [*roots, bytes(32)]}, "steps: one root for each input"),
    ({"INPUTS": swap}, "steps: inputs are not the receipt's"),
    ({"INPUT_HASH": bytes(32)}, "steps: inputs are not the receipt's"),
    ({"OUTPUTS": lambda roots: roots[:1]}, "steps: one root and one proof for each output"),
    ({"OUTPUT_PROOFS": lambda proofs: proofs[:1]}, "steps: one root and one proof for each output"),
    (
        {"OUTPUT_PROOFS": lambda proofs: [proofs[0][1:], proofs[1]]},
        "steps: output's proof has the wrong depth",
    ),
    (
        {"OUTPUT_PROOFS": lambda proofs: [[*proofs[0], bytes(32)], proofs[1]]},
        "steps: output's proof has the wrong depth",
    ),
    ({"OUTPUTS": swap}, "steps: output is not in the trace"),
    ({"OUTPUT_PROOFS": swap}, "steps: output is not in the trace"),
    ({"OUTPUTS": swap, "OUTPUT_PROOFS": swap}, "steps: output is not in the trace"),
    ({"TRACE_ROOT": bytes(32)}, "steps: output is not in the trace"),
    ({"OUTPUT_HASH": bytes(32)}, "steps: outputs are not the receipt's"),
    ({"OUTPUT_HASH": sha256(b"\x03").digest()}, "steps: outputs are not the receipt's"),
]


@pytest.mark.parametrize(("fields", "reason"), REFUSALS)
def test_check_trace__one_thing_wrong__says_what(
    verifier: OnAnvil, fields: dict[str, Any], reason: str
) -> None:
    assert verifier.call("check_trace", [changed(**fields)]) == [Refused(reason)]


def at(place: int, *values: int) -> Callable[[bytes], bytes]:
    return lambda header: header[:place] + bytes(values) + header[place + len(values) :]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (at(0, 2), "steps: profile is unknown"),
        (at(0, 0), "steps: profile is unknown"),
        (at(1, 2), "steps: header is malformed"),
        (at(2, 0, 0, 0, 0), "steps: program has no kernels or too many"),
        (at(2, 0, 1, 0, 1), "steps: program has no kernels or too many"),
        (at(2, 0, 0, 0, 9), "steps: header is not the program's"),
        (at(6, 1), "steps: one root for each input"),
        (at(7, 8), "steps: dtype is none that programs have"),
        (at(8, 9), "steps: rank is too high"),
        (at(9, 128), "steps: row has too many elements"),
        (at(9, 0, 255, 255, 255, 0, 255, 255, 255), "steps: row has too many elements"),
        (at(9, 64), "steps: row has too many elements"),
        (at(12, 3), "steps: inputs are not the receipt's"),
        (at(23, 3), "steps: one root and one proof for each output"),
        (at(27, 0), "steps: output is not in the trace"),
        (at(27, 3), "steps: output is not in the trace"),
        (at(24, 255), "steps: output is not in the trace"),
        (at(36, 7), "steps: outputs are not the receipt's"),
        (lambda header: header + b"\0", "steps: header has the wrong length"),
        (lambda header: header[:-1], "steps: header is cut short"),
        (lambda header: header[:12], "steps: header is cut short"),
    ],
)
def test_check_trace__malformed_header_of_the_program__says_why(
    verifier: OnAnvil, change: Callable[[bytes], bytes], reason: str
) -> None:
    header = change(encode_header(program()))
    assert verifier.call("check_trace", [with_header(header)]) == [Refused(reason)]


def test_check_trace__header_cut_anywhere__is_refused(verifier: OnAnvil) -> None:
    header = encode_header(program())
    answers = verifier.call("check_trace", [with_header(header[:end]) for end in range(len(header))])
    assert all(isinstance(one, Refused) and one.reason.startswith("steps: ") for one in answers)
    assert verifier.call("check_trace", [with_header(header)]) == [3]


def test_check_trace__output_beyond_the_kernels__is_refused(verifier: OnAnvil) -> None:
    """Padding of the trace is no kernel's tensor."""
    made = program()
    trace = PlainTrace(made, [bytes(12), bytes(12)], 2)
    good = list(trace_arguments(trace))
    good[OUTPUT_PROOFS][0] = [trace.tree.node(0, 2), trace.tree.node(1, 0)]
    good[OUTPUTS][0] = bytes(32)
    answer = verifier.call("check_trace", [with_header(at(27, 3)(made.records[0]), good)])
    assert answer == [Refused("steps: output is not in the trace")]


def test_check_trace__no_inputs__hashes_nothing(verifier: OnAnvil) -> None:
    kernel = Kernel(INT32, (), (), (), Expression().integer(5).code)
    made = Program(False, (), (Signature(INT32, ()),), (kernel,))
    trace = PlainTrace(made, [])
    assert commitments_of(made, trace)[0] == sha256(b"\x03").digest()
    assert verifier.call("check_trace", [trace_arguments(trace)]) == [1]
