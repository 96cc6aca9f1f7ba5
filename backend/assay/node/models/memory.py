"""How much memory loaded versions may take together, and which of them goes when another one needs room.
Pure, but for `machine_bytes`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from assay.types import Hash32


@dataclass(frozen=True, slots=True)
class Resident:
    """A version in memory. Times are the monotonic clock's; `busy`: it is loading, or has work."""

    version_id: Hash32
    size: int
    used_at: float
    loaded_at: float
    busy: bool = False


@dataclass(frozen=True, slots=True)
class Room:
    """Either the versions to unload, least recently used first, or why there is no room now.

    `retry_after`: seconds until there may be; 0 with a `problem`: there never is.
    """

    unload: tuple[Hash32, ...] = ()
    problem: str = ""
    retry_after: float = 0.0


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """`size` in bytes. A version stays for `min_resident_seconds` before another one may displace it, so that
    two that do not fit together do not load each other out all the time."""

    size: int
    min_resident_seconds: float = 30.0

    def make_room(
        self, needed: int, residents: Iterable[Resident], now: float, *, may_unload: bool, force: bool = False
    ) -> Room:
        """For `needed` bytes more. `force`: the operator asks, so time in memory does not protect."""
        if needed > self.size:
            return Room(problem=f"it takes {_mib(needed)} MiB, the budget of all is {_mib(self.size)} MiB")
        known = list(residents)
        missing = sum(one.size for one in known) + needed - self.size
        if missing <= 0:
            return Room()
        if not may_unload:
            return Room(problem=f"{_mib(missing)} MiB are missing beside what is loaded", retry_after=1.0)
        chosen: list[Hash32] = []
        waits: list[float] = []
        for one in sorted(known, key=lambda one: one.used_at):
            wait = 0.0 if force else one.loaded_at + self.min_resident_seconds - now
            if one.busy or wait > 0 or not one.size:
                waits.append(max(wait, 1.0))
                continue
            chosen.append(one.version_id)
            missing -= one.size
            if missing <= 0:
                return Room(tuple(chosen))
        return Room(
            problem="everything else in memory is in use, or was loaded only just now", retry_after=min(waits)
        )


def _mib(size: int) -> int:
    return -(-size >> 20)


def machine_bytes() -> int:
    """The machine's memory, or what its control group allows of it."""
    total = int(psutil.virtual_memory().total)
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            total = min(total, int((Path("/sys/fs/cgroup") / name).read_text()))
    return total
