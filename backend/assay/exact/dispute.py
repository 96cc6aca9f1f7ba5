"""A dispute between two moves (SPEC.md §11): phases, sides, the state that every event carries, moves."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from enum import IntEnum, StrEnum
from math import isqrt
from typing import Any, Final

from assay.commitments.tensors import ONNX_TO_NUMPY
from assay.types import ZERO_HASH, Address, Hash32

LEVELS: Final = 4
"""Levels of a tree that one `reveal` goes down: 2^LEVELS children."""
PARTS: Final = 256
"""Most segments that one `reveal_partials` cuts a reduction into."""
MAX_MOVES: Final = 29
"""Moves after `open`: trace of 2^16 kernels, tensor of 2^22 chunks, reduction of 2^24 steps."""


class Phase(IntEnum):
    """Which move is owed."""

    ASSERT = 1
    REVEAL = 2
    SELECT = 3
    REVEAL_TENSOR = 4
    REVEAL_CHUNK = 5
    SELECT_ELEMENT = 6
    REVEAL_PARTIALS = 7
    SELECT_SEGMENT = 8
    PROVE_STEP = 9
    FORFEIT = 10
    """None: the node has lost, `claim_timeout` closes."""


class Side(StrEnum):
    NODE = "node"
    CHALLENGER = "challenger"


CHALLENGER_PHASES: Final = frozenset((Phase.SELECT, Phase.SELECT_ELEMENT, Phase.SELECT_SEGMENT))
FUNCTIONS: Final = {
    Phase.ASSERT: "assert_trace",
    Phase.REVEAL: "reveal",
    Phase.SELECT: "select",
    Phase.REVEAL_TENSOR: "reveal_tensor",
    Phase.REVEAL_CHUNK: "reveal_chunk",
    Phase.SELECT_ELEMENT: "select_element",
    Phase.REVEAL_PARTIALS: "reveal_partials",
    Phase.SELECT_SEGMENT: "select_segment",
    Phase.PROVE_STEP: "prove_step",
}
"""The contract's function for the move that a phase owes."""


@dataclass(frozen=True, slots=True)
class State:
    """`IDisputeGame.State`, fields in its order. The contract keeps keccak256 of the ABI encoding."""

    challenger: Address
    node: Address
    batch_id: Hash32
    """Zero: the receipt was in no batch when it was disputed."""
    digest: Hash32
    program_root: Hash32
    trace_root: Hash32 = ZERO_HASH
    inputs: Hash32 = ZERO_HASH
    """keccak256 of the inputs' tensor roots, concatenated."""
    record: Hash32 = ZERO_HASH
    """keccak256 of the kernel's record; zero while the path is in the trace's tree."""
    claim: Hash32 = ZERO_HASH
    """The node of the tree under dispute; in SELECT_SEGMENT keccak256 of the partials."""
    phase: Phase = Phase.ASSERT
    deadline: int = 0
    rows: int = 0
    kernels: int = 0
    kernel: int = 0
    length: int = 0
    """Bytes of the kernel's tensor, all rows."""
    level: int = 0
    """Height of `claim` above the leaves."""
    position: int = 0
    """Index of `claim` among the nodes of its height; at the leaves, the chunk's number."""
    element: int = 0
    dtype: int = 0
    low: int = 0
    """First step of the segment under dispute."""
    high: int = 0
    """The step after its last."""
    before: int = 0
    """The accumulator before step `low`: agreed."""
    after: int = 0
    """The accumulator after step `high − 1`: what the node claims."""

    def row(self) -> tuple[Any, ...]:
        """As the ABI takes it."""
        return (*astuple(self)[:9], int(self.phase), *astuple(self)[10:])

    @classmethod
    def from_row(cls, row: tuple[Any, ...]) -> State:
        """From a decoded event: addresses checksummed, hashes as bytes."""
        values = (*row[:9], Phase(row[9]), *row[10:])
        return cls(*values)

    @property
    def side(self) -> Side | None:
        """Who owes the move; None after a forfeit."""
        return side_of(self.phase)

    @property
    def in_tensor(self) -> bool:
        """Whether the path has left the trace's tree for one tensor's."""
        return self.record != ZERO_HASH

    @property
    def reveal_levels(self) -> int:
        """How far below `claim` the children are that the next reveal shows, or the last one showed."""
        return min(LEVELS, self.level)


def side_of(phase: Phase) -> Side | None:
    if phase == Phase.FORFEIT:
        return None
    return Side.CHALLENGER if phase in CHALLENGER_PHASES else Side.NODE


@dataclass(frozen=True, slots=True)
class Move:
    """A call of the game: `function(dispute_id, state, *arguments)`, arguments as the ABI takes them."""

    function: str
    arguments: tuple[Any, ...]

    @property
    def phase(self) -> Phase:
        return next(phase for phase, function in FUNCTIONS.items() if function == self.function)


@dataclass(frozen=True, slots=True)
class Concession:
    """The challenger finds nothing to point at: what the node shows is what it computes itself."""

    reason: str


def segment_count(steps: int) -> int:
    """As few rounds as there can be; of two rounds, each has about the root of the steps."""
    if steps <= PARTS:
        return steps
    return isqrt(steps - 1) + 1 if steps <= PARTS * PARTS else PARTS


def segment_cuts(low: int, high: int) -> list[int]:
    """The segments' bounds, `low` and `high` included: segment j is `cuts[j] … cuts[j + 1] − 1`."""
    parts = segment_count(high - low)
    return [low + (high - low) * j // parts for j in range(parts + 1)]


def element_width(dtype: int) -> int:
    """Bytes of an element of a kernel's tensor, `dtype` as ONNX codes it."""
    return ONNX_TO_NUMPY[dtype].itemsize


def decode_element(dtype: int, data: bytes) -> int:
    """A little-endian element as the game's integer; a float32 is its bit pattern."""
    return int.from_bytes(data, "little", signed=ONNX_TO_NUMPY[dtype].kind == "i")


def decode_elements(dtype: int, data: bytes) -> list[int]:
    width = element_width(dtype)
    return [decode_element(dtype, data[at : at + width]) for at in range(0, len(data), width)]


def encode_elements(dtype: int, values: list[int]) -> bytes:
    """Values in the dtype's range, little-endian."""
    width = element_width(dtype)
    return b"".join((value % (1 << 8 * width)).to_bytes(width, "little") for value in values)
