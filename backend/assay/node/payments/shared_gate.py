"""The gate of a node whose log other processes write to as well.

What this process knows of a channel is as old as its last look, so it says no only after a new look, and
its yes is checked again under the row locks (`shared_issuing`). A client that stays with one process costs
no look.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from assay.errors import RetryableError
from assay.node.errors import PaymentError, Unavailable
from assay.node.payments.accounts import Channel, raises_held
from assay.node.payments.follower import Account
from assay.node.payments.gate import Gate, Ticket
from assay.node.payments.shared_reading import Seen, SharedReader
from assay.node.payments.terms import Terms
from assay.node.receipts.entries import ChannelKey, ChannelState, HeldVoucher, LoggedReceipt
from assay.types import ZERO_ADDRESS, Address, Hash32, Voucher

ABOUT_STATE: Final = frozenset(
    ("voucher_stale", "voucher_short", "escrow_short", "unacknowledged", "not_ready")
)

A = TypeVar("A")
T = TypeVar("T")


class SharedGate(Gate):
    """Belongs to the server's event loop."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._reader = SharedReader(self._log.database)
        self._prices: defaultdict[ChannelKey, dict[Hash32, int]] = defaultdict(dict)
        """Of requests in flight, by the payment: their prices are in `Channel.charged`, maybe in the log."""

    async def admit(self, terms: Terms, version_id: Hash32, price: int, input_hash: Hash32) -> Ticket:
        admit = super().admit
        ticket = await self._twice(
            terms.consumer, version_id, lambda: admit(terms, version_id, price, input_hash)
        )
        if ticket.payment is not None and ticket.repeated is None:
            self._prices[ticket.channel.key][ticket.payment] = ticket.price
        return ticket

    async def admit_prepaid(self, consumer: Address, version_id: Hash32, price: int) -> Ticket:
        admit = super().admit_prepaid
        return await self._twice(consumer, version_id, lambda: admit(consumer, version_id, price))

    async def check_acknowledgement(self, terms: Terms, version_id: Hash32) -> tuple[Channel, HeldVoucher]:
        check = super().check_acknowledgement
        return await self._twice(terms.consumer, version_id, lambda: check(terms, version_id))

    def finish(self, ticket: Ticket, receipt: LoggedReceipt) -> None:
        self._forget(ticket)
        super().finish(ticket, receipt)

    def give_up(self, ticket: Ticket, error: BaseException | None = None) -> None:
        self._forget(ticket)
        super().give_up(ticket, error)

    def ceiling(self, consumer: Address) -> int | None:
        """What the consumer's vouchers may come to: its escrow, and what the chain paid of them before.
        Raises Unavailable if the chain was not read for long."""
        account = self._follower.known(consumer)
        if account is None or account.fetched_at is None:
            return None
        settled = sum(channel.settled or 0 for channel in account.channels.values())
        return self._follower.safe_balance(account) + settled

    async def refresh(self, consumer: Address) -> None:
        """Read the consumer's escrow and settled channels again. Raises Unavailable."""
        await self._follower.refresh(self._follower.open_account(consumer))

    async def look(self, consumer: Address) -> None:
        """Bring what is known of the consumer's channels up to the log. Raises Unavailable."""
        keys = [key for key in self._prices if key.consumer == consumer]
        payments = {payment for key in keys for payment in self._prices[key]}
        seen = await self._reader.read(consumer, payments)
        account = self._follower.open_account(consumer)
        for state in seen.channels:
            self._apply(account, state, seen)

    async def _twice(self, consumer: Address, version_id: Hash32, check: Callable[[], Awaitable[T]]) -> T:
        """A look first at an account that is new here, and a look before a refusal that may be out of
        date."""
        account = self._follower.known(consumer)
        if account is None or version_id not in account.channels:
            await self.look(consumer)
            account = self._follower.open_account(consumer)
            if version_id not in account.channels:
                key = ChannelKey(version_id, consumer)
                account.channels[version_id] = Channel.of(ChannelState(key))
            return await check()
        try:
            return await check()
        except (PaymentError, Unavailable) as error:
            if error.code not in ABOUT_STATE:
                raise
        await self.look(consumer)
        return await check()

    def _apply(self, account: Account, state: ChannelState, seen: Seen) -> None:
        channel = account.channels.get(state.key.version_id)
        if channel is None:
            account.channels[state.key.version_id] = Channel.of(state)
            return
        prices = self._prices.get(state.key, {})
        waiting = sum(price for payment, price in prices.items() if payment not in seen.paid)
        channel.charged = state.charged + waiting
        if state.sequence >= channel.issued:
            channel.issued, channel.unpaid = state.sequence, state.unpaid
        channel.durable = state.voucher
        held = channel.held
        if held is None or not raises_held(Channel.of(state), _voucher(state.key, held)):
            channel.held = state.voucher

    def _forget(self, ticket: Ticket) -> None:
        prices = self._prices.get(ticket.channel.key)
        if prices is None or ticket.payment is None or ticket.repeated is not None:
            return
        prices.pop(ticket.payment, None)
        if not prices:
            del self._prices[ticket.channel.key]

    async def _ask(self, question: Callable[[A], T], about: A) -> T:
        try:
            return await asyncio.to_thread(question, about)
        except RetryableError as error:
            raise Unavailable(f"this node cannot read its receipts log: {error}; try again") from None


def _voucher(key: ChannelKey, held: HeldVoucher) -> Voucher:
    """As the accounts' rules look at it: its amount and count."""
    return Voucher(key.consumer, ZERO_ADDRESS, key.version_id, held.amount, held.count)
