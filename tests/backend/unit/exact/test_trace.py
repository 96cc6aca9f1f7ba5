"""Traces: openings that lead to the roots and compute the step, tensors on demand, memory, refusals."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from assay.commitments.merkle import verify_proof
from assay.commitments.tensors import CHUNK_BYTES, tensor_root
from assay.errors import RequestError
from assay.exact import trace as traces
from assay.exact.assembler import Expression
from assay.exact.evaluator import evaluate, memory_per_row
from assay.exact.lowering import lower
from assay.exact.program import Affine, Kernel, Operand, Program, Signature, Source
from assay.exact.step import run_step
from assay.exact.trace import Opening, Trace, run_trace
from assay.exact.vectorised.values import STORAGE
from hypothesis import HealthCheck, given, settings
from numpy.typing import NDArray

from tests.support.kernels import as_integers, programs

MODELS = Path(__file__).parents[4] / "scripts" / "models"


def opened_value(trace: Trace, operand: Operand, opening: Opening, element: int) -> int:
    """The element that an opening shows, after checking its way to the operand's tensor."""
    root = operand.root
    if operand.source is Source.INPUT:
        root = trace.input_roots[operand.index]
    elif operand.source is Source.KERNEL:
        root = opening.root
        depth = trace.tree.depth
        assert verify_proof(trace.root, root, opening.trace_siblings, operand.index, depth=depth)
    dtype = STORAGE[operand.dtype]
    position, inside = divmod(element, CHUNK_BYTES // dtype.itemsize)
    assert verify_proof(root, opening.chunk, opening.siblings, position)
    return int(np.frombuffer(opening.chunk, dtype)[inside])


def check_step(trace: Trace, kernel: int, element: int, step: int) -> None:
    """The step, computed from its openings alone, leads from one accumulator to the next."""
    one = trace.program.kernels[kernel]
    openings = trace.openings(kernel, element, step)
    assert len(openings) == len(one.operands)
    row, inside = divmod(element, one.elements)
    before, after = trace.accumulators(kernel, element, [step, step + 1])
    read: set[int] = set()

    def value(number: int, at: int) -> int:
        read.add(number)
        return opened_value(trace, one.operands[number], openings[number], at)

    assert run_step(one, row, inside, step, before, value) == after
    assert all((number in read) == (opening != Opening()) for number, opening in enumerate(openings))


@settings(suppress_health_check=list(HealthCheck), max_examples=40)
@given(programs())
def test_openings__every_step_of_random_programs__compute_the_next_accumulator(
    case: tuple[Program, list[NDArray[Any]]],
) -> None:
    trace = run_trace(*case)
    for kernel, one in enumerate(trace.program.kernels):
        for element in range(0, trace.rows * one.elements, 5):
            for step in range(0, one.steps, 3):
                check_step(trace, kernel, element, step)


@pytest.fixture(scope="module")
def digits() -> Trace:
    image = np.random.default_rng(3).uniform(0, 16, (2, 1, 8, 8)).astype(np.float32)
    return run_trace(lower((MODELS / "digits-int8" / "model.onnx").read_bytes()), [image])


def test_forget_tensors__then_asked_again__gives_the_same(digits: Trace) -> None:
    last = len(digits.roots) - 1
    before = digits.tensor(last), digits.tensor_tree(0).root
    digits.forget_tensors()
    assert (digits.tensor(last), digits.tensor_tree(0).root) == before


def test_memory_per_row__digits__is_above_what_a_trace_takes_at_its_peak(digits: Trace) -> None:
    program, rows = digits.program, 200
    images = np.random.default_rng(4).uniform(0, 16, (rows, 1, 8, 8)).astype(np.float32)
    run_trace(program, [images])
    tracemalloc.start()
    run_trace(program, [images])
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert taken / rows < memory_per_row(program) < 8 * taken / rows


def test_accumulators__digits_sampled__are_the_scalar_interpreters(digits: Trace) -> None:
    rng = np.random.default_rng(4)
    for kernel, one in enumerate(digits.program.kernels):
        arrays = [
            as_integers(digits.program.constants[operand.root])
            if operand.source is Source.CONSTANT
            else as_integers(digits.inputs[operand.index])
            if operand.source is Source.INPUT
            else [int(v) for v in np.frombuffer(digits.tensor(operand.index), STORAGE[operand.dtype])]
            for operand in one.operands
        ]
        tensor = np.frombuffer(digits.tensor(kernel), STORAGE[one.dtype])
        for element in map(int, rng.integers(0, tensor.size, 4)):
            series, (row, inside) = [one.init], divmod(element, one.elements)
            for step in range(one.steps):
                read = lambda k, at, arrays=arrays: arrays[k][at]  # noqa: E731
                series.append(run_step(one, row, inside, step, series[-1], read))
            assert digits.accumulators(kernel, element, range(one.steps + 1)) == series
            assert series[-1] == int(tensor[element])


def test_openings__digits_sampled__compute_the_next_accumulator(digits: Trace) -> None:
    rng = np.random.default_rng(5)
    for kernel, one in enumerate(digits.program.kernels):
        element, step = int(rng.integers(digits.rows * one.elements)), int(rng.integers(one.steps))
        check_step(digits, kernel, element, step)


def test_tensor__any_kernel_of_a_fresh_trace__has_its_root(digits: Trace) -> None:
    fresh = Trace(digits.program, digits.inputs, digits.roots, digits.outputs)
    for kernel in reversed(range(len(digits.roots))):
        assert tensor_root(fresh.tensor(kernel)) == digits.roots[kernel] == fresh.tensor_tree(kernel).root
        assert fresh.chunk(kernel, 0) == fresh.tensor(kernel)[:CHUNK_BYTES]
    assert fresh.chunk(0, 1 << 10) == b""


def test_tensor__cache_too_small_for_two__is_computed_again(
    digits: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traces, "CACHE_BYTES", 1)
    fresh = Trace(digits.program, digits.inputs, digits.roots, digits.outputs)
    for kernel in (3, 8, 3):
        assert tensor_root(fresh.tensor(kernel)) == digits.roots[kernel]
    assert len(fresh._cache) == 1


@pytest.mark.parametrize(("kernel", "element", "steps"), [(99, 0, [0]), (1, 1 << 20, [1]), (1, 0, [10])])
def test_accumulators__outside_the_program__are_refused(
    digits: Trace, kernel: int, element: int, steps: list[int]
) -> None:
    with pytest.raises(IndexError):
        digits.accumulators(kernel, element, steps)


def test_evaluate__until__gives_that_tensor_and_computes_no_others(digits: Trace) -> None:
    computed: list[int] = []
    (found,) = evaluate(
        digits.program, digits.inputs, until=2, on_tensor=lambda number, _: computed.append(number)
    )
    assert (found.tobytes(), computed) == (digits.tensor(2), [0, 1, 2])


def test_evaluate__each_row_alone__is_its_row_of_all(digits: Trace) -> None:
    for row in range(2):
        (alone,) = evaluate(digits.program, [digits.inputs[0][row : row + 1]])
        assert alone.tobytes() == digits.outputs[0][row].tobytes()


@pytest.mark.parametrize(
    ("inputs", "code"),
    [
        ([], "input_count"),
        ([np.zeros((1, 1, 8, 8))], "input_dtype"),
        ([np.zeros((1, 8, 8), np.float32)], "input_shape"),
        ([np.zeros((0, 1, 8, 8), np.float32)], "input_shape"),
    ],
)
def test_run_trace__inputs_that_do_not_fit__are_refused(
    digits: Trace, inputs: list[NDArray[Any]], code: str
) -> None:
    with pytest.raises(RequestError) as caught:
        run_trace(digits.program, inputs)
    assert caught.value.code == code


def test_run_trace__interrupted_in_its_progress__can_be_run_again(digits: Trace) -> None:
    seen: list[tuple[int, int]] = []

    def stop(done: int, total: int) -> None:
        seen.append((done, total))
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_trace(digits.program, digits.inputs, on_progress=stop)
    assert seen == [(number, 11) for number in (1, 2, 3, 4)]
    assert run_trace(digits.program, digits.inputs).roots == digits.roots


def test_run_trace__many_tensors_in_a_row__holds_a_few_at_a_time() -> None:
    """Forty tensors of 256 KB, each from the one before."""
    size = 1 << 16
    source = Operand(Source.INPUT, 6, size, Affine(0, ((0, 1),)))
    kernels = [Kernel(6, (size,), (), (source,), Expression().operand(0).integer(1).add().code)]
    for index in range(39):
        operand = Operand(Source.KERNEL, 6, size, Affine(0, ((0, 1),)), index=index)
        kernels.append(Kernel(6, (size,), (), (operand,), Expression().operand(0).integer(3).mul().code))
    output = (Signature(6, (size,), 39),)
    program = Program(False, (Signature(6, (size,)),), output, tuple(kernels))
    image = np.arange(size, dtype=np.int32)
    tracemalloc.start()
    try:
        trace = run_trace(program, [image])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20
    expected = image.astype(np.int64) + 1
    for _ in range(39):
        expected = (expected * 3).astype(np.int32).astype(np.int64)
    assert np.array_equal(trace.outputs[0], expected)
