"""The consumer's side of a channel as a pure state machine (SPEC.md §3): state in, state out, no I/O.

What is bounded: `signed - charged` never exceeds one price, because a new voucher is `max(signed, charged +
price)`: money that was promised with a request that a node never served counts toward the next request there
instead of being promised again. What is counted: `count` grows by one for each receipt that was checked and
accepted, and never otherwise.

    idle ──prepare──► pending ──accept──► idle            the receipt came and checks
                        │  ├───release──► idle            the node served nothing: the promise stays
                        │  └───refuse───► blocked         the receipt does not check, or is withheld
                        └──accept(a released one)         a slow first request was served after all
    blocked ──forgive──► idle                             the consumer writes one price off
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from assay.types import Address, Hash32, Receipt, Voucher

RELEASED_KEPT = 4
"""How many requests that a node said it never took are remembered, in case it takes one late."""


@dataclass(frozen=True, slots=True)
class Pending:
    """A request on its way.

    `body` are the bytes sent, `None` for a private request that another process began.
    """

    amount: int
    count: int
    price: int
    input_hash: Hash32
    body: bytes | None
    json_length: int
    """Length of the JSON header in `body` (OIP binary extension)."""
    started_at: int
    refused: str = ""
    """Why the answer was refused; empty while it is merely outstanding."""


@dataclass(frozen=True, slots=True)
class Held:
    """What a node says that it holds for a channel (`GET /v1/channels/…`)."""

    amount: int
    count: int
    sequence: int


class Outcome(StrEnum):
    """What a node's statement means for a pending request."""

    NOT_TAKEN = "not_taken"
    TAKEN = "taken"
    UNKNOWN_VOUCHER = "unknown_voucher"
    """The node holds more than this state ever signed: state was lost, or the node lies."""
    FORGOT = "forgot"
    """The node has issued fewer receipts than it handed over."""


@dataclass(frozen=True, slots=True)
class ChannelState:
    """Everything a consumer must not forget about a channel. Amounts in base units."""

    consumer: Address
    node: Address
    version_id: Hash32
    charged: int = 0
    """Sum of the prices of the receipts known to be issued, accepted or written off."""
    signed: int = 0
    """Greatest amount ever signed."""
    count: int = 0
    """Receipts checked and accepted."""
    acknowledged: int = 0
    """The count in the last voucher that the node is known to hold."""
    sequence: int = 0
    """The last sequence number known to be issued."""
    pending: Pending | None = None
    released: tuple[Pending, ...] = ()

    @property
    def outstanding(self) -> int:
        """Promised but not charged for; at most one price."""
        return self.signed - self.charged

    @property
    def blocked(self) -> str:
        """Why nothing more is signed here, or empty."""
        return self.pending.refused if self.pending else ""

    def voucher(self, pending: Pending) -> Voucher:
        return Voucher(self.consumer, self.node, self.version_id, pending.amount, pending.count)

    def acknowledgement(self, node_holds: int = 0) -> Voucher | None:
        """The voucher that says "all receipts so far are accepted", or None if the node knows already.

        It promises nothing new: the amount is what is charged, or what the node holds already if that is
        more. Who never promised anything (all was paid by x402) has nothing to say.
        """
        if self.acknowledged >= self.count or not self.signed:
            return None
        amount = max(self.charged, min(node_holds, self.signed))
        return Voucher(self.consumer, self.node, self.version_id, amount, self.count)


def next_amount(state: ChannelState, price: int) -> int:
    """The cumulative amount that pays for one more request of `price`."""
    return max(state.signed, state.charged + price)


def prepare(state: ChannelState, pending: Pending) -> ChannelState:
    """Sign for one more request. Must be durable before the voucher leaves."""
    if state.pending is not None:
        raise ValueError("the channel has a pending request: settle it first")
    if (
        pending.price <= 0
        or pending.amount != next_amount(state, pending.price)
        or pending.count != state.count
    ):
        raise ValueError("a pending request carries a positive price, next_amount() and the channel's count")
    return replace(state, pending=pending, signed=pending.amount)


