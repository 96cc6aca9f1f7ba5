"""The engine in front of an executor over real sockets: trust before use, typed refusals, recovery."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from assay.commitments.identifiers import artifact_digest
from assay.commitments.tensors import commit_tensors
from assay.errors import RequestError
from assay.exact.evaluator import evaluate
from assay.node.engines.engine import Result, run_job
from assay.node.errors import RunFailed, Unavailable
from assay.node.models.self_test import parse_self_test
from assay.node.remote import engine as remote
from assay.node.remote.connection import Connection
from assay.node.remote.engine import RemoteEngine, RemoteRules
from assay.node.remote.executor import Executor, Target
from assay.types import ZERO_ADDRESS, Address, TensorSpec

from tests.support.exact_version import OUTPUTS, STEPS, ExactVersion, exact_version, row
from tests.support.executors import FickleExecutor

INPUTS = (TensorSpec("x", "UINT8", (-1, STEPS)),)
Y = (TensorSpec("y", "INT32", (-1, OUTPUTS)),)
OTHER = Address("0x" + "22" * 20)
FAST = RemoteRules(connections=2, health_seconds=0.05, recheck_seconds=30.0)


@pytest.fixture(scope="module")
def version() -> ExactVersion:
    return exact_version()


@pytest.fixture
def fickle(version: ExactVersion) -> Iterator[FickleExecutor]:
    with FickleExecutor(version.artifact).running() as server:
        yield server


@dataclass
class World:
    engine: RemoteEngine
    fickle: FickleExecutor
    version: ExactVersion
    told: list[str] = field(default_factory=list)

    async def ask(self, seed: int = 7, rows: int = 1) -> Result:
        return await run_job(self.engine, (row(seed, rows),), ZERO_ADDRESS)

    async def check(self, seed: int = 7) -> None:
        result = await self.ask(seed)
        assert result.output_hash == commit_tensors([self.version.run(row(seed))])

    async def refusal(self) -> RequestError:
        with pytest.raises(RequestError) as caught:
            await self.ask()
        return caught.value

    async def until(self, check: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not check():  # noqa: ASYNC110 - a test waits for what nobody announces
                await asyncio.sleep(0.02)


def run(
    fickle: FickleExecutor,
    version: ExactVersion,
    test: Callable[[World], Coroutine[Any, Any, None]],
    rules: RemoteRules = FAST,
    *,
    exact: bool = True,
    seconds: float = 5.0,
    reference: Any = None,
) -> None:
    async def main() -> None:
        artifact_hex = artifact_digest(version.artifact).hex()
        vectors = tuple(parse_self_test(version.self_test, artifact_hex)) if exact else ()
        target = Target(fickle.url, "any", seconds=seconds)
        told: list[str] = []
        engine = RemoteEngine(Executor(target, INPUTS, Y, vectors), rules, told.append, reference)
        await engine.start()
        try:
            await test(World(engine, fickle, version, told))
        finally:
            await engine.close()

    asyncio.run(main())


def test_start__executor_that_reproduces_the_self_test__serves(
    fickle: FickleExecutor, version: ExactVersion
) -> None:
    async def test(world: World) -> None:
        assert world.engine.problem == ""
        await asyncio.gather(*(world.check(seed) for seed in range(20)))
        result = await world.ask(rows=5)
        assert result.outputs[0].shape == (5, OUTPUTS)
        assert world.engine.statistics.jobs == 21

    run(fickle, version, test)


def test_start__executor_of_another_model__is_not_served_until_it_is_right(
    fickle: FickleExecutor, version: ExactVersion
) -> None:
    fickle.mode = "shifted"

    async def test(world: World) -> None:
        assert "self-test vector 1 are not the version's" in world.engine.problem
        assert isinstance(await world.refusal(), Unavailable)
        fickle.mode = "right"
        await world.until(lambda: not world.engine.problem)
        await world.check()
        assert world.told[-1] == ""

    run(fickle, version, test)


def test_start__nobody_listens__says_so_and_recovers(version: ExactVersion) -> None:
    with FickleExecutor(version.artifact).running() as gone:
        pass

    async def test(world: World) -> None:
        assert "cannot connect" in world.engine.problem

    run(gone, version, test)


def test_answer__swapped_for_another_model_between_connections__is_never_used(
    fickle: FickleExecutor, version: ExactVersion
) -> None:
    """As when the server behind the address is restarted with other weights."""

    async def test(world: World) -> None:
        await world.check()
        fickle.mode = "shifted"
        fickle.break_connections()
        for _ in range(5):
            assert isinstance(await world.refusal(), Unavailable)
        assert "self-test" in world.engine.problem
        fickle.mode = "right"
        await world.until(lambda: not world.engine.problem)
        await world.check()

    run(fickle, version, test)


def test_start__connection_closed_after_each_answer__cannot_be_trusted(
    fickle: FickleExecutor, version: ExactVersion
) -> None:
    """Whatever answers next need not be what passed the self-test."""
    fickle.mode = "drop"

    async def test(world: World) -> None:
        assert "must keep it alive" in world.engine.problem
        assert isinstance(await world.refusal(), Unavailable)

    run(fickle, version, test)


@pytest.mark.parametrize(
    ("mode", "kind", "words"),
    [
        ("status", RunFailed, "status 500: it broke"),
        ("garbage", RunFailed, "does not fit the version"),
        ("float", RunFailed, "output 'y' is FP32, not INT32"),
        ("cut", Unavailable, "does not answer"),
        ("huge", Unavailable, "does not answer"),
    ],
)
def test_answer__that_cannot_be_used__is_a_typed_refusal(
    fickle: FickleExecutor, version: ExactVersion, mode: str, kind: type[RequestError], words: str
) -> None:
    async def test(world: World) -> None:
        await world.check()
        fickle.mode = mode
        error = await world.refusal()
        assert isinstance(error, kind)
        assert words in str(error)
        fickle.mode = "right"
        await world.until(lambda: not world.engine.problem)
        await world.check()

    run(fickle, version, test, replace(FAST, connections=1))


def test_answer__outputs_beyond_the_signature__are_left_out(
    fickle: FickleExecutor, version: ExactVersion
) -> None:
    fickle.mode = "extra"

    async def test(world: World) -> None:
        assert len((await world.ask()).outputs) == 1

    run(fickle, version, test)


def test_answer__takes_too_long__is_unavailable_and_checked_anew(
    fickle: FickleExecutor, version: ExactVersion
) -> None:
    async def test(world: World) -> None:
        fickle.mode, fickle.delay = "slow", 0.6
        error = await world.refusal()
        assert isinstance(error, Unavailable)
        assert "no answer within 0.3 s" in str(error)
        fickle.mode = "right"
        await world.until(lambda: not world.engine.problem)
        await world.check()

    run(fickle, version, test, seconds=0.3)


def test_watch__executor_not_ready__takes_the_version_out_and_back(
    fickle: FickleExecutor, version: ExactVersion
) -> None:
    async def test(world: World) -> None:
        fickle.mode = "not_ready"
        await world.until(lambda: bool(world.engine.problem))
        assert "not ready" in world.told[-1]
        fickle.mode = "right"
        await world.until(lambda: not world.engine.problem)

    run(fickle, version, test)


def test_answer__on_its_way_when_the_executor_fails_a_check__is_not_used(
    fickle: FickleExecutor, version: ExactVersion
) -> None:
    async def test(world: World) -> None:
        await world.check()
        fickle.mode, fickle.delay = "slow", 0.6
        before = fickle.runs
        asked = asyncio.create_task(world.ask())
        await world.until(lambda: fickle.runs > before)
        fickle.mode = "not_ready"
        await world.until(lambda: bool(world.engine.problem))
        assert not asked.done()
        with pytest.raises(Unavailable):
            await asked

    run(fickle, version, test)


def test_watch__turned_wrong_without_a_lost_connection__is_found_by_the_next_check(
    fickle: FickleExecutor, version: ExactVersion
) -> None:
    async def test(world: World) -> None:
        await world.check()
        fickle.mode = "shifted"
        await world.until(lambda: "self-test" in world.engine.problem)

    run(fickle, version, test, RemoteRules(connections=1, health_seconds=0.05, recheck_seconds=0.2))


def test_watch__executor_says_nonsense_of_itself__is_down_until_it_does_not(
    fickle: FickleExecutor, version: ExactVersion
) -> None:
    async def test(world: World) -> None:
        await world.check()
        fickle.mode = "malformed"
        await world.until(lambda: "extensions are no list" in world.engine.problem)
        fickle.mode = "right"
        await world.until(lambda: not world.engine.problem)
        await world.check()

    run(fickle, version, test, RemoteRules(connections=1, health_seconds=0.05, recheck_seconds=0.2))


class Stumbling(Executor):
    """Its checks fail in a way that nobody foresaw while `stumbles`."""

    stumbles = False

    async def verify(self, connection: Connection) -> bool:
        if type(self).stumbles:
            raise TypeError("argument of type 'int' is not iterable")
        return await super().verify(connection)


def test_examine__fails_as_nobody_foresaw__is_down_and_comes_back(
    fickle: FickleExecutor, version: ExactVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the watch meets it, or a run whose connection is new."""

    async def test(rules: RemoteRules) -> None:
        engine = RemoteEngine(Stumbling(Target(fickle.url, "any"), INPUTS, Y), rules)
        await engine.start()
        world = World(engine, fickle, version)
        try:
            await world.check()
            monkeypatch.setattr(Stumbling, "stumbles", True)
            if rules.recheck_seconds > 1:
                fickle.break_connections()
                assert isinstance(await world.refusal(), Unavailable)
            await world.until(lambda: "cannot be read: TypeError" in engine.problem)
            assert isinstance(await world.refusal(), Unavailable)
            monkeypatch.setattr(Stumbling, "stumbles", False)
            await world.until(lambda: not engine.problem)
            await world.check()
        finally:
            await engine.close()

    for recheck in (0.2, 30.0):
        asyncio.run(test(RemoteRules(connections=1, health_seconds=0.05, recheck_seconds=recheck)))


