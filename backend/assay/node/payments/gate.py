"""Admits paid requests: SPEC.md §7 checks (3) and (4), in that order, before any work."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from assay.commitments.receipts import digest_of_words, domain_separator, voucher_digest, voucher_words
from assay.commitments.signing import is_signed_by, recover
from assay.errors import RetryableError, VerificationError
from assay.node.errors import PaymentError, Unavailable
from assay.node.payments import accounts
from assay.node.payments.accounts import Channel, InFlight
from assay.node.payments.follower import Account, Follower
from assay.node.payments.ledger import Ledger
from assay.node.payments.terms import Terms
from assay.node.receipts.entries import HeldVoucher, LoggedReceipt
from assay.node.receipts.log import ReceiptLog
from assay.types import ZERO_ADDRESS, Address, Domain, Hash32, Voucher

MAX_WALLET_CHECKS: Final = 8
REMEMBERED_WALLET_CHECKS: Final = 4096

A = TypeVar("A")
T = TypeVar("T")


class Cover(Protocol):
    """Counts what requests put at risk: `admit` first, then one of the others."""

    def admit(self, price: int) -> None:
        """Raises Unavailable if the stake does not cover a receipt of that price beside those at risk."""
        ...

    def finish(self, price: int) -> None: ...

    def give_up(self, price: int) -> None: ...


@dataclass(slots=True)
class Ticket:
    """A request that was let in. `repeated` is the receipt it already has, if it is a repetition; `risk` its
    share of what the stake covers."""

    channel: Channel
    price: int
    voucher: HeldVoucher | None = None
    payment: Hash32 | None = None
    repeated: LoggedReceipt | None = None
    risk: int = 0


class Gate:
    """Belongs to the server's event loop."""

    def __init__(
        self,
        domain: Domain,
        log: ReceiptLog,
        follower: Follower,
        ledger: Ledger,
        *,
        max_unacknowledged: int = 64,
    ) -> None:
        self._domain = domain
        self._separator = b"\x19\x01" + domain_separator(domain)
        self._log = log
        self._is_shared = log.is_shared
        self._follower = follower
        self._ledger = ledger
        self._max_unacknowledged = max_unacknowledged
        self._wallet_checks = asyncio.Semaphore(MAX_WALLET_CHECKS)
        self._wallets: OrderedDict[tuple[str, bytes, bytes], None] = OrderedDict()
        self.cover: Cover | None = None

    async def admit(self, terms: Terms, version_id: Hash32, price: int, input_hash: Hash32) -> Ticket:
        """Check and reserve. Raises PaymentError, Unavailable. What it returns must go to `finish` or
        `give_up`."""
        voucher = terms.voucher
        wallet = voucher is not None and await self._check_signature(voucher, terms.signature)
        if wallet and price:
            await self._check_wallet(terms.consumer)
        account = self._follower.account(terms.consumer)
        channel = self._follower.channel(account, version_id)
        if voucher is None:
            accounts.reserve(channel, None, 0)
            return Ticket(channel, 0)
        held = HeldVoucher(voucher.amount, voucher.count, terms.signature, wallet)
        if not price:
            return self._admit_free(channel, voucher, held)
        payment = voucher_digest(self._domain, voucher)
        while True:
            repeated = await self._find_repeated(channel, voucher.amount, payment, input_hash)
            if repeated is not None:
                accounts.reserve(channel, None, 0)
                return Ticket(channel, 0, payment=payment, repeated=repeated)
            accounts.check_counts(channel, voucher, self._max_unacknowledged)
            accounts.check_coverage(channel, voucher, price)
            if not await self._cover(account, channel, voucher):
                break
        risk = self._take_risk(price)
        kept = held if accounts.raises_held(channel, voucher) else channel.unsaved
        accounts.reserve(channel, kept, price)
        account.promised = None
        channel.in_flight[payment] = InFlight(input_hash)
        return Ticket(channel, price, kept, payment, risk=risk)

    def admit_now(
        self,
        consumer: Address,
        voucher: HeldVoucher | None,
        version_id: Hash32,
        price: int,
        input_hash: Hash32,
    ) -> Ticket | None:
        """`admit` for who is known and covered and comes for the first time: what it does then, without
        waiting for anything. None: ask `admit`. Raises PaymentError, Unavailable."""
        account = self._follower.known(consumer)
        channel = account.channels.get(version_id) if account is not None else None
        if account is None or channel is None or self._is_shared:
            return None
        if voucher is None:
            self._follower.touch(account)
            accounts.reserve(channel, None, 0)
            return Ticket(channel, 0)
        payment = self._digest(channel, voucher)
        if payment in channel.in_flight or channel.might_have_paid(voucher.amount) or not price:
            return None
        if not is_signed_by(payment, voucher.signature, consumer):
            return None
        accounts.check_counts(channel, voucher, self._max_unacknowledged)
        accounts.check_coverage(channel, voucher, price)
        if not self._follower.stays_covered(account, channel, voucher.amount):
            return None
        risk = self._take_risk(price)
        kept = voucher if accounts.raises_held(channel, voucher) else channel.unsaved
        self._follower.touch(account)
        accounts.reserve(channel, kept, price)
        channel.in_flight[payment] = InFlight(input_hash)
        return Ticket(channel, price, kept, payment, risk=risk)

    def _digest(self, channel: Channel, voucher: HeldVoucher) -> Hash32:
        """`voucher_digest`; what is the same for all vouchers of a channel is put together once."""
        if not channel.words:
            key = channel.key
            channel.words = voucher_words(Voucher(key.consumer, self._log.node, key.version_id, 0, 0))
        return digest_of_words(self._separator, channel.words, voucher.amount, voucher.count)

    async def admit_prepaid(self, consumer: Address, version_id: Hash32, price: int) -> Ticket:
        """A request that is paid for outside of the vouchers: it takes the channel's next sequence and leaves
        its accounts alone. `price`: what it puts at risk; 0 if it is paid and must be served. Raises
        Unavailable. What it returns must go to `finish` or `give_up`."""
        account = self._follower.account(consumer)
        channel = self._follower.channel(account, version_id)
        if channel.settled is None:
            await self._follower.refresh(account)
        self._check_log(channel)
        risk = self._take_risk(price)
        accounts.reserve(channel, None, 0)
        return Ticket(channel, 0, risk=risk)

    def _take_risk(self, price: int) -> int:
        """Raises Unavailable."""
        if self.cover is None:
            return 0
        self.cover.admit(price)
        return price

    def _admit_free(self, channel: Channel, voucher: Voucher, held: HeldVoucher) -> Ticket:
        """A voucher with an unpaid request names the consumer, and acknowledges; it cannot raise what is
        owed."""
        accounts.check_counts(channel, voucher, self._max_unacknowledged)
        kept = (
            held if voucher.amount == channel.held_amount and accounts.raises_held(channel, voucher) else None
        )
        accounts.reserve(channel, kept, 0)
        return Ticket(channel, 0, kept)

    async def check_acknowledgement(self, terms: Terms, version_id: Hash32) -> tuple[Channel, HeldVoucher]:
        """A voucher without a request. Raises PaymentError, Unavailable."""
        voucher = terms.voucher
        assert voucher is not None
        wallet = await self._check_signature(voucher, terms.signature)
        account = self._follower.account(terms.consumer)
        channel = self._follower.channel(account, version_id)
        accounts.check_acknowledgement(channel, voucher)
        if voucher.amount > channel.held_amount:
            await self._cover(account, channel, voucher)
            accounts.check_acknowledgement(channel, voucher)
        held = HeldVoucher(voucher.amount, voucher.count, terms.signature, wallet)
        if accounts.raises_held(channel, voucher):
            channel.held = held
            account.promised = None
        return channel, held

    def is_stored(self, channel: Channel, voucher: HeldVoucher) -> bool:
        """Whether one that says the same is on disk: nothing is to be written."""
        kept = channel.durable
        return kept is not None and (kept.amount, kept.count) == (voucher.amount, voucher.count)

    def store(self, channel: Channel, voucher: HeldVoucher) -> None:
        """An acknowledgement is on disk."""
        accounts.store(channel, voucher)

    def finish(self, ticket: Ticket, receipt: LoggedReceipt) -> None:
        """The ticket's receipt is on disk."""
        if self.cover is not None:
            self.cover.finish(ticket.risk)
        payment, channel = ticket.payment, ticket.channel
        accounts.commit(channel, receipt, ticket.voucher, payment is not None)
        if payment is not None and (first := channel.in_flight.pop(payment, None)) and first.waiting:
            first.end(receipt)

    def give_up(self, ticket: Ticket, error: BaseException | None = None) -> None:
        """The request failed, or was a repetition: nothing is charged."""
        if self.cover is not None:
            self.cover.give_up(ticket.risk)
        accounts.release(ticket.channel, ticket.price)
        if ticket.repeated is not None or ticket.payment is None:
            return
        if waiting := ticket.channel.in_flight.pop(ticket.payment, None):
            waiting.end(
                error
                if isinstance(error, Exception)
                else Unavailable("the first of these requests was given up; repeat it")
            )

    def is_by_account(self, consumer: Address, voucher: HeldVoucher, version_id: Hash32) -> bool:
        """Whether the consumer's own key signed it, so that no wallet need be asked."""
        said = Voucher(consumer, self._log.node, version_id, voucher.amount, voucher.count)
        return is_signed_by(voucher_digest(self._domain, said), voucher.signature, consumer)

    async def _check_signature(self, voucher: Voucher, signature: bytes) -> bool:
        """Whether the consumer is a wallet contract. Raises PaymentError `voucher_signature`."""
        digest = voucher_digest(self._domain, voucher)
        try:
            if voucher.consumer != ZERO_ADDRESS and recover(digest, signature) == voucher.consumer:
                return False
            problem = "it recovers to another account"
        except VerificationError as error:
            problem = str(error)
        if voucher.consumer != ZERO_ADDRESS and await self._wallet_accepts(voucher, digest, signature):
            return True
        raise PaymentError(
            f"voucher is not signed by its consumer {voucher.consumer}: {problem}. Sign Voucher(consumer, "
            f"node "
            f"{voucher.node}, versionId 0x{voucher.version_id.hex()}, amount, count) for chain "
            f"{self._domain.chain_id}, "
            f"settlement {self._domain.settlement}",
            code="voucher_signature",
        )

    async def _check_wallet(self, consumer: Address) -> None:
        """A contract can accept a voucher here and refuse it on-chain; once. Raises PaymentError."""
        if await self._ask(self._log.has_taken_back, consumer):
            raise PaymentError(
                f"wallet {consumer} refused on-chain a voucher that it had signed, and owes it to this node; "
                "acknowledge what it owes with a signature that holds, or use another node",
                code="voucher_signature",
            )

    async def _wallet_accepts(self, voucher: Voucher, digest: bytes, signature: bytes) -> bool:
        key = (voucher.consumer, digest, signature)
        if key in self._wallets:
            return True
        if self._wallet_checks.locked():
            raise Unavailable("too many wallet signatures are being checked; try again", code="busy")
        async with self._wallet_checks:
            try:
                accepted = await asyncio.to_thread(
                    self._ledger.wallet_accepts, voucher.consumer, digest, signature
                )
            except RetryableError as error:
                raise Unavailable(
                    f"this node cannot check the wallet's signature: {error}; try again"
                ) from None
        if accepted:
            self._wallets[key] = None
            while len(self._wallets) > REMEMBERED_WALLET_CHECKS:
                self._wallets.popitem(last=False)
        return accepted

    async def _find_repeated(
        self, channel: Channel, amount: int, payment: Hash32, input_hash: Hash32
    ) -> LoggedReceipt | None:
        """The receipt that this voucher has, once it has it. Raises PaymentError if it pays for other
        inputs."""
        waiting = channel.in_flight.get(payment)
        if waiting is not None:
            if waiting.input_hash != input_hash:
                raise _used(None)
            return await waiting.wait()
        if not channel.might_have_paid(amount):
            return None
        logged = await self._ask(self._log.receipt_paid_by, payment)
        if logged is not None and logged.issued.input_hash != input_hash:
            raise _used(logged)
        return logged

    async def _ask(self, question: Callable[[A], T], about: A) -> T:
        """What the log answers: a SQLite one at once."""
        return question(about)

    def _check_log(self, channel: Channel) -> None:
        """Raises Unavailable."""
        if channel.is_behind_chain:
            raise Unavailable(
                f"the chain paid {channel.settled} on this channel, this node's log knows of "
                f"{channel.held_amount}: "
                "the log was lost, and signing on could contradict earlier receipts; use another node",
                retry_after=3600,
            )

    async def _cover(self, account: Account, channel: Channel, voucher: Voucher) -> bool:
        """SPEC.md §7 (4). True if it had to wait, so that checks (3) must be repeated. Raises PaymentError
        `escrow_short`."""
        waited = False
        if not self._follower.is_covered(account, max(voucher.amount - channel.held_amount, 0)):
            await self._follower.refresh(account)
            waited = True
        self._check_log(channel)
        more = max(voucher.amount - channel.held_amount, 0)
        if not self._follower.is_covered(account, more):
            escrow = account.escrow
            raise PaymentError(
                f"escrow of {account.consumer} with node {voucher.node} holds {escrow.balance}, of which "
                f"{escrow.thawing} thaw, and {account.owed + more} would be owed; fund it, or cancel the "
                f"thaw",
                code="escrow_short",
            )
        return waited


def _used(logged: LoggedReceipt | None) -> PaymentError:
    which = f"receipt 0x{logged.digest.hex()}" if logged else "a request that is being served"
    return PaymentError(
        f"voucher has paid for {which} with other inputs; sign a new one with a greater amount",
        code="voucher_stale",
    )
