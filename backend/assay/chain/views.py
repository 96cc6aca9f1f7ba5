"""What the contracts' views answer, as frozen values with the field names of SPEC.md §4–6."""

from __future__ import annotations

from dataclasses import dataclass

from assay.types import ZERO_ADDRESS, ZERO_HASH, Address, Hash32, VersionStatus


@dataclass(frozen=True, slots=True)
class Model:
    publisher: Address
    pending_publisher: Address
    payee: Address
    version_count: int
    name: str
    metadata_uri: str

    @property
    def exists(self) -> bool:
        return self.publisher != ZERO_ADDRESS


@dataclass(frozen=True, slots=True)
class Version:
    model_id: Hash32
    number: int
    artifact: Hash32
    program_root: Hash32
    manifest_hash: Hash32
    royalty_bps: int
    status: VersionStatus
    published_at: int
    uri: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "status", VersionStatus(self.status))

    @property
    def exists(self) -> bool:
        return self.status != VersionStatus.UNKNOWN

    @property
    def has_program(self) -> bool:
        """Whether receipts of it can be `exact`; `Deployment.assurance_of` says whether they are."""
        return self.program_root != ZERO_HASH


@dataclass(frozen=True, slots=True)
class RoyaltyInfo:
    payee: Address
    royalty_bps: int
    program_root: Hash32


@dataclass(frozen=True, slots=True)
class Node:
    signer: Address
    stake: int
    thawing: int
    thaw_at: int
    frozen: int
    registered_at: int
    endpoint: str

    @property
    def is_registered(self) -> bool:
        return self.signer != ZERO_ADDRESS


@dataclass(frozen=True, slots=True)
class Standing:
    signer: Address
    active: bool


@dataclass(frozen=True, slots=True)
class SignerInfo:
    """`valid_from ≤ t < valid_to`; `valid_to` 0 = still valid; node zero = never a signer."""

    node: Address
    valid_from: int
    valid_to: int


@dataclass(frozen=True, slots=True)
class Offer:
    price: int
    active: bool


@dataclass(frozen=True, slots=True)
class Escrow:
    balance: int
    thawing: int
    thaw_at: int


@dataclass(frozen=True, slots=True)
class Channel:
    settled: int
    count: int


@dataclass(frozen=True, slots=True)
class Batch:
    amount: int
    count: int
    posted_at: int
    fee_bps: int
    holds: int
    collected: bool

    @property
    def exists(self) -> bool:
        return self.posted_at != 0
