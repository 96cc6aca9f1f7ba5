"""What the watcher knows of batches, receipts and disputes, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256

from assay.types import Address, BatchKey, Domain, FraudKind, Hash32, Receipt, SignedReceipt


class DataState(StrEnum):
    """A receipt's inputs and outputs, as far as its node gives them."""

    PRIVATE = "private"
    UNASKED = "unasked"
    AVAILABLE = "available"
    WITHHELD = "withheld"
    INCONSISTENT = "inconsistent"
    """What the node gave does not hash to what it signed."""


class Verdict(StrEnum):
    UNCHECKED = "unchecked"
    RIGHT = "right"
    WRONG = "wrong"
    SKIPPED = "skipped"
    """Nobody can judge it here: the reason says why."""


class ChallengeState(StrEnum):
    DUE = "due"
    OPENED = "opened"
    DROPPED = "dropped"


class FraudState(StrEnum):
    DUE = "due"
    PROVEN = "proven"
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True)
class PostedBatch:
    batch_id: Hash32
    key: BatchKey
    block: int
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class SeenReceipt:
    """A receipt that its node signed. `position` is its leaf, if the batch's root proves it."""

    digest: Hash32
    signed: SignedReceipt
    batch_id: Hash32
    position: int | None
    is_public: bool
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class Fraud:
    """Two receipts that contradict each other by themselves. `name` is the slot or the question."""

    kind: FraudKind
    name: bytes
    first: Hash32
    second: Hash32
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class Challenge:
    digest: Hash32
    state: ChallengeState
    attempts: int


@dataclass(frozen=True, slots=True)
class NodeSummary:
    """Batches and public receipts of one node, counted by what came of asking for them."""

    node: Address
    batches: dict[str, int]
    data: dict[str, int]
    verdicts: dict[str, int]


def slot_of(domain: Domain, receipt: Receipt) -> bytes:
    """What two receipts of one channel and sequence share."""
    return _name(domain, receipt.node, receipt.consumer, receipt.version_id, receipt.sequence)


def question_of(domain: Domain, receipt: Receipt) -> bytes:
    """What two answers of one node and version to one input share."""
    return _name(domain, receipt.node, receipt.version_id, receipt.input_hash)


def _name(domain: Domain, *parts: object) -> bytes:
    text = "|".join(part.hex() if isinstance(part, bytes) else str(part) for part in parts)
    return sha256(f"{domain.chain_id}|{domain.settlement}|{text}".encode()).digest()
