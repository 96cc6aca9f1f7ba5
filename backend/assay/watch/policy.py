"""Which receipts a watcher re-executes. Pure.

The choice is a keyed hash of the receipt's digest: the same for the same seed, in any order and process, and
unknown to a node, which signs before anybody asks and never sees the seed.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from assay.errors import RequestError
from assay.types import Address, Hash32

TICKETS: Final = 1 << 64
SEED_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Policy:
    """`rate` in [0, 1] of the receipts that `nodes` and `versions` cover (empty: all of them).

    `max_per_batch` bounds what one batch may cost; None: no bound.
    """

    rate: float = 0.1
    nodes: frozenset[Address] = field(default_factory=frozenset)
    versions: frozenset[Hash32] = field(default_factory=frozenset)
    max_per_batch: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1:
            raise RequestError(f"the rate is a share from 0 to 1, not {self.rate}", code="rate_invalid")
        if self.max_per_batch is not None and self.max_per_batch < 1:
            raise RequestError("at least one receipt a batch", code="max_per_batch_invalid")

    def covers(self, node: Address, version_id: Hash32) -> bool:
        """Whether batches of the node and version are looked at."""
        return (not self.nodes or node in self.nodes) and (not self.versions or version_id in self.versions)


def ticket(seed: bytes, digest: Hash32) -> int:
    """A number below 2^64 that only who has the seed can tell."""
    return int.from_bytes(hmac.digest(seed, digest, sha256)[:8], "big")


def choose(policy: Policy, seed: bytes, digests: Iterable[Hash32]) -> list[Hash32]:
    """The digests to re-execute, lowest ticket first.

    A higher rate chooses all that a lower one does; a bound keeps the lowest tickets.
    """
    limit = int(policy.rate * TICKETS)
    drawn = {(number, digest) for digest in digests if (number := ticket(seed, digest)) < limit}
    chosen = [digest for _, digest in sorted(drawn)]
    return chosen if policy.max_per_batch is None else chosen[: policy.max_per_batch]
