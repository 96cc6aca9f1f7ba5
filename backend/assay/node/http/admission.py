"""The memory that bodies of inference requests take from their heads on. Pure.

Of the room, a host's requests that are not in their turn yet may take as much as they leave free, so that one
host, which sends heads and nothing after them, cannot keep all others from being heard. How many are in
progress is bounded by the connections, each of which has one, until it is known whose they are (`Places`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from assay.node.errors import Unavailable


@dataclass(slots=True)
class Admission:
    """`max_bytes`: of all bodies, whole or not."""

    max_bytes: int
    bytes: int = 0
    _coming: dict[str, int] = field(default_factory=dict)
    """Bytes by host; of no host that has none."""

    def expect(self, host: str, size: int, before: int = 0) -> None:
        """Room for a body of at most `size` bytes, of which it has `before`. Raises Unavailable `busy`. What
        it took goes to `start` or `forget`."""
        free, others = self.max_bytes - self.bytes + before, self._coming.get(host, 0) - before
        if size > free or (others and others + size > free):
            raise Unavailable("this node is at its limit of bytes in progress; try again", code="busy")
        self.bytes += size - before
        if size:
            self._coming[host] = others + size

    def start(self, host: str, size: int) -> None:
        """It is whole and in its turn; it goes to `finish`."""
        if size:
            left = self._coming[host] - size
            if left:
                self._coming[host] = left
            else:
                del self._coming[host]

    def forget(self, host: str, size: int) -> None:
        """It was not started."""
        self.start(host, size)
        self.bytes -= size

    def finish(self, size: int) -> None:
        """It was started, and is answered or given up."""
        self.bytes -= size
