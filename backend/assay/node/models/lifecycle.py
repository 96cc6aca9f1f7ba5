"""Which versions are in memory: loads and unloads them as offers, statuses, operator and memory say.

A version is wanted while the chain has an active offer of this node for it, its publisher has not revoked it
and its operator has not unloaded it. A wanted version is loaded; one that had to make room for others is
loaded again when it is asked for, and the asker is told when to come back.
"""

# ruff: noqa: N818 - named after what happened, as in assay.errors

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

import structlog

from assay.errors import AssayError, FatalError, RetryableError
from assay.node.engines.engine import Engine
from assay.node.errors import ArtifactRefused, LoadRefused, Unavailable
from assay.node.models.catalog import Catalog, Served, VersionState
from assay.node.models.loader import Prepared, VersionRecord
from assay.node.models.loading_thread import run_beside
from assay.node.models.memory import MemoryBudget, Resident
from assay.node.payments.ledger import NodeView
from assay.types import Hash32, VersionStatus

RETRY_SECONDS: Final = 5.0
DRAIN_SECONDS: Final = 30.0
"""How long a version that is unloaded waits for requests that were admitted before."""
DRAIN_STEP: Final = 0.05
STOP_SECONDS: Final = 5.0
"""For runs in progress when the servers have ended: their connections have had their grace already."""

_log = structlog.get_logger(__name__)


class VersionLoader(Protocol):
    """How a version comes into memory; `loader.Loader`."""

    def prepare(self, record: VersionRecord) -> Prepared:
        """In a thread: everything up to building an engine. Raises RetryableError, ArtifactRefused."""

    async def start(self, prepared: Prepared, on_problem: Callable[[str], None]) -> tuple[Engine, str]:
        """A warm engine, and why it cannot serve yet. `on_problem` is called in the event loop whenever that
        changes; empty: it can. Raises RetryableError, ArtifactRefused."""


@dataclass(slots=True)
class Entry:
    """What is known of a version beside its `served`. `held`: the operator unloaded it. `refused`: it is not
    tried again but by the operator. `displaced`: it waits until somebody asks for it."""

    record: VersionRecord
    engine: Engine | None = None
    size: int = 0
    loaded_at: float = 0.0
    seconds: float = RETRY_SECONDS
    retry_at: float = 0.0
    held: bool = False
    refused: bool = False
    displaced: bool = False
    task: asyncio.Task[None] | None = None
    unwanted: str = ""
    """Why it is not wanted; empty: it is."""

    @property
    def served(self) -> Served:
        return self.record.served

    @property
    def used_at(self) -> float:
        """When it last answered somebody; 0 before that."""
        return self.engine.statistics.last_done if self.engine else 0.0

    @property
    def name(self) -> str:
        return f"{self.served.full_name} version {self.served.number}"


