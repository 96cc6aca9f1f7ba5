"""Versions come and go with offers, statuses, the operator's word, and memory."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from assay.chain.views import Offer
from assay.commitments import identifiers
from assay.commitments.signing import SigningKey
from assay.errors import RetryableError
from assay.node.engines.engine import EngineStatistics, Job
from assay.node.errors import ArtifactRefused, LoadRefused, Unavailable
from assay.node.models import lifecycle
from assay.node.models.catalog import Catalog, Served, VersionState
from assay.node.models.lifecycle import Lifecycle
from assay.node.models.loader import VersionRecord
from assay.node.models.memory import MemoryBudget
from assay.node.payments.ledger import NodeView
from assay.types import Assurance, Hash32, TensorSpec, VersionStatus

PUBLISHER = SigningKey(b"\x01" * 32).address
MIB = 1 << 20
SPEC = (TensorSpec("x", "FP32", (-1, 1)),)


@dataclass
class FakeEngine:
    """Says that `waiting` jobs wait; closes when it is told to."""

    waiting: int = 0
    closed: int = 0
    memory_bytes: int = 0
    inputs = outputs = SPEC
    statistics: EngineStatistics = field(default_factory=EngineStatistics)

    def submit(self, job: Job) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        self.closed += 1


@dataclass(frozen=True)
class FakePrepared:
    name: str
    memory_bytes: int
    inputs = outputs = SPEC
    exact = None


@dataclass
class FakeLoader:
    """Each version takes 40 MiB; by model name `outcomes`: what preparing raises, `faults`: starting."""

    outcomes: dict[str, Exception] = field(default_factory=dict)
    faults: dict[str, Exception] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    prepared: list[str] = field(default_factory=list)
    engines: dict[str, FakeEngine] = field(default_factory=dict)
    told: dict[str, Callable[[str], None]] = field(default_factory=dict)
    held: dict[str, asyncio.Event] = field(default_factory=dict)
    gate: threading.Event | None = None
    problem: str = ""

    def prepare(self, record: VersionRecord) -> Any:
        name = record.served.name
        self.prepared.append(name)
        if self.gate is not None:
            assert self.gate.wait(5)
        if name in self.outcomes:
            raise self.outcomes[name]
        return FakePrepared(name, self.sizes.get(name, 40) * MIB)

    async def start(self, prepared: Any, on_problem: Callable[[str], None]) -> tuple[FakeEngine, str]:
        if prepared.name in self.held:
            await self.held[prepared.name].wait()
        if prepared.name in self.faults:
            raise self.faults[prepared.name]
        self.told[prepared.name] = on_problem
        self.engines[prepared.name] = FakeEngine()
        return self.engines[prepared.name], self.problem


@dataclass
class World:
    """`view` is what the chain says; time stands still but for `now`."""

    lifecycle: Lifecycle
    loader: FakeLoader
    catalog: Catalog
    records: dict[str, VersionRecord]
    view: NodeView
    now: float

    def served(self, name: str) -> Served:
        return self.records[name].served

    def offer(self, *names: str) -> None:
        self.set(offers={name: Offer(5, name in names) for name in self.records})

    def set(self, offers: dict[str, Offer] | None = None, **statuses: VersionStatus) -> None:
        ids = {name: self.served(name).version_id for name in self.records}
        self.view = replace(
            self.view,
            offers={**self.view.offers, **{ids[name]: offer for name, offer in (offers or {}).items()}},
            statuses={**self.view.statuses, **{ids[name]: status for name, status in statuses.items()}},
        )

    async def settle(self) -> None:
        """Follow the view until nothing is under way."""
        self.lifecycle.follow(self.view)
        while tasks := self.tasks():
            await asyncio.wait(tasks)

    def tasks(self) -> list[asyncio.Task[None]]:
        return [entry.task for entry in self.lifecycle._entries.values() if entry.task]

    def ready(self) -> set[str]:
        return {name for name in self.records if self.served(name).engine is not None}

    def ask(self, name: str) -> Unavailable | None:
        served = self.served(name)
        if served.engine is None:
            return served.refusal()
        self.now += 1
        self.loader.engines[name].statistics.last_done = self.now
        return None


def record(name: str) -> VersionRecord:
    version_id = identifiers.version_id(identifiers.model_id(PUBLISHER, name), 1)
    served = Served(version_id, PUBLISHER, name, 1, Assurance.SIGNED)
    return VersionRecord(served, Hash32(bytes(32)), Hash32(bytes(32)))


def run(test: Callable[[World], Coroutine[Any, Any, None]], *names: str, offered: bool = True) -> None:
    async def main() -> None:
        catalog, loader = Catalog(), FakeLoader()
        view = NodeView(1, 1, PUBLISHER, True, {}, {})
        records = {name: record(name) for name in names}
        world = World(None, loader, catalog, records, view, 1000.0)  # type: ignore[arg-type]
        world.lifecycle = Lifecycle(
            catalog, loader, lambda: world.view, MemoryBudget(100 * MIB, 30.0), clock=lambda: world.now
        )
        for one in records.values():
            world.lifecycle._add(one)
        world.offer(*(names if offered else ()))
        await world.settle()
        await test(world)
        await world.lifecycle.stop()

    asyncio.run(main())


def test_follow__offered_versions__are_loaded_and_ready() -> None:
    async def test(world: World) -> None:
        assert world.ready() == {"a", "b"}
        assert world.served("a").state is VersionState.READY
        assert world.served("a").inputs == SPEC

    run(test, "a", "b")


def test_follow__not_offered__is_not_loaded_until_it_is() -> None:
    async def test(world: World) -> None:
        assert world.loader.prepared == []
        assert "does not offer it" in world.served("a").problem
        assert not world.served("a").is_loading
        world.offer("a")
        await world.settle()
        assert world.ready() == {"a"}

    run(test, "a", offered=False)


def test_follow__offer_withdrawn__unloads_and_offer_made_again_loads() -> None:
    async def test(world: World) -> None:
        world.offer("b")
        await world.settle()
        assert world.ready() == {"b"}
        assert world.loader.engines["a"].closed
        assert world.served("a").state is VersionState.UNAVAILABLE
        world.offer("a", "b")
        await world.settle()
        assert world.ready() == {"a", "b"}

    run(test, "a", "b")


def test_follow__revoked__unloads_for_good() -> None:
    async def test(world: World) -> None:
        world.set(a=VersionStatus.REVOKED)
        await world.settle()
        assert world.ready() == set()
        with pytest.raises(LoadRefused, match="publisher revoked it"):
            await world.lifecycle.load(world.served("a"))

    run(test, "a")


def test_unload__requests_in_progress__are_finished_first() -> None:
    async def test(world: World) -> None:
        engine = world.loader.engines["a"]
        engine.waiting = 3
        world.offer()
        world.lifecycle.follow(world.view)
        await asyncio.sleep(0.2)
        assert world.served("a").engine is None
        assert world.served("a").state is VersionState.UNLOADING
        assert not engine.closed
        engine.waiting = 0
        await world.settle()
        assert engine.closed

    run(test, "a")


def test_follow__hub_without_the_artifact__is_tried_again() -> None:
    async def test(world: World) -> None:
        world.loader.outcomes["a"] = RetryableError("not in the hub yet")
        world.offer("a")
        await world.settle()
        assert world.served("a").problem == "not in the hub yet"
        await world.settle()
        assert world.loader.prepared == ["a"]
        del world.loader.outcomes["a"]
        world.now += 6
        await world.settle()
        assert world.ready() == {"a"}
        assert world.served("a").loads.outcomes == {"loaded": 1, "no_room": 0, "failed": 1, "refused": 0}

    run(test, "a", offered=False)


def test_follow__refused_artifact__stays_out_until_the_operator_asks() -> None:
    async def test(world: World) -> None:
        world.loader.outcomes["a"] = ArtifactRefused("it loops", code="control_flow")
        world.offer("a")
        await world.settle()
        assert world.served("a").problem == "refused (control_flow): it loops"
        world.now += 100
        await world.settle()
        assert world.loader.prepared == ["a"]
        with pytest.raises(LoadRefused, match="control_flow"):
            await world.lifecycle.load(world.served("a"))
        del world.loader.outcomes["a"]
        await world.lifecycle.load(world.served("a"))
        assert world.ready() == {"a"}
        assert world.served("a").loads.outcomes["refused"] == 2

    run(test, "a", offered=False)


def test_follow__an_error_nobody_foresaw__refuses_that_version_alone() -> None:
    async def test(world: World) -> None:
        world.loader.outcomes["a"] = ZeroDivisionError()
        world.offer("a", "b")
        await world.settle()
        assert world.ready() == {"b"}
        assert "in the log" in world.served("a").problem
        assert world.served("a").loads.outcomes["failed"] == 1

    run(test, "a", "b", offered=False)


def test_unload__by_the_operator__holds_until_load() -> None:
    async def test(world: World) -> None:
        await world.lifecycle.unload(world.served("a"))
        await world.settle()
        assert world.ready() == {"b"}
        refusal = world.ask("a")
        assert refusal is not None
        assert "its operator unloaded it" in str(refusal)
        await world.lifecycle.load(world.served("a"))
        assert world.ready() == {"a", "b"}

    run(test, "a", "b")


# --- memory ----------------------------------------------------------------------------------------------


def test_load__more_than_fit__the_first_are_loaded_and_the_rest_when_asked_for() -> None:
    async def test(world: World) -> None:
        assert world.ready() == {"a", "b"}
        assert world.served("c").state is VersionState.UNAVAILABLE
        await world.settle()
        assert world.ready() == {"a", "b"}
        world.now += 31
        world.ask("a")
        refusal = world.ask("c")
        assert refusal is not None
        assert refusal.retry_after >= 1
        await world.settle()
        assert world.ready() == {"a", "c"}
        assert "made room" in world.served("b").problem
        assert [world.served(name).loads.evictions for name in "abc"] == [0, 1, 0]
        c = world.served("c").loads.outcomes
        assert (c["no_room"], c["loaded"], c["refused"]) == (1, 1, 0)

    run(test, "a", "b", "c")


def test_asked__while_it_is_being_loaded__loads_it_once() -> None:
    async def test(world: World) -> None:
        world.now += 31
        world.loader.gate = threading.Event()
        before = len(world.loader.prepared)
        for _ in range(20):
            assert world.ask("c") is not None
        await asyncio.sleep(0.05)
        world.loader.gate.set()
        await world.settle()
        assert world.loader.prepared[before:] == ["c"]
        assert world.ask("c") is None

    run(test, "a", "b", "c")


def test_asked__one_that_makes_room_is_withdrawn_meanwhile__is_loaded_all_the_same() -> None:
    """Two make room, one after the other; the second is being unloaded already when its turn comes."""

    async def test(world: World) -> None:
        world.loader.sizes["c"] = 100
        world.now += 31
        first, second = world.loader.engines["a"], world.loader.engines["b"]
        world.ask("c")
        await asyncio.sleep(0.03)
        assert world.served("a").state is VersionState.UNLOADING
        first.waiting = 1  # it takes a while
        world.offer("a", "c")
        world.lifecycle.follow(world.view)
        await asyncio.sleep(0.12)
        first.waiting = 0
        await world.settle()
        assert world.ready() == {"c"}
        assert first.closed and second.closed
        world.offer("a", "b", "c")
        await world.settle()
        world.now += 31
        assert world.ask("b") is not None
        await world.settle()
        assert world.ready() == {"b"}

    run(test, "a", "b", "c")


@pytest.mark.parametrize(
    "fault", [ZeroDivisionError(), RetryableError("away"), ArtifactRefused("no", code="x")]
)
def test_load__engine_cannot_be_started__leaves_its_room_to_others(fault: Exception) -> None:
    async def test(world: World) -> None:
        world.loader.faults["a"] = fault
        world.loader.sizes["a"] = 80
        world.offer("a")
        await world.settle()
        assert world.ready() == set()
        world.offer("b")
        await world.settle()
        assert world.ready() == {"b"}

    run(test, "a", "b", offered=False)


def test_asked__the_least_recently_used_has_work__another_makes_room() -> None:
    async def test(world: World) -> None:
        world.now += 31
        world.ask("a")
        world.ask("b")
        world.loader.engines["a"].waiting = 2
        world.ask("c")
        await world.settle()
        assert world.ready() == {"a", "c"}
        world.loader.engines["a"].waiting = 0

    run(test, "a", "b", "c")


def test_asked__others_came_only_just_now__nobody_is_displaced() -> None:
    """Two that do not fit together, asked for in turn, do not load each other out all the time."""

    async def test(world: World) -> None:
        for _ in range(10):
            refusal = world.ask("c")
            assert refusal is not None
            await world.settle()
            world.ask("a")
            world.now += 1
        assert world.ready() == {"a", "b"}
        assert refusal.retry_after <= 30
        assert len(world.loader.prepared) <= 6

    run(test, "a", "b", "c")


def test_load__by_the_operator__displaces_at_once() -> None:
    async def test(world: World) -> None:
        world.ask("a")
        await world.lifecycle.load(world.served("c"))
        assert world.ready() == {"a", "c"}

    run(test, "a", "b", "c")


def test_asked__refused_when_its_turn_came__stays_out_until_the_operator_asks() -> None:
    async def test(world: World) -> None:
        world.now += 31
        world.loader.faults["c"] = ArtifactRefused("it does not load", code="load_failed")
        world.ask("c")
        await world.settle()
        tried = len(world.loader.prepared)
        for _ in range(3):
            world.now += 100
            assert "refused (load_failed)" in str(world.ask("c"))
            await world.settle()
        assert len(world.loader.prepared) == tried

    run(test, "a", "b", "c")


def test_load__executor_hangs__others_are_loaded_meanwhile() -> None:
    async def test(world: World) -> None:
        world.loader.held["a"] = asyncio.Event()
        world.offer("a", "b")
        world.lifecycle.follow(world.view)
        async with asyncio.timeout(3):
            while world.ready() != {"b"}:  # noqa: ASYNC110 - a test waits for what nobody announces
                await asyncio.sleep(0.01)
        world.loader.held["a"].set()
        await world.settle()
        assert world.ready() == {"a", "b"}

    run(test, "a", "b", offered=False)


def test_load__twice_at_once_for_what_cannot_serve__begins_anew_once() -> None:
    async def test(world: World) -> None:
        world.loader.problem, world.loader.held["a"] = "the executor is gone", asyncio.Event()
        world.offer("a")
        world.lifecycle.follow(world.view)
        both = [asyncio.create_task(world.lifecycle.load(world.served("a"))) for _ in range(2)]
        await asyncio.sleep(0.05)
        world.loader.held["a"].set()
        await asyncio.wait(world.tasks())
        first = world.loader.engines["a"]
        world.loader.problem = ""
        await asyncio.gather(*both)
        assert first.closed == 1
        assert world.loader.prepared == ["a", "a"]
        assert world.ready() == {"a"}

    run(test, "a", offered=False)


def test_load__larger_than_the_budget__is_refused_by_name() -> None:
    async def test(world: World) -> None:
        world.loader.sizes["a"] = 101
        world.offer("a")
        await world.settle()
        assert "refused (memory_budget): it takes 101 MiB, the budget of all is 100 MiB" in (
            world.served("a").problem
        )

    run(test, "a", offered=False)


def test_displaced__offer_withdrawn__is_not_loaded_when_asked_for() -> None:
    async def test(world: World) -> None:
        world.now += 31
        world.offer("a", "b")
        await world.settle()
        refusal = world.ask("c")
        await world.settle()
        assert refusal is not None
        assert "does not offer it" in str(refusal)
        assert world.ready() == {"a", "b"}

    run(test, "a", "b", "c")


# --- an engine that fails for a while --------------------------------------------------------------------


def test_tell__problem_and_recovery__take_it_out_and_back() -> None:
    async def test(world: World) -> None:
        world.loader.told["a"]("the executor is gone")
        assert world.ready() == set()
        refusal = world.ask("a")
        assert "the executor is gone" in str(refusal)
        await world.settle()
        assert not world.loader.engines["a"].closed
        world.loader.told["a"]("")
        assert world.ready() == {"a"}

    run(test, "a")


def test_load__engine_that_cannot_serve_yet__waits_for_it() -> None:
    async def test(world: World) -> None:
        world.loader.problem = "the executor does not answer"
        world.offer("a")
        await world.settle()
        assert world.served("a").problem == "the executor does not answer"
        with pytest.raises(LoadRefused, match="does not answer"):
            await world.lifecycle.load(world.served("a"))
        assert world.loader.prepared == ["a", "a"]
        world.loader.told["a"]("")
        assert world.ready() == {"a"}

    run(test, "a", offered=False)


def test_tell__after_unloading__changes_nothing() -> None:
    async def test(world: World) -> None:
        world.offer()
        await world.settle()
        world.loader.told["a"]("")
        assert world.ready() == set()

    run(test, "a")


def test_stop__engines__are_closed() -> None:
    engines: list[FakeEngine] = []

    async def test(world: World) -> None:
        engines.extend(world.loader.engines.values())

    run(test, "a", "b")
    assert [engine.closed for engine in engines] == [1, 1]


def test_stop__run_that_does_not_end__is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "STOP_SECONDS", 0.05)

    class Endless(FakeEngine):
        async def close(self) -> None:
            await asyncio.Event().wait()

    async def test(world: World) -> None:
        world.lifecycle._entries[world.served("a").version_id].engine = Endless()
        await asyncio.wait_for(world.lifecycle.stop(), 5)
        assert world.loader.engines["b"].closed

    run(test, "a", "b")


def test_stop__while_a_hub_is_slow__does_not_wait_for_it() -> None:
    loader, slow = FakeLoader(gate=threading.Event()), record("slow")
    view = NodeView(1, 1, PUBLISHER, True, {slow.served.version_id: Offer(1, True)}, {})

    async def main() -> None:
        lifecycle = Lifecycle(Catalog(), loader, lambda: view, MemoryBudget(100 * MIB))
        lifecycle.start([slow])
        while not loader.prepared:  # noqa: ASYNC110 - a test waits for what nobody announces
            await asyncio.sleep(0.01)
        await lifecycle.stop()

    began = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - began < 3
    loader.gate.set()  # type: ignore[union-attr]


def test_start__versions_offered_later__are_found_and_served() -> None:
    async def main() -> None:
        catalog, loader, found = Catalog(), FakeLoader(), [record("late")]
        late = found[0].served
        view = NodeView(1, 1, PUBLISHER, True, {late.version_id: Offer(1, True)}, {})
        lifecycle = Lifecycle(
            catalog,
            loader,
            lambda: view,
            MemoryBudget(100 * MIB),
            find_offered=lambda: [found.pop()] if found else [],
            poll_seconds=0.01,
        )
        lifecycle.start([])
        for _ in range(200):
            await asyncio.sleep(0.01)
            if late.engine is not None:
                break
        assert catalog.get(late.version_id).engine is not None
        await lifecycle.stop()

    asyncio.run(main())
