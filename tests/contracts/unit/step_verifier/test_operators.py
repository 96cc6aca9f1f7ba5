"""Every operator of the profile: the node's own trace, proven on-chain step by step."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from itertools import count, islice
from typing import Any

import numpy as np
import pytest
from assay.exact.lowering import UnsupportedModel, adjust_scales, lower
from assay.exact.lowering.registry import REGISTRY
from assay.exact.trace import Trace, run_trace

from tests.support import exact_models
from tests.support.exactness import model, node
from tests.support.random_networks import random_network
from tests.support.random_programs import places
from tests.support.steps import OnAnvil, every_step, step_arguments, trace_arguments

pytestmark = pytest.mark.network
DEEP = bool(os.environ.get("ASSAY_DEEP"))
SEEDS = range(120 if DEEP else 30)
MODELS = 40 if DEEP else 2
"""Of each quantised operator."""
MOST_STEPS = 20_000 if DEEP else 1_500
"""Of one model; random ones that have more are left out."""
NETWORKS = 30 if DEEP else 3
"""Of at least three nodes."""

Nodes = list[Any]
Arrays = dict[str, Any]
RNG = np.random.default_rng(12)
BYTES = RNG.integers(0, 256, (2, 3, 4, 4), dtype=np.uint8)
SIGNED = RNG.integers(-128, 128, (2, 3, 4, 4), dtype=np.int8)
WIDE = RNG.integers(-(2**31), 2**31, (2, 5), dtype=np.int32)
LONG = RNG.integers(-(2**63), 2**63, (2, 5), dtype=np.int64)
REAL = np.array([[1.5, -2.25, 1e-45, 3.4e38, 0.1], [-1.5, 7.0, -1e-38, 2.0, 1e10]], np.float32)
OTHER = np.array([[0.3, -2.25, 3e-45, 3.4e38, -7.0], [1.5, 0.7, 1e-38, -2.0, 1e-10]], np.float32)
FLAGS = np.array([[True, False, True, True, False], [False, False, True, False, True]])


def ints(*values: int) -> Any:
    return np.array(values, np.int64)


def pair(op_type: str) -> tuple[Nodes, Arrays, Arrays]:
    return [node(op_type, ["a", "b"])], {"a": REAL, "b": OTHER}, {}


def whole(op_type: str) -> tuple[Nodes, Arrays, Arrays]:
    return [node(op_type, ["a", "b"])], {"a": WIDE, "b": WIDE[::-1].copy()}, {}


PLAIN: list[tuple[Nodes, Arrays, Arrays]] = [
    *map(pair, ("Add", "Sub", "Mul", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal")),
    *map(whole, ("Add", "Sub", "Mul", "Min", "Max", "Less", "Equal")),
    ([node("Div", ["a", "b"])], {"a": REAL}, {"b": np.linspace(0.1, 9, 5, dtype="f4")}),
    ([node("Div", ["a", "b"])], {"a": WIDE}, {"b": np.array([3, -7, 1, 2**31 - 1, -2], np.int32)}),
    ([node("And", ["a", "b"])], {"a": FLAGS, "b": ~FLAGS}, {}),
    ([node("Or", ["a", "b"])], {"a": FLAGS, "b": FLAGS[::-1].copy()}, {}),
    ([node("Xor", ["a", "b"])], {"a": FLAGS, "b": FLAGS[::-1].copy()}, {}),
    ([node("Not", ["a"])], {"a": FLAGS}, {}),
    ([node("Where", ["c", "a", "b"])], {"c": FLAGS, "a": LONG, "b": LONG[::-1].copy()}, {}),
    ([node("Relu", ["a"])], {"a": WIDE}, {}),
    ([node("Clip", ["a", "l", "h"])], {"a": WIDE}, {"l": np.int32(-9), "h": np.int32(2**30)}),
    ([node("Cast", ["a"], to=6)], {"a": LONG}, {}),
    ([node("Cast", ["a"], to=3)], {"a": WIDE}, {}),
    ([node("Cast", ["a"], to=1)], {"a": WIDE}, {}),
    ([node("Identity", ["a"])], {"a": REAL}, {}),
    ([node("Reshape", ["a", "s"])], {"a": BYTES}, {"s": ints(0, 4, -1)}),
    ([node("Flatten", ["a"])], {"a": BYTES}, {}),
    ([node("Unsqueeze", ["a", "s"])], {"a": BYTES}, {"s": ints(1)}),
    ([node("Squeeze", ["a", "s"])], {"a": BYTES[:, :1].copy()}, {"s": ints(1)}),
    ([node("Transpose", ["a"], perm=[0, 3, 1, 2])], {"a": SIGNED}, {}),
    (
        [node("Slice", ["a", "b", "e", "x", "s"])],
        {"a": SIGNED},
        {"b": ints(3, 0), "e": ints(-9, 3), "x": ints(2, 1), "s": ints(-2, 2)},
    ),
    ([node("Concat", ["a", "b"], axis=1)], {"a": BYTES, "b": BYTES[:, 1:].copy()}, {}),
    ([node("Pad", ["a", "p", "v"])], {"a": BYTES}, {"p": ints(0, 1, 0, 2, 0, 0, 1, 0), "v": np.uint8(7)}),
    ([node("Gather", ["a", "i"], axis=2)], {"a": SIGNED}, {"i": ints(3, 0, -1, 3)}),
    ([node("MaxPool", ["a"], kernel_shape=[2, 3], pads=[1, 1, 0, 1], strides=[2, 1])], {"a": BYTES}, {}),
    ([node("ArgMax", ["a"], axis=1, keepdims=0)], {"a": WIDE}, {}),
    ([node("ArgMax", ["a"], axis=2, select_last_index=1)], {"a": BYTES}, {}),
]  # fmt: skip


def plain_models() -> Iterator[tuple[str, Trace]]:
    for nodes, feeds, constants in PLAIN:
        program = lower(model(nodes, feeds, {name: np.asarray(one) for name, one in constants.items()}))
        yield nodes[0].op_type, run_trace(program, [feeds[one.name] for one in program.inputs])


def quantised_models(operator: str) -> Iterator[Trace]:
    """Those in the profile that are small enough to prove all of."""
    for seed in SEEDS:
        case = exact_models.random_case(operator, seed)
        with contextlib.suppress(UnsupportedModel):
            program = lower(case.artifact)
            trace = run_trace(program, [case.feeds[one.name] for one in program.inputs])
            if sum(one.elements * one.steps for one in program.kernels) * trace.rows <= MOST_STEPS:
                yield trace


def check(verifier: OnAnvil, trace: Trace) -> int:
    """Proves every step from the trace's accumulators and openings, and each last one to be the tensor."""
    steps = [one for kernel in range(len(trace.program.kernels)) for one in every_step(trace, kernel)]
    answers = verifier.call("step", [arguments for arguments, _ in steps])
    for place, answer, (_, after) in zip(places(trace.program, trace.rows), answers, steps, strict=True):
        assert answer == after, (trace.program.kernels[place[0]], place)
    assert verifier.call("check_trace", [trace_arguments(trace)]) == [len(trace.program.kernels)]
    return len(steps)


