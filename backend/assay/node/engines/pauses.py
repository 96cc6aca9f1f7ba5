"""How long a version's requests run one by one after a batch of them ran out of time. Pure."""

from __future__ import annotations

from typing import Final

FIRST_SECONDS: Final = 30.0
MOST_SECONDS: Final = 3600.0
"""So whoever sends what no batch survives costs the others one time limit an hour."""


class Pauses:
    """The first is `FIRST_SECONDS` long; each that is due within `MOST_SECONDS` of the end of the one before
    is twice as long as that, up to `MOST_SECONDS`."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._ends = 0.0

    def take(self, now: float) -> float:
        """Seconds of the pause that begins at `now`."""
        again = self._seconds > 0 and now - self._ends < MOST_SECONDS
        self._seconds = min(2 * self._seconds, MOST_SECONDS) if again else FIRST_SECONDS
        self._ends = now + self._seconds
        return self._seconds