class NoRoom(RetryableError):
    """The budget has no room now; `retry_after` in seconds."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Lifecycle:
    """Belongs to the server's event loop. `view` gives the newest view of the chain, or raises Unavailable;
    `find_offered`, called in a thread, gives versions that this node offers and that it has not given
    before. `fail` is told what ends the following for good."""

    def __init__(
        self,
        catalog: Catalog,
        loader: VersionLoader,
        view: Callable[[], NodeView],
        budget: MemoryBudget,
        *,
        find_offered: Callable[[], list[VersionRecord]] = list,
        poll_seconds: float = 2.0,
        progress: Callable[[str], None] = lambda _: None,
        fail: Callable[[FatalError], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._catalog = catalog
        self._loader = loader
        self._view = view
        self._budget = budget
        self._find_offered = find_offered
        self._poll_seconds = poll_seconds
        self._progress = progress
        self._fail = fail
        self._clock = clock
        self._entries: dict[Hash32, Entry] = {}
        self._in_turn = asyncio.Lock()
        self._on_demand = asyncio.Lock()
        self._room = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    # Life

    def start(self, records: Iterable[VersionRecord]) -> None:
        """Follow the chain; `records` are served from the start, first come first loaded."""
        for record in records:
            self._add(record)
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Load nothing more; finish what was submitted to the engines, which nobody waits for any more if it
        takes longer than STOP_SECONDS, and let go of them."""
        tasks = [self._task, *(entry.task for entry in self._entries.values())]
        for task in filter(None, tasks):
            task.cancel()
        await asyncio.gather(*filter(None, tasks), return_exceptions=True)
        engines = [entry.engine for entry in self._entries.values() if entry.engine is not None]
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await asyncio.gather(*(engine.close() for engine in engines))
        except TimeoutError:
            _log.warning("runs left alone that do not end", seconds=STOP_SECONDS)

    def _add(self, record: VersionRecord) -> Entry:
        entry = Entry(record)
        self._entries[record.served.version_id] = entry
        record.served.on_asked = self._asked
        self._catalog.add(record.served)
        return entry

    async def _run(self) -> None:
        while True:
            try:
                await self._discover()
                self.follow(self._view())
            except (RetryableError, Unavailable) as error:
                _log.warning("offers not read", error=str(error))
            except FatalError as error:
                self._fail(error)
                return
            await asyncio.sleep(self._poll_seconds)

    async def _discover(self) -> None:
        for record in await asyncio.to_thread(self._find_offered):
            if record.served.version_id not in self._entries:
                entry = self._add(record)
                self._rest(entry, "offered on the chain; it will be loaded")

    # What the chain says

    def follow(self, view: NodeView) -> None:
        """Load what is wanted, unload what is not, by one view of the chain."""
        for entry in self._entries.values():
            version_id = entry.served.version_id
            if version_id not in view.offers:  # found after the view was read
                continue
            entry.unwanted = _unwanted(view, version_id) or ("its operator unloaded it" * entry.held)
            if entry.task is not None:
                continue
            if entry.unwanted:
                self._set_down(entry, entry.unwanted)
            elif self._is_due(entry):
                self._begin(entry, self._load(entry, may_unload=False))

    def _is_due(self, entry: Entry) -> bool:
        resting = entry.refused or entry.displaced or entry.engine is not None
        return not resting and self._clock() >= entry.retry_at

    def _set_down(self, entry: Entry, reason: str) -> None:
        if entry.engine is not None:
            self._begin(entry, self._unload(entry, reason))
        elif not entry.refused:
            self._rest(entry, reason)

    def _begin(self, entry: Entry, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        entry.task = asyncio.create_task(work)
        entry.task.add_done_callback(lambda task: self._ended(entry, task))
        return entry.task

    def _ended(self, entry: Entry, task: asyncio.Task[None]) -> None:
        entry.task = None
        error = None if task.cancelled() else task.exception()
        if error is not None:
            entry.served.loads.ended("failed")
            _log.error("model not loaded", version=entry.name, exc_info=error)
            self._rest(entry, "loading it failed; its operator finds why in the log")
            entry.refused = True
            if entry.engine is None:
                entry.size = 0

    # What consumers ask for

    def _asked(self, served: Served) -> Unavailable:
        entry = self._entries[served.version_id]
        wait = RETRY_SECONDS
        waits = entry.displaced and not entry.refused and not entry.unwanted
        if waits and entry.task is None and self._clock() >= entry.retry_at:
            self._begin(entry, self._load(entry, may_unload=True))
            served.problem = "it made room for others and is being loaded again"
        if entry.displaced:
            wait = max(entry.seconds if entry.task else 0.0, entry.retry_at - self._clock())
        return Unavailable(
            f"{entry.name} is not loaded: {served.problem}", retry_after=max(1, math.ceil(wait))
        )

    # What the operator asks for

    async def load(self, served: Served) -> None:
        """Load it now, whatever has to leave memory for it. Raises LoadRefused with the reason."""
        entry = self._entries[served.version_id]
        entry.held = entry.refused = False
        await self._idle(entry)
        with contextlib.suppress(Unavailable):
            entry.unwanted = _unwanted(self._view(), served.version_id)
        if served.engine is not None:
            return
        if entry.engine is not None:  # it cannot serve: begin anew
            await self._begin(entry, self._unload(entry, "it is being loaded anew"))
        if entry.unwanted:
            raise LoadRefused(f"{entry.name} cannot be loaded: {entry.unwanted}")
        task = entry.task or self._begin(entry, self._load(entry, may_unload=True, force=True))
        await asyncio.wait([task])
        if served.engine is None:
            raise LoadRefused(f"{entry.name} was not loaded: {served.problem}")

    async def unload(self, served: Served) -> None:
        """Unload it, after the requests in progress, until the operator loads it again."""
        entry = self._entries[served.version_id]
        entry.held = True
        entry.unwanted = entry.unwanted or "its operator unloaded it"
        await self._idle(entry)
        self._set_down(entry, entry.unwanted)
        await self._idle(entry)

    async def _idle(self, entry: Entry) -> None:
        """Until nothing is under way for it, nor was begun by another who waited for that."""
        while entry.task is not None:
            await asyncio.wait([entry.task])

    # Loading and unloading

    async def _load(self, entry: Entry, *, may_unload: bool, force: bool = False) -> None:
        """`may_unload`: somebody asks for it, so others may have to make room; it does not wait for a slow
        hub's answers to versions that nobody asks for."""
        served = entry.served
        served.state = VersionState.LOADING
        started = self._clock()
        try:
            async with self._on_demand if may_unload else self._in_turn:
                prepared = await run_beside(partial(self._loader.prepare, entry.record))
            async with self._room:
                await self._make_room(entry, prepared.memory_bytes, may_unload=may_unload, force=force)
            entry.engine, problem = await self._loader.start(
                prepared, lambda problem: self._tell(entry, problem)
            )
        except (NoRoom, RetryableError, ArtifactRefused, AssayError) as error:
            self._not_loaded(entry, error)
            return
        except asyncio.CancelledError:
            self._rest(entry, "this node is stopping")
            raise
        entry.loaded_at = self._clock()
        entry.seconds = served.loads.seconds = entry.loaded_at - started
        served.loads.ended("loaded")
        served.executor = entry.engine.statistics.executor
        entry.displaced = False
        served.inputs, served.outputs, served.exact = prepared.inputs, prepared.outputs, prepared.exact
        self._serve(entry)
        if problem:
            self._tell(entry, problem)
        else:
            self._progress(f"ready: {entry.name}")

    def _not_loaded(self, entry: Entry, error: AssayError) -> None:
        entry.size = 0
        entry.retry_at = self._clock() + RETRY_SECONDS
        if isinstance(error, NoRoom):
            entry.served.loads.ended("no_room")
            entry.displaced = True
            entry.retry_at = self._clock() + error.retry_after
            _log.info("no room for model", version=entry.name, error=str(error))
            self._rest(entry, f"not in memory ({error})")
        elif isinstance(error, RetryableError):
            entry.served.loads.ended("failed")
            _log.warning("model not loaded yet", version=entry.name, error=str(error))
            self._rest(entry, str(error))
        else:
            entry.served.loads.ended("refused")
            code = error.code if isinstance(error, ArtifactRefused) else type(error).__name__
            _log.error("model refused", version=entry.name, code=code, error=str(error))
            entry.refused = True
            self._rest(entry, f"refused ({code}): {error}")
            self._progress(f"refused: {entry.name}: {error}")

    async def _make_room(self, entry: Entry, needed: int, *, may_unload: bool, force: bool) -> None:
        """Reserves `needed` bytes for the entry. Raises ArtifactRefused `memory_budget`, NoRoom."""
        entry.size = 0
        room = self._budget.make_room(
            needed, self._residents(), self._clock(), may_unload=may_unload, force=force
        )
        if room.problem and not room.retry_after:
            raise ArtifactRefused(
                f"{room.problem}; raise budget_mib in node.toml's [memory]", code="memory_budget"
            )
        if room.problem:
            raise NoRoom(room.problem, room.retry_after)
        entry.size = needed
        for version_id in room.unload:
            other = self._entries[version_id]
            if other.task is None and other.engine is not None:
                other.displaced = True
                other.served.loads.evictions += 1
                self._begin(other, self._unload(other, "it made room for others; ask again to have it back"))
            if other.task is not None:  # or it is unloaded already, for another reason
                await asyncio.wait([other.task])

    def _residents(self) -> list[Resident]:
        return [
            Resident(
                version_id,
                entry.size,
                entry.used_at,
                entry.loaded_at,
                busy=entry.task is not None or bool(entry.engine and entry.engine.waiting),
            )
            for version_id, entry in self._entries.items()
            if entry.size
        ]

    async def _unload(self, entry: Entry, reason: str) -> None:
        """No request is admitted from now on; those that were are finished."""
        engine = entry.engine
        assert engine is not None
        entry.served.engine = None
        entry.served.state, entry.served.problem = VersionState.UNLOADING, reason
        for _ in range(int(DRAIN_SECONDS / DRAIN_STEP)):
            await asyncio.sleep(DRAIN_STEP)  # once at least: a request may be between admission and queue
            if not engine.waiting:
                break
        await engine.close()
        entry.engine, entry.size, entry.served.executor = None, 0, None
        self._rest(entry, reason)
        self._progress(f"unloaded: {entry.name}: {reason}")

    def _tell(self, entry: Entry, problem: str) -> None:
        """An engine that cannot serve for a while, or can again."""
        served = entry.served
        served.problem = problem
        if entry.engine is None or served.state is VersionState.UNLOADING:
            return
        if problem:
            _log.warning("model not served", version=entry.name, problem=problem)
            self._rest(entry, problem)
        else:
            _log.info("model served again", version=entry.name)
            self._serve(entry)

    def _serve(self, entry: Entry) -> None:
        entry.served.engine = entry.engine
        entry.served.state, entry.served.problem = VersionState.READY, ""

    def _rest(self, entry: Entry, reason: str) -> None:
        entry.served.engine = None
        entry.served.state, entry.served.problem = VersionState.UNAVAILABLE, reason


def _unwanted(view: NodeView, version_id: Hash32) -> str:
    """Why a version is not served by this view of the chain; empty if it is."""
    if view.statuses.get(version_id) == VersionStatus.REVOKED:
        return "its publisher revoked it"
    offer = view.offers.get(version_id)
    return "" if offer is not None and offer.active else "this node does not offer it on the chain"
