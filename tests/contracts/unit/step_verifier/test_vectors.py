"""The shared vectors of instructions, programs, traces and openings, checked by the contract."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from assay.commitments.merkle import MerkleTree
from assay.exact.decode import decode_header, decode_kernel

from tests.support.steps import OnAnvil

pytestmark = pytest.mark.network
VECTORS = Path(__file__).resolve().parents[3] / "vectors"


def load(name: str) -> Any:
    return json.loads((VECTORS / f"{name}.json").read_text())


def raw(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))


@pytest.mark.parametrize(
    "vector", load("instructions")["instructions"], ids=lambda vector: vector["expression"]
)
def test_instruction__cases_of_the_vectors__are_equal(expressions: OnAnvil, vector: Any) -> None:
    cases = [[*map(int, case.split())] for case in vector["cases"]]
    operands, count = [value for case in cases for value in case[:-1]], len(cases[0]) - 1
    (found,) = expressions.call("run_many", [(raw(vector["expression"]), operands, count)])
    assert [*found] == [case[-1] for case in cases]


@pytest.mark.parametrize("program", [*load("programs")["programs"], *load("traces")["traces"]])
def test_kernel_shape__records_of_the_vectors__are_the_programs(verifier: OnAnvil, program: Any) -> None:
    root, records = raw(program["program_root"]), [*map(raw, program["records"])]
    tree = MerkleTree(records)
    kernels = range(len(records) - 1)
    answers = verifier.call("kernel_shape", [(root, records[1 + k], tree.proof(1 + k), k) for k in kernels])
    assert len(answers) > 1
    for record, answer in zip(records[1:], answers, strict=True):
        kernel = decode_kernel(record)
        assert answer == (kernel.dtype, kernel.elements, kernel.steps, kernel.init)


@pytest.mark.parametrize("trace", load("traces")["traces"], ids=lambda trace: trace["program_root"])
def test_check_trace__traces_of_the_vectors__are_taken(verifier: OnAnvil, trace: Any) -> None:
    records, roots = [*map(raw, trace["records"])], [*map(raw, trace["tensor_roots"])]
    tree = MerkleTree(roots)
    header, kernels = decode_header(records[0])
    outputs = [output.kernel for output in header.outputs]
    arguments = (
        raw(trace["program_root"]),
        records[0],
        MerkleTree(records).proof(0),
        trace["rows"],
        [*map(raw, trace["input_roots"])],
        [roots[kernel] for kernel in outputs],
        [tree.proof(kernel) for kernel in outputs],
        raw(trace["trace_root"]),
        raw(trace["input_hash"]),
        raw(trace["output_hash"]),
    )
    assert verifier.call("check_trace", [arguments]) == [kernels]


def test_step__openings_of_the_vectors__compute_to_what_they_say(verifier: OnAnvil) -> None:
    (trace,) = load("traces")["traces"]
    roots = [*map(raw, trace["input_roots"])]
    kernels = len(trace["records"]) - 1
    calls, expected = [], []
    for one in load("openings")["steps"]:
        place = (trace["rows"], one["element"], one["step"], int(one["before"]), raw(trace["trace_root"]))
        openings = [
            (
                raw(opening["root"]),
                [*map(raw, opening["trace_siblings"])],
                raw(opening["chunk"]),
                [*map(raw, opening["siblings"])],
            )
            for opening in one["openings"]
        ]
        task = (one["kernel"], kernels, *place)
        calls.append((raw(trace["records"][1 + one["kernel"]]), task, roots, openings))
        expected.append(int(one["after"]))
    assert len(calls) > 3
    assert verifier.call("step", calls) == expected
