"""The evaluator against the scalar interpreter: all elements, all accumulators of random programs."""

from __future__ import annotations

from typing import Any

from assay.exact.evaluator import evaluate
from assay.exact.program import Program
from assay.exact.trace import run_trace
from hypothesis import HealthCheck, given, note, settings
from numpy.typing import NDArray

from tests.support.kernels import as_integers, programs, scalar_trace

Case = tuple[Program, list[NDArray[Any]]]


@settings(suppress_health_check=list(HealthCheck))
@given(programs())
def test_evaluate__random_programs__equal_the_scalar_interpreter_in_every_step(case: Case) -> None:
    program, inputs = case
    note(f"{program.kernels} {inputs}")
    rows = inputs[0].shape[0] if program.batched else 1
    expected = scalar_trace(program, inputs, rows)
    found: dict[int, list[int]] = {}
    evaluate(program, inputs, on_tensor=lambda number, array: found.update({number: as_integers(array)}))
    for number, elements in enumerate(expected):
        assert found[number] == [series[-1] for series in elements]
    trace = run_trace(program, inputs)
    for number, kernel in enumerate(program.kernels):
        for element, series in enumerate(expected[number]):
            assert trace.accumulators(number, element, range(kernel.steps + 1)) == series