def test_spot_check__wrong_answer_between_checks__is_not_used_and_ends_service(
    fickle: FickleExecutor, version: ExactVersion
) -> None:
    def reference(inputs: Any) -> Any:
        return commit_tensors(evaluate(version.program, list(inputs)))

    async def test(world: World) -> None:
        await world.check()
        fickle.mode = "shifted"
        error = await world.refusal()
        assert "wrong answer" in str(error)
        fickle.mode = "right"
        await asyncio.sleep(0.3)
        assert "wrong answer" in world.engine.problem

    rules = RemoteRules(connections=1, health_seconds=0.05, recheck_seconds=30, spot_check=1.0)
    run(fickle, version, test, rules, reference=reference)


def test_submit__queue_full__is_busy_and_fair(fickle: FickleExecutor, version: ExactVersion) -> None:
    async def test(world: World) -> None:
        fickle.mode, fickle.delay = "slow", 0.2
        jobs = [asyncio.create_task(world.ask(seed)) for seed in range(12)]
        results = await asyncio.gather(*jobs, return_exceptions=True)
        busy = [one for one in results if isinstance(one, Unavailable)]
        assert busy
        assert all(one.code == "busy" for one in busy)
        assert sum(isinstance(one, Result) for one in results) == 12 - len(busy)

    rules = RemoteRules(connections=1, max_waiting=6, health_seconds=30, recheck_seconds=60)
    run(fickle, version, test, rules)


