"""Which core does what: the server measured has one for itself, the generator and the chain another."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cores:
    """`server` and `client` are core numbers; both empty where processes cannot be pinned."""

    server: tuple[int, ...]
    client: tuple[int, ...]

    @classmethod
    def find(cls, servers: int = 1) -> Cores:
        """The first `servers` cores that this process may use, and one more; with too few of them the server
        and the client share."""
        if not hasattr(os, "sched_getaffinity"):
            return cls((), ())
        return cls.of(sorted(os.sched_getaffinity(0)), servers)

    @classmethod
    def of(cls, usable: Sequence[int], servers: int = 1) -> Cores:
        return cls(tuple(usable[:servers]), (usable[servers] if len(usable) > servers else usable[-1],))

    @property
    def is_shared(self) -> bool:
        """Whether the client takes time from the server."""
        return not self.server or bool(set(self.server) & set(self.client))

    def __str__(self) -> str:
        if not self.server:
            return "not pinned"
        return f"server on core {_names(self.server)}, generator and chain on core {_names(self.client)}"


def _names(cores: Sequence[int]) -> str:
    return ", ".join(map(str, cores))


@contextlib.contextmanager
def on_cores(cores: Sequence[int]) -> Iterator[None]:
    """Processes and threads that are started here stay on `cores`; nothing happens if there are none."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