def test_plain_operators__with_the_quantised__are_all_that_there_are() -> None:
    here = {nodes[0].op_type for nodes, _, _ in PLAIN} | set(exact_models.FACTORIES)
    assert here == {op_type for _, op_type in REGISTRY} - {"Constant"}  # it makes no kernel


def test_step__every_step_of_plain_operators__is_proven(verifier: OnAnvil) -> None:
    for op_type, trace in plain_models():
        assert check(verifier, trace), op_type


@pytest.mark.parametrize("operator", exact_models.FACTORIES)
def test_step__every_step_of_a_quantised_operator__is_proven(verifier: OnAnvil, operator: str) -> None:
    proven = [check(verifier, trace) for trace in islice(quantised_models(operator), MODELS)]
    assert len(proven) >= 2
    assert sum(proven) > 20


def small_networks() -> Iterator[Trace]:
    """Random graphs of several nodes, one row each, that are small enough to prove all of."""
    for seed in count():
        case = random_network(seed)
        with contextlib.suppress(UnsupportedModel):
            program = lower(adjust_scales(case.artifact))
            steps = sum(one.elements * one.steps for one in program.kernels)
            if len(program.kernels) >= 3 and steps <= MOST_STEPS:
                yield run_trace(program, [case.feeds[one.name][:1] for one in program.inputs])


def test_step__every_step_of_random_networks__is_proven(verifier: OnAnvil) -> None:
    proven = [check(verifier, trace) for trace in islice(small_networks(), NETWORKS)]
    assert len(proven) == NETWORKS
    assert min(proven) > 20


def test_step__digits_network__is_proven_where_it_is_looked_at(verifier: OnAnvil) -> None:
    case = exact_models.digits()
    program = lower(case.artifact)
    trace = run_trace(program, [case.feeds[one.name] for one in program.inputs])
    rng = np.random.default_rng(1)
    calls, expected = [], []
    for number, kernel in enumerate(program.kernels):
        for _ in range(25):
            element, step = int(rng.integers(trace.rows * kernel.elements)), int(rng.integers(kernel.steps))
            before, after = trace.accumulators(number, element, [step, step + 1])
            calls.append(step_arguments(trace, number, element, step, before))
            expected.append(after)
    assert verifier.call("step", calls) == expected
    assert verifier.call("check_trace", [trace_arguments(trace)]) == [len(program.kernels)]
