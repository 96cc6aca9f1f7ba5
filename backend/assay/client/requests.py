"""What a request is made of: who signs, where it goes, what it asks, what comes back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from assay.client.wire import Arrays
from assay.types import Address, Hash32, SignedReceipt, TensorSpec


class Pay(StrEnum):
    """How a request is paid for."""

    VOUCHER = "voucher"
    """Out of an escrow, by cumulative vouchers."""
    X402 = "x402"
    """From the account itself, one signed transfer a request."""


class Signer(Protocol):
    """`commitments.signing.SigningKey`, or anything that signs digests for its address."""

    @property
    def address(self) -> Address: ...
    def sign(self, digest: bytes) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Target:
    """A version as one node offers it. `price` in base units."""

    node: Address
    endpoint: str
    version_id: Hash32
    model: str
    """`publisher/name`, as the wire wants it."""
    number: int
    price: int


@dataclass(frozen=True, slots=True)
class Work:
    """A request before it is signed: arrays in signature order."""

    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]
    arrays: Arrays = field(repr=False)
    input_hash: Hash32
    request_id: str
    private: bool = False
    public: bool = False
    """The node may show the tensors to anybody (SPEC.md §11), so that strangers can check its answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    outputs: Arrays
    receipt: SignedReceipt
    latency_ms: float
    recovered: bool = False
    """The answer was paid for by an earlier, interrupted request for the same inputs."""
    payment: dict[str, Any] | None = None
    """The x402 payment that bought it (SPEC.md §12)."""
