"""What inference requests hold of the node: bytes from their head on, a place when they are whole. Pure.

A request whose body is still coming takes room in memory, and no place among those that are answered: it
costs nothing to send a head and nothing after it. Of the room, a host's requests that are not in their turn
yet may take as much as they leave free, so that one host cannot keep all others from being heard.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from assay.node.errors import Unavailable


@dataclass(slots=True)
class Admission:
    """`max_bytes`: of all bodies, whole or not; `max_running`: requests that are being answered."""

    max_running: int
    max_bytes: int
    running: int = 0
    bytes: int = 0
    _coming: dict[str, int] = field(default_factory=dict)
    """Bytes by host; of no host that has none."""

    def expect(self, host: str, size: int) -> None:
        """Room for a body of at most `size` bytes. Raises Unavailable `busy`. What it took goes to `start` or
        `forget`."""
        free, coming = self.max_bytes - self.bytes, self._coming.get(host, 0)
        if size > free or (coming and coming + size > free):
            raise Unavailable("this node is at its limit of bytes in progress; try again", code="busy")
        self.bytes += size
        if size:
            self._coming[host] = coming + size

    def start(self, host: str, size: int) -> None:
        """It is whole and in its turn. Raises Unavailable `busy`; else it goes to `finish`."""
        if self.running >= self.max_running:
            raise Unavailable("this node is at its limit of requests in progress; try again", code="busy")
        self._arrived(host, size)
        self.running += 1

    def forget(self, host: str, size: int) -> None:
        """It was not started."""
        self._arrived(host, size)
        self.bytes -= size

    def finish(self, size: int) -> None:
        """It was started, and is answered or given up."""
        self.running -= 1
        self.bytes -= size

    def _arrived(self, host: str, size: int) -> None:
        if size:
            left = self._coming[host] - size
            if left:
                self._coming[host] = left
            else:
                del self._coming[host]
