"""What runs one loaded version, whatever runs it: a session of this process, or a server behind this node."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from assay.node.oip import Array
from assay.types import Address, Hash32, TensorSpec


@dataclass(frozen=True, slots=True)
class Result:
    """All outputs of one request in signature order, and their hash."""

    outputs: tuple[Array, ...]
    output_hash: Hash32


@dataclass(slots=True)
class Job:
    """One request's inputs, in signature order. `done` is called once, in the event loop, with the result or
    with what went wrong (RunFailed, Unavailable). `consumer`: whose share of the engine it takes."""

    inputs: tuple[Array, ...]
    consumer: Address
    done: Callable[[Result | Exception], None]


class Engine(Protocol):
    """Belongs to the server's event loop."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def waiting(self) -> int:
        """Jobs submitted and not done."""

    @property
    def memory_bytes(self) -> int:
        """What it holds of this node's memory while loaded."""

    def submit(self, job: Job) -> None:
        """Take a job. Raises Unavailable `busy` if the queue, or the consumer's share of it, is full."""

    async def close(self) -> None:
        """Finish what was submitted, then let go of everything."""
