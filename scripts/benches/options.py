"""What a caller can tell the serving benches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


class MissingError(RuntimeError):
    """A server to compare with that cannot be installed here."""


@dataclass(frozen=True)
class Options:
    """`progress` is told what happens now. `minutes`: of the soak. `rounds`: of the serving benches.
    `rows`: of the receipts log."""

    peers: bool = True
    minutes: float = 10.0
    rounds: int = 3
    rows: int = 10_000_000
    progress: Callable[[str], None] = lambda _: None
    notes: list[str] = field(default_factory=list)
    """Lines to show below the table."""
    failures: list[str] = field(default_factory=list)
    """What a bench found not to hold: the run fails, after its table."""
