"""The protocol's values: identifiers, vouchers, receipts, chain records. No behaviour but conversion, no I/O.

Amounts are integers in the token's base unit, times Unix seconds, hashes 32 raw bytes, addresses EIP-55 text.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import NewType

Address = NewType("Address", str)
"""EIP-55 checksummed hexadecimal address."""
Hash32 = NewType("Hash32", bytes)
"""32 raw bytes."""

ZERO_ADDRESS = Address("0x" + "00" * 20)
ZERO_HASH = Hash32(bytes(32))


class Assurance(StrEnum):
    """What a receipt is worth (SPEC.md §1)."""

    SIGNED = "signed"
    EXACT = "exact"
    PROVEN = "proven"


class VersionStatus(IntEnum):
    UNKNOWN = 0
    ACTIVE = 1
    DEPRECATED = 2
    REVOKED = 3


class ReceiptStatus(IntEnum):
    UNKNOWN = 0
    PENDING = 1
    FINAL = 2
    VOID = 3


class SkipReason(IntEnum):
    """Why `post_batch` skipped a voucher (SPEC.md §6)."""

    STALE = 1
    BAD_SIGNATURE = 2
    NO_ESCROW = 3
    COUNT_JUMP = 4


class BatchAvailability(StrEnum):
    """What the index found when it fetched a batch's receipts from its node."""

    UNCHECKED = "unchecked"
    AVAILABLE = "available"
    UNAVAILABLE = "unavailable"
    INCONSISTENT = "inconsistent"


class DisputeState(StrEnum):
    """How a dispute stands, as its events leave it."""

    OPEN = "open"
    NODE_WON = "node_won"
    CHALLENGER_WON = "challenger_won"


class FraudKind(StrEnum):
    """Frauds that two signatures prove (SPEC.md §11)."""

    EQUIVOCATION = "equivocation"
    CONTRADICTION = "contradiction"


class ProgramOutcome(StrEnum):
    """What lowering an artifact gave whoever tried."""

    LOWERED = "lowered"
    OUTSIDE = "outside"
    """Not in the exact profile."""
    FAILED = "failed"
    """Not within the limits of the process that tried."""
    UNAVAILABLE = "unavailable"
    """The artifact could not be had."""


@dataclass(frozen=True, slots=True)
class Domain:
    """EIP-712 domain; name and version are the protocol's constants."""

    chain_id: int
    settlement: Address


@dataclass(frozen=True, slots=True)
class Voucher:
    """*Consumer owes node `amount` for `count` inferences of the version so far* (cumulative)."""

    consumer: Address
    node: Address
    version_id: Hash32
    amount: int
    count: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """Node says that the version maps input to output, for consumer, at price. `price` in base units."""

    node: Address
    consumer: Address
    version_id: Hash32
    input_hash: Hash32
    output_hash: Hash32
    price: int
    sequence: int
    executed_at: int


@dataclass(frozen=True, slots=True)
class SignedVoucher:
    voucher: Voucher
    signature: bytes
    """65 bytes r ‖ s ‖ v for an EOA; any bytes up to 1,024 for an ERC-1271 wallet."""


@dataclass(frozen=True, slots=True)
class SignedReceipt:
    receipt: Receipt
    signature: bytes
    """65 bytes r ‖ s ‖ v by the node's signer."""


@dataclass(frozen=True, slots=True)
class BatchKey:
    """What `batch_id` commits to."""

    node: Address
    version_id: Hash32
    receipts_root: Hash32


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output of a model: Open Inference Protocol dtype, shape with -1 for the batch dimension."""

    name: str
    dtype: str
    shape: tuple[int, ...]
