"""What the node needs to know of the chain, and the interface it asks through. Values only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from assay.chain.views import Escrow, Offer
from assay.types import Address, Hash32, VersionStatus

NO_ESCROW = Escrow(0, 0, 0)


def safe_balance(escrow: Escrow, until: int) -> int:
    """What of an escrow cannot have left by chain time `until`."""
    leaving = escrow.thawing if escrow.thawing and escrow.thaw_at <= until else 0
    return max(escrow.balance - leaving, 0)


@dataclass(frozen=True, slots=True)
class AccountView:
    """A consumer's escrow, and what its channels with this node were paid, of one block."""

    escrow: Escrow = NO_ESCROW
    settled: Mapping[Hash32, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NodeView:
    """This node's standing, offers and versions, of one block. Stakes in base units, without what thaws."""

    block: int
    timestamp: int
    signer: Address
    active: bool
    offers: Mapping[Hash32, Offer]
    statuses: Mapping[Hash32, VersionStatus]
    stake: int = 0
    min_stake: int = 0
    signer_wei: int = 0


class Ledger(Protocol):
    """Synchronous reads; called in threads. Raises RetryableError when the chain cannot be reached."""

    def node_view(self, versions: Iterable[Hash32]) -> NodeView: ...

    def account_views(
        self, channels: Mapping[Address, Iterable[Hash32]], block: int | None = None
    ) -> Mapping[Address, AccountView]:
        """At a block that was seen just now; None: at the newest."""
        ...

    def wallet_accepts(self, consumer: Address, digest: bytes, signature: bytes) -> bool:
        """Whether `consumer` is a contract that takes the signature (ERC-1271)."""
        ...
