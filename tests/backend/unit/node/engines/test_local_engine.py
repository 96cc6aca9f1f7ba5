"""What waits is batched, in the event loop or in threads; nobody suffers from his neighbours."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from functools import partial
from typing import Any

import numpy as np
import pytest
from assay.commitments.tensors import commit_tensors
from assay.node.engines import pauses
from assay.node.engines.engine import Job, Result, run_job
from assay.node.engines.local_engine import LEAST_ROWS
from assay.node.errors import RunFailed, Unavailable

from tests.support.engines import (
    CONSUMER,
    IN_LOOP,
    IN_THREAD,
    OTHER,
    Array,
    collapsing_model,
    endless_model,
    engine_of,
    lookup_model,
    run_all,
    submit,
)
from tests.support.onnx_models import echo_model, linear_model

PLACES = pytest.mark.parametrize("inline_seconds", [IN_LOOP, IN_THREAD])


def x(rows: int = 1, seed: int = 0) -> Array:
    return np.random.default_rng(seed).random((rows, 4), dtype=np.float32)


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, 20))


@PLACES
def test_submit__one_alone__is_run_at_once(inline_seconds: float) -> None:
    async def scenario() -> None:
        engine = engine_of(linear_model(), inline_seconds=inline_seconds)
        result = await run_job(engine, (x(),), CONSUMER)
        assert result.output_hash == commit_tensors(result.outputs)
        assert engine.statistics.by_rows.keys() == {1}
        assert engine.waiting == 0
        await engine.close()

    run(scenario())


@PLACES
def test_submit__several_of_one_turn__are_one_run(inline_seconds: float) -> None:
    async def scenario() -> None:
        engine = engine_of(linear_model(), inline_seconds=inline_seconds)
        requests = [(x(rows, seed=rows),) for rows in (1, 3, 2)]
        results = await run_all(engine, requests)
        assert engine.statistics.by_rows.keys() == {6}
        assert engine.statistics.jobs == 3
        for (asked,), result in zip(requests, results, strict=True):
            alone = engine_of(linear_model())
            (single,) = await run_all(alone, [(asked,)])
            assert np.allclose(result.outputs[0], single.outputs[0], rtol=1e-5)
            assert result.output_hash == commit_tensors(result.outputs)

    run(scenario())


def test_submit__more_than_a_batch_takes__are_several() -> None:
    async def scenario() -> None:
        engine = engine_of(linear_model(), max_rows=4, inline_seconds=IN_LOOP)
        await run_all(engine, [(x(),)] * 10)
        assert engine.statistics.by_rows[4][0] == 2
        assert engine.statistics.by_rows[2][0] == 1

    run(scenario())


def test_submit__batching_is_off__each_runs_alone() -> None:
    async def scenario() -> None:
        engine = engine_of(linear_model(), max_rows=1)
        await run_all(engine, [(x(rows),) for rows in (1, 2, 2)])
        assert sorted(engine.statistics.by_rows) == [1]
        assert engine.statistics.batch_rows.count == 3

    run(scenario())


def test_submit__inputs_of_unequal_rows__run_alone() -> None:
    """ONNX Runtime may broadcast them; nothing may stand above or below them then."""

    async def scenario() -> None:
        engine = engine_of(echo_model())
        pair = (np.zeros((1, 2), np.int64), np.full((1, 2), "s", object), np.zeros((1, 2), bool))
        odd = (np.zeros((2, 2), np.int64), *pair[1:])
        results = await run_all(engine, [pair, odd, pair])
        assert engine.statistics.batch_rows.count == 2
        assert results[1].outputs[0].shape == (2, 2)
        assert results[2].outputs[1].tolist() == [["s", "s"]]

    run(scenario())


@PLACES
def test_submit__neighbour_that_fails__fails_alone(inline_seconds: float) -> None:
    async def scenario() -> None:
        engine = engine_of(lookup_model(5), inline_seconds=inline_seconds)
        good, bad = np.array([[1, 2]]), np.array([[1, 99]])
        first, second, third = await run_all(engine, [(good,), (bad,), (good + 1,)])
        assert first.outputs[0].tolist() == [[1.0, 2.0]]
        assert isinstance(second, RunFailed)
        assert third.outputs[0].tolist() == [[2.0, 3.0]]
        assert engine.statistics.failed == 1
        assert engine.batching.max_rows > 1

    run(scenario())


def test_submit__batch_that_does_not_end__is_stopped_and_batching_is_off() -> None:
    async def scenario() -> None:
        engine = engine_of(endless_model(), run_seconds=0.2, inline_seconds=IN_LOOP)
        calm, endless = np.zeros((1, 1), np.float32), np.ones((1, 1), np.float32)
        first, second = await run_all(engine, [(calm,), (endless,)])
        assert first.outputs[0].tolist() == [[0.0]]
        assert isinstance(second, RunFailed)
        assert "longer than 0.2 s" in str(engine.batching)

    run(scenario())


def test_submit__after_the_pause_of_a_batch_out_of_time__batches_again_and_pauses_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pauses, "FIRST_SECONDS", 0.2)

    async def scenario() -> None:
        engine = engine_of(endless_model(), run_seconds=0.1, inline_seconds=IN_LOOP)
        loop = asyncio.get_running_loop()
        calm, endless = np.zeros((1, 1), np.float32), np.ones((1, 1), np.float32)
        spans = []
        for _ in range(2):
            await asyncio.gather(*(run_job(engine, (one,), CONSUMER) for one in (calm, calm)))
            assert max(engine.statistics.by_rows) == 2
            both = (run_job(engine, (one,), CONSUMER) for one in (calm, endless))
            first, second = await asyncio.gather(*both, return_exceptions=True)
            assert isinstance(first, Result) and isinstance(second, RunFailed)
            began = loop.time()
            paused = engine.statistics.batching
            assert paused.max_rows == 1 and paused.retry_at is not None
            assert str(paused).startswith("off until ")
            while engine.statistics.batching.max_rows == 1:  # noqa: ASYNC110 - nobody announces it
                await asyncio.sleep(0.01)
            spans.append(loop.time() - began)
            engine.statistics.by_rows.clear()
        assert 0.15 < spans[0] < 0.4 <= spans[1] + 0.05 < 0.8
        await engine.close()

    run(scenario())


def test_close__while_batches_pause__leaves_nothing_to_wake_up_for() -> None:
    async def scenario() -> None:
        engine = engine_of(endless_model(), run_seconds=0.1, inline_seconds=IN_LOOP)
        await run_all(engine, [(np.full((1, 1), x, np.float32),) for x in (0, 1)])
        assert engine._resuming is not None and engine._resuming.cancelled()

    run(scenario())


def test_submit__batch_that_gives_other_rows__is_run_one_by_one() -> None:
    async def scenario() -> None:
        engine = engine_of(collapsing_model())
        rows = [np.array([[i, -i]], np.float32) for i in range(3)]
        results = await run_all(engine, [(row,) for row in rows])
        for row, result in zip(rows, results, strict=True):
            assert result.outputs[0].tolist() == row.tolist()
        assert engine.statistics.batching == engine.batching
        assert engine.batching.max_rows == 1
        assert engine.batching.retry_at is None
        assert engine.batching.to_json()["retry_at"] is None

    run(scenario())


def test_submit__cancelled_before_it_starts__is_left_out() -> None:
    async def scenario() -> None:
        engine = engine_of(linear_model())
        (_, kept), (job, dropped) = submit(engine, x()), submit(engine, x())
        job.cancelled = True
        await engine.close()
        assert isinstance(kept[0], Result)
        assert dropped == []
        assert engine.statistics.cancelled == 1
        assert engine.statistics.by_rows.keys() == {1}

    run(scenario())


def test_run_job__cancelled_while_it_waits__takes_the_job_back() -> None:
    async def scenario() -> None:
        engine = engine_of(linear_model())
        task = asyncio.create_task(run_job(engine, (x(),), CONSUMER))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await engine.close()
        assert task.cancelled()

    run(scenario())


def test_submit__queue_is_full__is_busy_and_says_for_how_long() -> None:
    async def scenario() -> None:
        engine = engine_of(linear_model(), max_waiting=8)
        for _ in range(4):
            submit(engine, x())
        with pytest.raises(Unavailable) as caught:
            submit(engine, x())
        assert caught.value.code == "busy"
        assert 1 <= caught.value.retry_after <= 60
        assert "4 of them yours" in str(caught.value)
        submit(engine, x(), consumer=OTHER)  # who has nothing in it finds room
        await engine.close()
        assert engine.statistics.refused == 1
        assert engine.statistics.jobs == 5

    run(scenario())


def test_submit__more_than_runs_in_the_time_to_wait__is_busy() -> None:
    async def scenario() -> None:
        engine = engine_of(linear_model(), max_rows=1, wait_seconds=1e-9)
        await run_job(engine, (x(),), CONSUMER)  # from here on it knows how long they take
        for _ in range(LEAST_ROWS):
            submit(engine, x())
        with pytest.raises(Unavailable) as caught:
            submit(engine, x())
        assert caught.value.code == "busy"
        submit(engine, x(), consumer=OTHER)
        await engine.close()
        assert engine.statistics.jobs == LEAST_ROWS + 2

    run(scenario())


def test_submit__flood_of_one_consumer__lets_others_in_front() -> None:
    async def scenario() -> None:
        engine = engine_of(linear_model(), max_rows=4, inline_seconds=IN_LOOP)
        order: list[str] = []

        def note(name: str, _: Result | Exception) -> None:
            order.append(name)

        for i in range(40):
            engine.submit(Job((x(),), CONSUMER, partial(note, f"flood {i}")))
        engine.submit(Job((x(),), OTHER, partial(note, "other")))
        await engine.close()
        assert order.index("other") <= 4
        assert len(order) == 41

    run(scenario())


@PLACES
def test_submit__callback_that_raises__does_not_keep_others_waiting(inline_seconds: float) -> None:
    async def scenario() -> None:
        told: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        engine = engine_of(linear_model(), inline_seconds=inline_seconds)

        def fail(_: Result | Exception) -> None:
            raise ValueError("mine")

        engine.submit(Job((x(),), CONSUMER, fail))
        _, outcome = submit(engine, x())
        await engine.close()
        assert isinstance(outcome[0], Result)
        assert str(told[0]["exception"]) == "mine"

    run(scenario())


def test_submit__from_a_callback__is_served_too() -> None:
    async def scenario() -> None:
        engine = engine_of(linear_model(), inline_seconds=IN_LOOP)
        second: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        engine.submit(
            Job((x(),), CONSUMER, lambda _: engine.submit(Job((x(),), CONSUMER, second.set_result)))
        )
        assert isinstance(await second, Result)
        await engine.close()

    run(scenario())


def test_submit__lanes__run_at_the_same_time_and_no_more_than_they_are() -> None:
    async def scenario() -> None:
        engine = engine_of(endless_model(), run_seconds=0.4, inline_seconds=IN_THREAD, lanes=2, max_rows=1)
        endless = np.ones((1, 1), np.float32)
        before = threading.active_count()
        loop = asyncio.get_running_loop()
        started = loop.time()
        results = await run_all(engine, [(endless,)] * 4)
        assert threading.active_count() <= before + 3  # the watchdog may be the third
        assert all(isinstance(result, RunFailed) for result in results)
        assert 0.7 < loop.time() - started < 1.55

    run(scenario())


@PLACES
def test_close__work_is_waiting__finishes_it_and_refuses_more(inline_seconds: float) -> None:
    async def scenario() -> None:
        engine = engine_of(linear_model(), inline_seconds=inline_seconds, max_rows=2)
        outcomes = [submit(engine, x())[1] for _ in range(7)]
        closing = asyncio.create_task(engine.close())
        await asyncio.sleep(0)
        with pytest.raises(Unavailable):
            submit(engine, x())
        await closing
        assert all(isinstance(outcome[0], Result) for outcome in outcomes)
        assert engine.waiting == 0
        await engine.close()

    run(scenario())


def test_close__never_used__ends() -> None:
    async def scenario() -> None:
        await engine_of(linear_model()).close()

    run(scenario())
