"""Program roots of stored artifacts, recomputed on request (SPEC.md §10). Async; a limited child lowers.

Lasting outcomes are kept as files, one an artifact, for this release's profile; failures for ten minutes,
because another try costs as much and gives the same on this machine.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import OrderedDict
from pathlib import Path
from typing import Final
from uuid import uuid4
from weakref import WeakValueDictionary

from anyio import to_thread

from assay import __version__
from assay.disk import check_room, room_in
from assay.errors import RequestError
from assay.exact.program import PROFILE
from assay.hub.store import ArtifactStore
from assay.programs.bounded import DEFAULT_LIMITS, LoweringLimits, lower_bounded
from assay.programs.lowering import Lowering
from assay.types import Hash32, ProgramOutcome

MAX_MODEL: Final = 512 << 20
"""As much as nodes take."""
MAX_WAITING: Final = 16
FAILED_SECONDS: Final = 600.0
MAX_FAILED: Final = 1_000


class LoweringBusyError(RequestError):
    """Too many artifacts wait to be lowered."""

    def __init__(self) -> None:
        super().__init__(
            f"{MAX_WAITING} artifacts wait to be lowered; ask again in a minute", status=503, code="busy"
        )


class Programs:
    """One per process: one artifact is lowered at a time. `folder` holds outcomes and files being lowered."""

    def __init__(self, store: ArtifactStore, folder: Path, limits: LoweringLimits = DEFAULT_LIMITS) -> None:
        self._store, self._folder, self._limits = store, folder, limits
        self._one = asyncio.Semaphore(1)
        self._locks: WeakValueDictionary[Hash32, asyncio.Lock] = WeakValueDictionary()
        self._failed: OrderedDict[Hash32, tuple[float, Lowering]] = OrderedDict()
        self._waiting = 0
        self._stopping = threading.Event()
        for left in folder.glob("*.onnx"):  # a killed process's
            left.unlink(missing_ok=True)

    def stop(self) -> None:
        """Ends the child that is running, if any."""
        self._stopping.set()

    async def lowering(self, digest: Hash32, size: int) -> Lowering:
        """What the stored artifact of `size` bytes lowers to. Raises LoweringBusyError, RetryableError."""
        lock = self._locks.setdefault(digest, asyncio.Lock())
        async with lock:
            known = await to_thread.run_sync(self._known, digest)
            if known is not None:
                return known
            if self._waiting >= MAX_WAITING:
                raise LoweringBusyError
            self._waiting += 1
            try:
                async with self._one:
                    found = await to_thread.run_sync(self._lower, digest, size)
            finally:
                self._waiting -= 1
            await to_thread.run_sync(self._keep, digest, found)
            return found

    def _path(self, digest: Hash32) -> Path:
        return self._folder / f"{digest.hex()}.{PROFILE}-{__version__}.json"

    def _known(self, digest: Hash32) -> Lowering | None:
        until, failed = self._failed.get(digest, (0.0, None))
        if time.monotonic() < until:
            return failed
        try:
            return Lowering.from_json(json.loads(self._path(digest).read_text()))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _keep(self, digest: Hash32, found: Lowering) -> None:
        if not found.is_lasting:
            self._failed[digest] = (time.monotonic() + FAILED_SECONDS, found)
            if len(self._failed) > MAX_FAILED:
                self._failed.popitem(last=False)
            return
        temporary = self._folder / uuid4().hex
        with room_in(self._folder):
            temporary.write_text(json.dumps(found.to_json()))
        temporary.replace(self._path(digest))

    def _lower(self, digest: Hash32, size: int) -> Lowering:
        if size > MAX_MODEL:
            reason = f"it has {size} bytes; models of at most {MAX_MODEL} are lowered here"
            return Lowering(ProgramOutcome.FAILED, reason=reason)
        self._folder.mkdir(parents=True, exist_ok=True)
        copy = self._folder / f"{uuid4().hex}.onnx"
        try:
            with room_in(self._folder), copy.open("wb") as file:
                for piece in self._store.stream(digest):
                    check_room(file)
                    file.write(piece)
            return lower_bounded(copy, self._limits, self._stopping.is_set)
        finally:
            copy.unlink(missing_ok=True)
