"""How long a run will take, from how long runs of its size took. Pure.

In processor time: on a machine with other work to do, a run takes longer by the clock and is no other run.
"""

from __future__ import annotations

from typing import Final

_SHARE: Final = 0.1
"""Of the newest run in the average of its size."""


class RunTimes:
    """Averages by the power of two of a run's input bytes: rows and dynamic dimensions both count."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}

    def record(self, size: int, seconds: float) -> None:
        known = self._seconds.get(size.bit_length())
        if known is not None:
            seconds = known + _SHARE * (seconds - known)
        self._seconds[size.bit_length()] = seconds

    def predict(self, size: int) -> float:
        """Seconds; of a size not seen before in proportion to the next smaller one (the next greater one's
        if there is none), infinite before any run."""
        bits = size.bit_length()
        known = self._seconds.get(bits)
        if known is not None:
            return known
        smaller = max((seen for seen in self._seconds if seen < bits), default=None)
        if smaller is not None:
            return self._seconds[smaller] * (1 << (bits - smaller))
        return min(self._seconds.values(), default=float("inf"))
