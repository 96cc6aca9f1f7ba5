"""Local engines around small models, and jobs for them.

engine = engine_of(linear_model(), lanes=2); outcomes = await run_all(engine, [request, …])
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from assay.node.engines.batching import Batching
from assay.node.engines.engine import Job, Result
from assay.node.engines.local_engine import EngineRules, LocalEngine
from assay.node.engines.opening import Loadable, warm_up
from assay.node.engines.runtime import SessionRunner, build_session, session_specs
from assay.node.engines.watchdog import Watchdog
from assay.types import Address
from numpy.typing import NDArray
from onnx import TensorProto, helper

from tests.support.onnx_models import build_model, tensor, value

CONSUMER = Address("0x" + "11" * 20)
OTHER = Address("0x" + "22" * 20)
WATCHDOG = Watchdog()
IN_LOOP, IN_THREAD = 1e9, 0.0
"""Of `inline_seconds`: everything, nothing in the event loop."""

Array = NDArray[Any]


@cache
def runner_of(artifact: bytes, run_seconds: float = 10.0, *, optimised: bool = True) -> SessionRunner:
    session = build_session(artifact, is_optimised=optimised)
    return SessionRunner(session, *session_specs(session), WATCHDOG, run_seconds)


def loadable(artifact: bytes, **changes: Any) -> Loadable:
    runner = runner_of(artifact)
    return Loadable(artifact, runner.inputs, runner.outputs, **changes)


def engine_of(
    artifact: bytes, *, max_rows: int = 8, optimised: bool = True, run_seconds: float = 10.0, **rules: Any
) -> LocalEngine:
    """A new engine; the session is shared by all of the artifact."""
    runner = runner_of(artifact, run_seconds, optimised=optimised)
    times = warm_up(runner, runner.inputs)
    return LocalEngine(runner, Batching(max_rows), EngineRules(**rules), memory_bytes=1, times=times)


def submit(engine: LocalEngine, *inputs: Array, consumer: Address = CONSUMER) -> tuple[Job, list[Any]]:
    """The job, and the list that its outcome will be in."""
    outcome: list[Result | Exception] = []
    job = Job(inputs, consumer, outcome.append)
    engine.submit(job)
    return job, outcome


async def run_all(engine: LocalEngine, requests: Sequence[Sequence[Array]]) -> list[Any]:
    """All submitted at once; what each was answered, in their order."""
    waiting = [submit(engine, *inputs)[1] for inputs in requests]
    await engine.close()
    return [outcome for (outcome,) in waiting]


def lookup_model(size: int = 5) -> bytes:
    """`y = table[x]`: fails on an index that is not below `size`."""
    model = build_model(
        [helper.make_node("Gather", ["table", "x"], ["y"])],
        [value("x", ["rows", 2], TensorProto.INT64)],
        [value("y", ["rows", 2])],
        [tensor("table", np.arange(size, dtype=np.float32))],
    )
    return bytes(model.SerializeToString())


def mixing_model() -> bytes:
    """`y = x − mean of all rows`."""
    model = build_model(
        [
            helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0]),
            helper.make_node("Sub", ["x", "mean"], ["y"]),
        ],
        [value("x", ["rows", 2])],
        [value("y", ["rows", 2])],
    )
    return bytes(model.SerializeToString())


def collapsing_model() -> bytes:
    """Its output is one row whatever the input has, where a graph says otherwise."""
    model = build_model(
        [helper.make_node("ReduceMax", ["x"], ["y"], axes=[0], keepdims=1)],
        [value("x", ["rows", 2])],
        [value("y", ["any", 2])],
    )
    return bytes(model.SerializeToString())


def endless_model() -> bytes:
    """Counts until `x` is reached: never, with a great one; at once with zero."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["keep"], ["keep_out"]),
            helper.make_node("Identity", ["sum"], ["sum_out"]),
        ],
        "body",
        [value("i", [], TensorProto.INT64), value("keep", [], TensorProto.BOOL), value("sum", ["rows", 1])],
        [value("keep_out", [], TensorProto.BOOL), value("sum_out", ["rows", 1])],
    )
    model = build_model(
        [
            helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
            helper.make_node("Greater", ["most", "zero"], ["keep"]),
            helper.make_node("Loop", ["", "keep", "x"], ["y"], body=body),
        ],
        [value("x", ["rows", 1])],
        [value("y", ["rows", 1])],
        [tensor("zero", np.float32(0))],
    )
    return bytes(model.SerializeToString())
