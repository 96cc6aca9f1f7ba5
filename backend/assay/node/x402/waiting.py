"""Places for payments in work: a host's until one is known to be good, its payer's from then on. Pure.

A signature earns no place among the payers: keys cost nothing, so one host could sign by as many as it
likes. What the facilitator has verified, or the log or the chain has, does: somebody's money is behind it.
Until then a payment holds a place of the host that it came from. Of those there are as many again: however
many hosts send what does not hold, payments that do are not kept from being brought to their end.

What was agreed before, and so may be paid, takes its payer's place or, where the payer has none left, its
host's. So who sends somebody's old payments again, which are on the chain for all to see, or fills one
host's places, cannot keep a payer from what was paid.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from assay.node.errors import Unavailable
from assay.node.places import Places
from assay.types import Address


@dataclass(slots=True)
class Place:
    """One payment's, while it is in work."""

    room: WaitingRoom
    host: Address
    payer: Address
    is_payers: bool = False

    def take(self, *, is_owed: bool) -> None:
        """Raises Unavailable `busy`."""
        if is_owed:
            with suppress(Unavailable):
                self.room.payers.take(self.payer)
                self.is_payers = True
                return
        try:
            self.room.hosts.take(self.host)
        except Unavailable:
            raise _busy("this host") from None

    def check(self) -> None:
        """Whether `to_payer` would be refused now. Raises Unavailable `busy`."""
        try:
            self.room.payers.check(self.payer)
        except Unavailable:
            raise _busy(self.payer) from None

    def to_payer(self, *, is_owed: bool) -> None:
        """The payment is good. Raises Unavailable `busy` if its payer has no place left; one that is owed
        something keeps its host's then."""
        if self.is_payers:
            return
        try:
            self.check()
        except Unavailable:
            if is_owed:
                return
            raise
        self.room.payers.hold(self.payer)
        self.room.hosts.free(self.host)
        self.is_payers = True

    def leave(self) -> None:
        if self.is_payers:
            self.room.payers.free(self.payer)
        else:
            self.room.hosts.free(self.host)


class WaitingRoom:
    """`limit` places for hosts, and as many for payers, each parted as `Places` parts them."""

    def __init__(self, limit: int) -> None:
        self.hosts = Places(limit)
        self.payers = Places(limit)

    @contextmanager
    def place(self, peer: str, payer: Address, *, is_owed: bool) -> Iterator[Place]:
        """A place inside the block, for a payment from remote host `peer`. `is_owed`: it was agreed before,
        and the payer has signed it. Raises Unavailable `busy`."""
        place = Place(self, Address(f"ip:{peer}"), payer)
        place.take(is_owed=is_owed)
        try:
            yield place
        finally:
            place.leave()


def _busy(whose: str) -> Unavailable:
    return Unavailable(
        f"too many payments are in work, or of {whose}; send the same request with the same "
        "PAYMENT-SIGNATURE again, with fewer at a time",
        code="busy",
    )
