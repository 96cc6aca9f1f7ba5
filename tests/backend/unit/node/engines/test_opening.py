"""From an artifact to a warm engine, and what may be batched."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from assay.node.engines.engine import run_job
from assay.node.engines.local_engine import EngineRules, LocalEngine
from assay.node.engines.opening import (
    Loadable,
    LocalEngines,
    choose_batching,
    quickest_size,
    rows_in_time,
    warm_up,
)
from assay.node.engines.run_times import RunTimes
from assay.node.engines.runtime import SessionRunner
from assay.node.errors import ArtifactRefused
from assay.node.models.validate import inspect_artifact
from assay.node.oip.protocol import Array
from assay.types import TensorSpec
from onnx import helper

from tests.support.engines import CONSUMER, endless_model, loadable, lookup_model, mixing_model, runner_of
from tests.support.exact_version import exact_model
from tests.support.onnx_models import build_model, echo_model, linear_model, mlp_model, value


def opened(version: Loadable) -> LocalEngine:
    return LocalEngines(EngineRules(run_seconds=5.0)).open(version)


@pytest.mark.parametrize("artifact", [linear_model(), mlp_model(), lookup_model(), echo_model()])
def test_open__rows_that_do_not_depend_on_their_neighbours__are_batched(artifact: bytes) -> None:
    assert 1 < opened(loadable(artifact)).batching.max_rows <= 32


@pytest.mark.parametrize(
    ("version", "threads"),
    [
        (loadable(linear_model()), 0),
        (loadable(linear_model(), obstacle="node n mixes"), 1),
        (loadable(linear_model(), obstacle="a row at a time", is_exact=True), 0),
    ],
)
def test_open__time_that_does_not_follow_from_size__is_never_spent_in_the_event_loop(
    version: Loadable, threads: int
) -> None:
    async def scenario() -> None:
        engine = LocalEngines(EngineRules(inline_seconds=1e9)).open(version)
        await run_job(engine, (np.ones((1, 4), np.float32),), CONSUMER)
        assert engine._lanes._started == threads
        await engine.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("is_exact", [True, False])
def test_open__exact_version__runs_the_graph_as_it_is_written(is_exact: bool) -> None:
    runner = opened(loadable(exact_model(), is_exact=is_exact))._runner
    assert runner is not None
    options = runner._session.get_session_options()
    off = options.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    assert off is is_exact


def test_open__exact_version__is_batched_and_serves() -> None:
    engine = opened(loadable(exact_model(), is_exact=True))
    assert 1 < engine.batching.max_rows <= 32

    async def scenario() -> None:
        result = await run_job(engine, (np.ones((2, 300), np.uint8),), CONSUMER)
        assert result.outputs[0].shape == (2, 3)
        await engine.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        (loadable(linear_model(), max_batch=1), "max_batch is 1"),
        (loadable(linear_model(), obstacle="node n mixes"), "node n mixes"),
        (loadable(mixing_model()), "another answer in a batch"),
        (loadable(mixing_model(), max_batch=16), "another answer in a batch"),
        (
            loadable(
                build_model(
                    [helper.make_node("Relu", ["x"], ["y"])], [value("x", [1, 4])], [value("y", [1, 4])]
                ).SerializeToString()
            ),
            "first dimension of any size",
        ),
    ],
)
def test_open__rows_that_may_depend_on_others__are_not_batched_and_it_says_why(
    version: Loadable, reason: str
) -> None:
    batching = opened(version).batching
    assert batching.max_rows == 1
    assert reason in str(batching)


def test_open__max_batch_is_given__is_taken() -> None:
    assert opened(loadable(linear_model(), max_batch=5)).batching.max_rows == 5


@pytest.mark.parametrize(("is_exact", "rows"), [(False, 16), (True, 1)])
def test_open__rows_that_differ_by_rounding__are_batched_on_the_operators_word_but_never_exact_ones(
    is_exact: bool, rows: int
) -> None:
    """The end of a tensor is computed by other instructions than its middle."""
    node, rounds = helper.make_node("Cos", ["x"], ["y"]), [value("x", ["rows", 5])]
    artifact = build_model([node], rounds, [value("y", ["rows", 5])]).SerializeToString()
    assert opened(loadable(artifact, max_batch=16, is_exact=is_exact)).batching.max_rows == rows


@pytest.mark.parametrize(("row", "rows"), [(0.001, 32), (0.005, 10), (0.03, 1), (1.0, 1)])
def test_rows_in_time__rows_that_take_long__make_smaller_batches(row: float, rows: int) -> None:
    assert rows_in_time(row) == rows


def test_choose_batching__a_row_that_takes_half_the_time_of_a_batch__is_run_alone() -> None:
    version = loadable(linear_model())
    times = RunTimes()
    times.record(16, 0.03)
    assert "a row takes 30 ms" in choose_batching(runner_of(version.artifact), version, times).reason


class Timed(SessionRunner):
    """Takes time, on a clock of its own, by the rows of a run."""

    def __init__(self, milliseconds: Callable[[int], float]) -> None:
        self.milliseconds = milliseconds
        self.seconds = 0.0

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        self.seconds += self.milliseconds(len(arrays[0])) / 1e3
        return list(arrays)


@pytest.mark.parametrize(
    ("milliseconds", "most", "rows"),
    [
        (lambda rows: 2.0 + 0.01 * rows, 32, 32),  # what a run costs whatever its rows
        (lambda rows: 0.2 * rows if rows <= 8 else 0.4 * rows, 32, 8),  # caches too small for more
        (lambda rows: 0.5 * rows, 20, 20),
        (lambda rows: 2.0, 2, 2),
    ],
)
def test_quickest_size__rows_of_a_batch__cost_the_least(
    milliseconds: Callable[[int], float], most: int, rows: int
) -> None:
    runner = Timed(milliseconds)
    inputs = (TensorSpec("x", "FP32", (-1, 4)),)
    assert quickest_size(runner, inputs, most, lambda: runner.seconds) == rows


def test_warm_up__model_that_does_not_end__is_refused() -> None:
    """So that nothing runs in the event loop that was not seen to end."""
    runner = runner_of(always_endless(), 0.2)
    with pytest.raises(ArtifactRefused, match="was stopped") as caught:
        warm_up(runner, runner.inputs)
    assert caught.value.code == "run_failed"


def always_endless() -> bytes:
    """As `endless_model`, but zeros do not end it either."""
    model = onnx.ModelProto.FromString(endless_model())
    model.graph.node[1].op_type = "Equal"
    return bytes(model.SerializeToString())


def test_inspect_artifact__in_the_sandbox__names_what_mixes_rows(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(mixing_model())
    assert "reduces over the rows" in inspect_artifact(path).obstacle
    path.write_bytes(linear_model())
    assert inspect_artifact(path).obstacle == ""