def test_submit__more_than_is_answered_in_the_time_to_wait__is_busy_and_others_find_room(
    fickle: FickleExecutor, version: ExactVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "LEAST_WAITING", 1)

    async def test(world: World) -> None:
        fickle.mode, fickle.delay = "slow", 0.1
        await asyncio.gather(*(world.ask(seed) for seed in range(2)))  # from here on it knows how long
        jobs = [asyncio.create_task(world.ask(seed)) for seed in range(20)]
        await asyncio.sleep(0)
        other = asyncio.create_task(run_job(world.engine, (row(1),), OTHER))
        began = asyncio.get_running_loop().time()
        results = await asyncio.gather(*jobs, return_exceptions=True)
        busy = [one for one in results if isinstance(one, Unavailable)]
        assert all(one.code == "busy" and 1 <= one.retry_after <= 60 for one in busy)
        assert 4 <= len(results) - len(busy) <= 10  # those of half a second, and one that runs
        assert asyncio.get_running_loop().time() - began < 2.0
        assert isinstance(await other, Result)

    rules = RemoteRules(connections=1, health_seconds=30, recheck_seconds=60, wait_seconds=0.5)
    run(fickle, version, test, rules)


def test_health__while_it_serves_and_fails__tells_latency_and_failures(
    fickle: FickleExecutor, version: ExactVersion
) -> None:
    async def test(world: World) -> None:
        health = world.engine.statistics.executor
        assert health is not None
        assert (health.url, health.problem) == (fickle.url, "")
        await world.check()
        assert health.seconds.count == 1
        fickle.mode = "status"
        await world.refusal()
        assert health.failures == {"run": 1}
        fickle.mode = "cut"
        await world.refusal()
        assert health.failures["connection"] == 2
        await world.until(lambda: bool(health.problem) and health.failures.get("check", 0) > 0)
        fickle.mode = "right"
        await world.until(lambda: not health.problem)

    run(fickle, version, test, replace(FAST, connections=1))


def test_close__jobs_in_progress__are_finished(fickle: FickleExecutor, version: ExactVersion) -> None:
    async def test(world: World) -> None:
        fickle.mode, fickle.delay = "slow", 0.2
        jobs = [asyncio.create_task(world.ask(seed)) for seed in range(4)]
        await asyncio.sleep(0.05)
        await world.engine.close()
        assert all(isinstance(one, Result) for one in await asyncio.gather(*jobs))
        assert isinstance(await world.refusal(), Unavailable)

    run(fickle, version, test)


def test_answer__signed_version__needs_no_self_test(fickle: FickleExecutor, version: ExactVersion) -> None:
    fickle.mode = "shifted"

    async def test(world: World) -> None:
        (y,) = (await world.ask()).outputs
        assert np.count_nonzero(y != version.run(row(7))) == 1

    run(fickle, version, test, exact=False)