def accept(state: ChannelState, request: Pending, receipt: Receipt) -> ChannelState:
    """The receipt of `request` (the pending one or a released one) has been checked."""
    if receipt.sequence != state.sequence + 1:
        raise ValueError(f"sequence {receipt.sequence} does not follow {state.sequence}")
    if request != state.pending and request not in state.released:
        raise ValueError("the receipt answers no request of this channel")
    charged = state.charged + receipt.price
    if charged > state.signed:
        raise ValueError(f"the receipt's price {receipt.price} is above what was promised")
    return replace(
        state,
        charged=charged,
        count=state.count + 1,
        acknowledged=max(state.acknowledged, request.count),
        sequence=receipt.sequence,
        pending=None,
        released=_still_payable(state, charged, request),
    )


def accept_prepaid(state: ChannelState, receipt: Receipt) -> ChannelState:
    """A receipt that an x402 payment bought has been checked: counted and numbered, not charged."""
    if receipt.sequence != state.sequence + 1:
        raise ValueError(f"sequence {receipt.sequence} does not follow {state.sequence}")
    return replace(state, count=state.count + 1, sequence=receipt.sequence)


def _still_payable(state: ChannelState, charged: int, answered: Pending | None = None) -> tuple[Pending, ...]:
    """Requests that a node could still serve late: their voucher covers more than what is charged."""
    sent = (*state.released, *((state.pending,) if state.pending else ()))
    return tuple(request for request in sent if request != answered and request.amount > charged)[
        -RELEASED_KEPT:
    ]


def release(state: ChannelState) -> ChannelState:
    """The node did not serve the pending request. The promise stays and counts toward the next request."""
    if state.pending is None:
        raise ValueError("nothing is pending")
    return replace(state, pending=None, released=(*state.released, state.pending)[-RELEASED_KEPT:])


def refuse(state: ChannelState, reason: str) -> ChannelState:
    if state.pending is None or not reason:
        raise ValueError("only a pending request can be refused, with a reason")
    return replace(state, pending=replace(state.pending, refused=reason))


def withhold(state: ChannelState, reason: str) -> ChannelState:
    """The node took a voucher and does not hand over a receipt that checks: block the channel with the
    reason.
    """
    if state.pending is not None:
        return refuse(state, reason)
    if not state.released:
        raise ValueError("no request was sent that could be withheld")
    *others, last = state.released
    return refuse(replace(state, pending=last, released=tuple(others)), reason)


def sent_requests(state: ChannelState) -> tuple[Pending, ...]:
    """Requests that the node may have served, the likeliest first."""
    return tuple(
        request
        for request in ((state.pending,) if state.pending else ()) + state.released[::-1]
        if request.amount > state.charged
    )


def judge(state: ChannelState, held: Held) -> Outcome:
    """What the node's statement says about this channel."""
    if held.amount > state.signed:
        return Outcome.UNKNOWN_VOUCHER
    if held.sequence < state.sequence:
        return Outcome.FORGOT
    return Outcome.TAKEN if held.sequence > state.sequence and sent_requests(state) else Outcome.NOT_TAKEN


def adopt(state: ChannelState, held: Held) -> ChannelState:
    """Take over a voucher whose signature proves that this consumer signed it elsewhere; nothing local is
    pending.
    """
    return replace(
        state,
        charged=max(state.charged, held.amount),
        signed=max(state.signed, held.amount),
        count=max(state.count, held.count),
        acknowledged=max(state.acknowledged, held.count),
        sequence=max(state.sequence, held.sequence),
        pending=None,
        released=(),
    )


def forgive(state: ChannelState, held: Held) -> ChannelState:
    """Write off a receipt that the node withholds: it keeps the price, the count does not grow."""
    if held.amount > state.signed:
        raise ValueError("the node claims more than was ever signed")
    amount = max(state.charged, held.amount)
    return replace(
        state,
        charged=amount,
        sequence=max(state.sequence, held.sequence),
        pending=None,
        released=_still_payable(state, amount),
    )


def follow(state: ChannelState, held: Held) -> ChannelState:
    """Skip sequence numbers that the node issued without being paid by this channel."""
    return replace(state, sequence=max(state.sequence, held.sequence))


def acknowledge(state: ChannelState, count: int) -> ChannelState:
    """The node took an acknowledgement of `count` receipts."""
    return replace(state, acknowledged=max(state.acknowledged, min(count, state.count)))
