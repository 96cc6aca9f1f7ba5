"""Places for payments in work: a host's until there is known to be money behind one, its payer's then. Pure.

A signature earns no place among the payers: keys cost nothing, so one host could sign by as many as it
likes. Nor does a payment that has bought its receipt: whoever looks at the chain can send it again. What the
facilitator has just verified does, and what the chain has and no receipt was given for. All others hold a
place of the host that they come from. Of those there are as many again: however many hosts send what does not
hold, payments that do are not kept from being brought to their end.

A request that was agreed on before (its payment was noted for it, or has bought its receipt) has places of a
third kind where its host has none left: by payer, once the payer's own key is known to have signed. So who
fills a host's places, of which a proxy's clients have one part together, cannot keep them from what was paid.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from assay.node.errors import Unavailable
from assay.node.places import Places
from assay.types import Address


@dataclass(slots=True)
class Place:
    """One payment's, while it is in work: one of `kind`, held by `holder`, a host or the payer."""

    room: WaitingRoom
    payer: Address
    kind: Places
    holder: Address

    def check(self) -> None:
        """Whether `to_payer` would be refused now. Raises Unavailable `busy`."""
        if not _has_room(self.room.payers, self.payer):
            raise _busy(self.payer)

    def to_payer(self, *, is_owed: bool) -> None:
        """There is money behind it; `is_owed`: which was paid. Raises Unavailable `busy` if its payer has no
        place left; one that is owed something goes on in the place that it has."""
        payers = self.room.payers
        if self.kind is payers:
            return
        if not _has_room(payers, self.payer):
            if is_owed:
                return
            raise _busy(self.payer)
        payers.hold(self.payer)
        self.leave()
        self.kind, self.holder = payers, self.payer

    def leave(self) -> None:
        self.kind.free(self.holder)


class WaitingRoom:
    """`limit` places of each kind, each parted as `Places` parts them."""

    def __init__(self, limit: int) -> None:
        self.hosts = Places(limit)
        self.agreed = Places(limit)
        self.payers = Places(limit)

    @contextmanager
    def place(self, peer: str, payer: Address, *, is_agreed: bool) -> Iterator[Place]:
        """A place inside the block, for a payment from remote host `peer`. `is_agreed`: for this request, and
        by the payer's own key. Raises Unavailable `busy`."""
        host = Address(f"ip:{peer}")
        if _has_room(self.hosts, host):
            place = Place(self, payer, self.hosts, host)
        elif is_agreed and _has_room(self.agreed, payer):
            place = Place(self, payer, self.agreed, payer)
        else:
            raise _busy(f"{payer} and this host" if is_agreed else "this host")
        place.kind.hold(place.holder)
        try:
            yield place
        finally:
            place.leave()


def _has_room(places: Places, name: Address) -> bool:
    try:
        places.check(name)
    except Unavailable:
        return False
    return True


def _busy(whose: str) -> Unavailable:
    return Unavailable(
        f"too many payments are in work, or of {whose}; send the same request with the same "
        "PAYMENT-SIGNATURE again, with fewer at a time",
        code="busy",
    )
