"""The published vectors of the exact profile, from their bytes alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from assay.commitments.merkle import verify_proof
from assay.commitments.tensors import CHUNK_BYTES, ONNX_TO_NUMPY, commit_tensors
from assay.exact.decode import decode_header, decode_kernel
from assay.exact.instructions import parse
from assay.exact.program import Program, Source
from assay.exact.step import operand_elements, run_expression, run_step
from assay.exact.trace import run_trace
from assay.exact.vectorised.tree import Leaves, build, compute
from assay.exact.vectorised.values import measured_ints, to_ints
from numpy.typing import NDArray

VECTORS = Path(__file__).parents[3] / "vectors"


def load(name: str) -> Any:
    return json.loads((VECTORS / f"{name}.json").read_bytes())


def raw(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))


def array(stored: dict[str, Any]) -> NDArray[Any]:
    return np.frombuffer(raw(stored["data"]), ONNX_TO_NUMPY[stored["dtype"]]).reshape(stored["dims"])


def program_of(stored: dict[str, Any]) -> Program:
    header, *records = map(raw, stored["records"])
    program, count = decode_header(header)
    assert count == len(records)
    constants = {raw(root): array(one) for root, one in stored["constants"].items()}
    return replace(program, kernels=tuple(map(decode_kernel, records)), constants=constants)


INSTRUCTIONS = load("instructions")["instructions"]
TRACE = load("traces")["traces"][0]
STEPS = load("openings")["steps"]


@pytest.mark.parametrize("case", INSTRUCTIONS, ids=lambda case: case["instruction"])
def test_instructions__scalar_and_vectorised__give_the_results(case: dict[str, Any]) -> None:
    code = raw(case["expression"])
    rows = [[int(number) for number in line.split(" ")] for line in case["cases"]]
    assert [run_expression(parse(code), 0, row[:-1], ()) for row in rows] == [row[-1] for row in rows]
    columns = [measured_ints(np.array(column, dtype=object)) for column in zip(*rows, strict=True)]
    tree = build(code)
    with np.errstate(all="ignore"):
        found = compute(tree, tree.below(tree.root), Leaves(columns.__getitem__, columns.__getitem__))
    assert [int(one) for one in to_ints(found).array] == [row[-1] for row in rows]


def test_traces__from_the_records__reproduce() -> None:
    program = program_of(TRACE)
    assert program.root == raw(TRACE["program_root"])
    trace = run_trace(program, [array(one) for one in TRACE["inputs"]])
    assert [trace.tensor(kernel) for kernel in range(4)] == [raw(one) for one in TRACE["tensors"]]
    assert [*trace.roots] == [raw(one) for one in TRACE["tensor_roots"]]
    assert trace.root == raw(TRACE["trace_root"])
    assert [*trace.input_roots] == [raw(one) for one in TRACE["input_roots"]]
    assert commit_tensors(trace.inputs) == raw(TRACE["input_hash"])
    assert commit_tensors(trace.outputs) == raw(TRACE["output_hash"])
    for ours, theirs in zip(trace.outputs, TRACE["outputs"], strict=True):
        assert (ours.tobytes(), list(ours.shape)) == (raw(theirs["data"]), theirs["dims"])


@pytest.mark.parametrize("case", STEPS, ids=lambda case: f"{case['kernel']}-{case['element']}-{case['step']}")
def test_openings__step_on_what_they_open__gives_the_accumulator(case: dict[str, Any]) -> None:
    program = program_of(TRACE)
    kernel = program.kernels[case["kernel"]]
    row, inside = divmod(case["element"], kernel.elements)
    trace_root, leaves = raw(TRACE["trace_root"]), [raw(root) for root in TRACE["tensor_roots"]]

    def read(number: int, element: int) -> int:
        operand, opening = kernel.operands[number], case["openings"][number]
        dtype = np.dtype("<u4") if operand.dtype == 1 else ONNX_TO_NUMPY[operand.dtype]
        position, chunk = element * dtype.itemsize // CHUNK_BYTES, raw(opening["chunk"])
        root = operand.root
        if operand.source is Source.INPUT:
            root = raw(TRACE["input_roots"][operand.index])
        elif operand.source is Source.KERNEL:
            root = raw(opening["root"])
            assert root == leaves[operand.index]
            siblings = [raw(one) for one in opening["trace_siblings"]]
            assert verify_proof(trace_root, root, siblings, operand.index, depth=2)
        assert verify_proof(root, chunk, [raw(one) for one in opening["siblings"]], position)
        return int(np.frombuffer(chunk, dtype)[element - position * (CHUNK_BYTES // dtype.itemsize)])

    step, before = case["step"], int(case["before"])
    assert run_step(kernel, row, inside, step, before, read) == int(case["after"])
    places = operand_elements(kernel, row, inside, step, read)
    assert [place is None for place in places] == [not raw(one["chunk"]) for one in case["openings"]]
