"""Admission: signatures, wallets, escrow that follows the chain, repetitions; with a ledger of plain
numbers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from assay.chain.views import Escrow, Offer
from assay.commitments.receipts import voucher_digest
from assay.commitments.signing import SigningKey
from assay.errors import FatalError, RetryableError
from assay.node.errors import PaymentError, Unavailable
from assay.node.payments.follower import Account, Follower
from assay.node.payments.gate import Gate, Ticket
from assay.node.payments.ledger import NO_ESCROW, AccountView, NodeView
from assay.node.payments.terms import Terms
from assay.node.receipts.database import SqliteDatabase
from assay.node.receipts.entries import ChannelKey, HeldVoucher, Issue, LoggedReceipt
from assay.node.receipts.log import ReceiptLog
from assay.types import Address, Domain, Hash32, VersionStatus, Voucher

pytestmark = pytest.mark.network  # an event loop needs a socket pair

DOMAIN = Domain(31337, Address("0x" + "11" * 20))
NODE = SigningKey(b"\x07" * 32).address
SIGNER = SigningKey(b"\x08" * 32)
CONSUMER = SigningKey(b"\x09" * 32)
VERSION = Hash32(b"\x01" * 32)
INPUT = Hash32(b"\x02" * 32)
OTHER_INPUT = Hash32(b"\x03" * 32)
PRICE = 5


@dataclass
class PlainLedger:
    """Answers what it is told, and counts how often it was asked."""

    escrows: dict[Address, Escrow] = field(default_factory=dict)
    settled: dict[Address, int] = field(default_factory=dict)
    wallets: set[bytes] = field(default_factory=set)
    asked: int = 0
    down: bool = False

    def node_view(self, versions: Iterable[Hash32]) -> NodeView:
        if self.down:
            raise RetryableError("down")
        ids = tuple(versions)
        offers = dict.fromkeys(ids, Offer(PRICE, True))
        statuses = dict.fromkeys(ids, VersionStatus.ACTIVE)
        return NodeView(1, 1_000_000, SIGNER.address, True, offers, statuses)

    def account_views(
        self, channels: Mapping[Address, Iterable[Hash32]], block: int | None = None
    ) -> Mapping[Address, AccountView]:
        self.asked += 1
        if self.down:
            raise RetryableError("down")
        return {
            consumer: AccountView(
                self.escrows.get(consumer, NO_ESCROW),
                {version: self.settled.get(consumer, 0) for version in versions},
            )
            for consumer, versions in channels.items()
        }

    def wallet_accepts(self, consumer: Address, digest: bytes, signature: bytes) -> bool:
        self.asked += 1
        return signature in self.wallets


class CountedCover:
    """What was asked of it, in order."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int]] = []
        self.limit = 1_000

    def admit(self, price: int) -> None:
        if price > self.limit:
            self.events.append(("refuse", price))
            raise Unavailable("the stake does not cover it", code="stake_exhausted")
        self.events.append(("admit", price))

    def finish(self, price: int) -> None:
        self.events.append(("finish", price))

    def give_up(self, price: int) -> None:
        self.events.append(("give_up", price))


class Desk:
    """A gate with its log, ledger and clock."""

    def __init__(self, folder: Path) -> None:
        self.now = 0.0
        self.ledger = PlainLedger({CONSUMER.address: Escrow(100, 0, 0)})
        self.log = ReceiptLog(SqliteDatabase(folder / "log.sqlite3"), DOMAIN, NODE)
        self.follower = Follower(
            self.ledger, self.log, lambda: (VERSION,), max_age_seconds=30, clock=lambda: self.now
        )
        self.gate = Gate(DOMAIN, self.log, self.follower, self.ledger, max_unacknowledged=4)

    async def admit(
        self, amount: int, count: int = 0, input_hash: Hash32 = INPUT, **options: object
    ) -> Ticket:
        terms = self.terms(amount, count, **options)
        return await self.gate.admit(terms, VERSION, PRICE, input_hash)

    def admit_now(self, amount: int, count: int, input_hash: Hash32) -> Ticket | None:
        terms = self.terms(amount, count)
        return self.gate.admit_now(terms.consumer, terms.held, VERSION, PRICE, input_hash)

    @property
    def account(self) -> Account:
        return self.follower.account(CONSUMER.address)

    def terms(self, amount: int, count: int, **options: object) -> Terms:
        voucher = Voucher(CONSUMER.address, NODE, VERSION, amount, count)
        signature = options.get("signature") or CONSUMER.sign(voucher_digest(DOMAIN, voucher))
        assert isinstance(signature, bytes)
        return Terms(CONSUMER.address, voucher, signature)

    def finish(self, ticket: Ticket, input_hash: Hash32 = INPUT) -> None:
        key = ChannelKey(VERSION, CONSUMER.address)
        issue = Issue(key, input_hash, input_hash, ticket.price, ticket.voucher, ticket.payment)
        (logged,) = self.log.write([issue], SIGNER)
        assert isinstance(logged, LoggedReceipt)
        self.gate.finish(ticket, logged)

    async def serve(self, amount: int, count: int = 0, input_hash: Hash32 = INPUT) -> Ticket:
        ticket = await self.admit(amount, count, input_hash)
        self.finish(ticket, input_hash)
        return ticket


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    asyncio.run(made.follower.poll())
    yield made
    made.log.close()


async def refused(desk: Desk, amount: int, count: int = 0, input_hash: Hash32 = INPUT) -> str:
    with pytest.raises((PaymentError, Unavailable)) as caught:
        await desk.admit(amount, count, input_hash)
    return caught.value.code


def test_admit__steady_state__asks_the_chain_once(desk: Desk) -> None:
    async def scenario() -> None:
        for n in range(1, 11):
            await desk.serve(n * PRICE, n - 1)

    asyncio.run(scenario())
    assert desk.ledger.asked == 1
    assert desk.log.channel(ChannelKey(VERSION, CONSUMER.address)).charged == 50


def test_admit__view_too_old__asks_again(desk: Desk) -> None:
    async def scenario() -> None:
        await desk.serve(PRICE)
        desk.now = 31.0
        await desk.follower.poll()
        desk.now = 62.0
        await desk.follower.poll()
        await desk.serve(2 * PRICE, 1)

    asyncio.run(scenario())
    assert desk.ledger.asked >= 2


def test_admit__chain_unreachable__is_not_ready(desk: Desk) -> None:
    desk.ledger.down = True
    assert asyncio.run(refused(desk, PRICE)) == "not_ready"


def test_admit__funded_after_a_refusal__is_seen(desk: Desk) -> None:
    async def scenario() -> None:
        desk.ledger.escrows[CONSUMER.address] = Escrow(4, 0, 0)
        assert await refused(desk, PRICE) == "escrow_short"
        desk.ledger.escrows[CONSUMER.address] = Escrow(5, 0, 0)
        desk.now = 1.0
        await desk.serve(PRICE)

    asyncio.run(scenario())


@pytest.mark.parametrize(("thaw_at", "covered"), [(1_000_301, True), (1_000_300, False), (1, False)])
def test_admit__thawing_money__covers_while_it_cannot_leave(desk: Desk, thaw_at: int, covered: bool) -> None:
    desk.ledger.escrows[CONSUMER.address] = Escrow(100, 100, thaw_at)
    if covered:
        asyncio.run(desk.serve(PRICE))
    else:
        assert asyncio.run(refused(desk, PRICE)) == "escrow_short"


def test_admit__requests_in_flight__share_one_escrow(desk: Desk) -> None:
    async def scenario() -> None:
        desk.ledger.escrows[CONSUMER.address] = Escrow(2 * PRICE, 0, 0)
        await desk.admit(PRICE, input_hash=INPUT)
        await desk.admit(2 * PRICE, input_hash=OTHER_INPUT)
        desk.now = 1.0
        assert await refused(desk, 3 * PRICE) == "escrow_short"

    asyncio.run(scenario())


def test_admit__settled_by_the_chain__frees_no_more_than_was_owed(desk: Desk) -> None:
    async def scenario() -> None:
        desk.ledger.escrows[CONSUMER.address] = Escrow(PRICE, 0, 0)
        await desk.serve(PRICE)
        desk.ledger.escrows[CONSUMER.address] = Escrow(0, 0, 0)
        desk.ledger.settled[CONSUMER.address] = PRICE
        await desk.follower.poll()
        assert await refused(desk, 2 * PRICE, 1) == "escrow_short"

    asyncio.run(scenario())


def test_admit__log_behind_the_chain__refuses_to_sign(desk: Desk) -> None:
    desk.ledger.settled[CONSUMER.address] = 50
    assert asyncio.run(refused(desk, 60)) == "not_ready"


def test_admit_now__log_behind_the_chain__is_left_to_admit(desk: Desk) -> None:
    async def scenario() -> None:
        ticket = await desk.serve(PRICE)
        ticket.channel.settled = PRICE
        assert desk.admit_now(2 * PRICE, 1, OTHER_INPUT) is not None
        ticket.channel.settled = 2 * PRICE + 1
        assert desk.admit_now(3 * PRICE, 1, Hash32(b"\x05" * 32)) is None

    asyncio.run(scenario())


def test_admit__same_voucher_and_input_in_flight__waits_for_the_first(desk: Desk) -> None:
    async def scenario() -> None:
        first = await desk.admit(PRICE)
        second = asyncio.create_task(desk.admit(PRICE))
        await asyncio.sleep(0)
        desk.finish(first)
        repeated = (await second).repeated
        assert repeated is not None
        assert repeated.signed.receipt.sequence == 1
        assert await refused(desk, PRICE, 0, OTHER_INPUT) == "voucher_stale"

    asyncio.run(scenario())


def test_admit__first_request_fails__voucher_pays_for_another(desk: Desk) -> None:
    async def scenario() -> None:
        first = await desk.admit(PRICE)
        desk.gate.give_up(first)
        await desk.serve(PRICE, 0, OTHER_INPUT)

    asyncio.run(scenario())
    assert desk.log.channel(ChannelKey(VERSION, CONSUMER.address)).sequence == 1


def test_admit__covered_by_a_failed_requests_voucher__keeps_that_one(desk: Desk) -> None:
    """What covers a receipt is on disk with it: else a node would serve on credit that nobody can collect."""

    async def scenario() -> None:
        failed = await desk.admit(10 * PRICE, input_hash=OTHER_INPUT)
        desk.gate.give_up(failed)
        await desk.serve(PRICE)
        await desk.serve(2 * PRICE)

    asyncio.run(scenario())
    state = desk.log.channel(ChannelKey(VERSION, CONSUMER.address))
    assert (state.charged, state.amount) == (2 * PRICE, 10 * PRICE)


def test_admit__two_versions_at_once__both_are_covered(desk: Desk) -> None:
    other = Hash32(b"\x04" * 32)
    gate = threading.Event()
    views = desk.ledger.account_views

    def slow(
        channels: Mapping[Address, Iterable[Hash32]], block: int | None = None
    ) -> Mapping[Address, AccountView]:
        gate.wait(5)
        return views(channels, block)

    desk.ledger.account_views = slow  # type: ignore[method-assign]

    async def scenario() -> None:
        first = asyncio.create_task(desk.admit(PRICE))
        await asyncio.sleep(0.05)
        voucher = Voucher(CONSUMER.address, NODE, other, PRICE, 0)
        terms = Terms(CONSUMER.address, voucher, CONSUMER.sign(voucher_digest(DOMAIN, voucher)))
        second = asyncio.create_task(desk.gate.admit(terms, other, PRICE, INPUT))
        await asyncio.sleep(0.05)
        gate.set()
        await asyncio.gather(first, second)

    asyncio.run(scenario())


def test_admit__after_a_restart__knows_the_vouchers_that_paid(desk: Desk) -> None:
    asyncio.run(desk.serve(PRICE))
    follower = Follower(desk.ledger, desk.log, lambda: (VERSION,), clock=lambda: 0.0)
    gate = Gate(DOMAIN, desk.log, follower, desk.ledger)

    async def scenario() -> None:
        await follower.poll()
        ticket = await gate.admit(desk.terms(PRICE, 0), VERSION, PRICE, INPUT)
        assert ticket.repeated is not None
        with pytest.raises(PaymentError):
            await gate.admit(desk.terms(PRICE, 0), VERSION, PRICE, OTHER_INPUT)

    asyncio.run(scenario())


@pytest.mark.parametrize("accepted", [True, False])
def test_admit__wallet_signature__is_the_contracts_to_judge(desk: Desk, accepted: bool) -> None:
    signature = b"\x55" * 65
    if accepted:
        desk.ledger.wallets.add(signature)

    async def scenario() -> None:
        if not accepted:
            with pytest.raises(PaymentError) as caught:
                await desk.admit(PRICE, signature=signature)
            assert caught.value.code == "voucher_signature"
            return
        ticket = await desk.admit(PRICE, signature=signature)
        assert ticket.voucher == HeldVoucher(PRICE, 0, signature, wallet=True)

    asyncio.run(scenario())


def test_admit__wallet_that_took_a_signature_back__is_refused(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    signature = b"\x55" * 65
    desk.ledger.wallets.add(signature)
    monkeypatch.setattr(desk.log, "has_taken_back", lambda consumer: consumer == CONSUMER.address)

    async def scenario() -> None:
        with pytest.raises(PaymentError, match="owes it to this node"):
            await desk.admit(PRICE, signature=signature)
        _, held = await desk.gate.check_acknowledgement(desk.terms(PRICE, 0, signature=signature), VERSION)
        assert held.wallet

    asyncio.run(scenario())


def test_admit__unpaid_request__charges_nothing_and_needs_no_escrow(desk: Desk) -> None:
    async def scenario() -> None:
        ticket = await desk.gate.admit(Terms(CONSUMER.address), VERSION, 0, INPUT)
        desk.finish(ticket)

    asyncio.run(scenario())
    assert desk.ledger.asked == 0
    assert desk.log.channel(ChannelKey(VERSION, CONSUMER.address)).unpaid == 1


def test_admit_now__more_at_risk_than_the_stake__is_refused_and_reserves_nothing(desk: Desk) -> None:
    cover = CountedCover()

    async def scenario() -> None:
        ticket = await desk.serve(PRICE)
        desk.gate.cover, cover.limit = cover, 0
        with pytest.raises(Unavailable):
            desk.admit_now(2 * PRICE, 1, OTHER_INPUT)
        assert (ticket.channel.charged, ticket.channel.held_amount, ticket.channel.pending) == (
            PRICE,
            PRICE,
            0,
        )
        assert not ticket.channel.in_flight

    asyncio.run(scenario())
    assert cover.events == [("refuse", PRICE)]


def test_give_up__request_had_a_share_of_the_cover__gives_it_back(desk: Desk) -> None:
    """Whatever way it came in, and whatever became of it."""
    desk.gate.cover = cover = CountedCover()

    async def scenario() -> None:
        await desk.serve(PRICE)
        again = await desk.admit(PRICE)
        assert again.repeated is not None
        desk.gate.give_up(again)
        desk.gate.give_up(await desk.admit(2 * PRICE, 1, OTHER_INPUT))
        now = desk.admit_now(2 * PRICE, 1, Hash32(b"\x04" * 32))
        assert now is not None
        desk.gate.give_up(now)
        desk.gate.give_up(await desk.gate.admit_prepaid(CONSUMER.address, VERSION, PRICE))
        assert await refused(desk, 1_000, 1, OTHER_INPUT) == "escrow_short"

    asyncio.run(scenario())
    assert [event for event in cover.events if event[1]] == [
        ("admit", PRICE),
        ("finish", PRICE),
        *[("admit", PRICE), ("give_up", PRICE)] * 3,
    ]


def test_is_stored__acknowledgement_sent_again__is_not_written_again(desk: Desk) -> None:
    async def scenario() -> list[bool]:
        await desk.serve(PRICE)
        found = []
        for count in (0, 1, 1):
            channel, held = await desk.gate.check_acknowledgement(desk.terms(PRICE, count), VERSION)
            found.append(desk.gate.is_stored(channel, held))
            desk.gate.store(channel, held)
        return found

    assert asyncio.run(scenario()) == [True, False, True]


class Surprising(PlainLedger):
    """Answers in a way that nobody expects, while told to."""

    surprises: int = 0

    def node_view(self, versions: Iterable[Hash32]) -> NodeView:
        if self.surprises:
            self.surprises -= 1
            raise FatalError("the endpoint speaks of another chain")
        return super().node_view(versions)


def test_run__chain_answers_what_nobody_expects__is_followed_on(desk: Desk) -> None:
    ledger = Surprising()

    async def scenario() -> None:
        follower = Follower(ledger, desk.log, lambda: (VERSION,), poll_seconds=0.01)
        await follower.start()
        first, ledger.surprises = follower.view, 3
        async with asyncio.timeout(10):
            while follower.last_view is first:  # noqa: ASYNC110 - the thing under test tells nobody
                await asyncio.sleep(0.01)
        assert ledger.surprises == 0
        await follower.stop()

    asyncio.run(scenario())


# --- what the escrow covers, without asking --------------------------------------------------------------


@pytest.mark.parametrize("between", ["nothing", "admit", "acknowledge"])
def test_admit_now__one_after_another__never_promise_more_than_the_escrow(desk: Desk, between: str) -> None:
    async def scenario() -> None:
        desk.ledger.escrows[CONSUMER.address] = Escrow((2 if between == "nothing" else 3) * PRICE, 0, 0)
        await desk.serve(PRICE)
        assert desk.admit_now(2 * PRICE, 1, OTHER_INPUT) is not None
        if between == "admit":
            await desk.admit(3 * PRICE, 1, Hash32(b"\x04" * 32))
        elif between == "acknowledge":
            await desk.gate.check_acknowledgement(desk.terms(3 * PRICE, 1), VERSION)
        assert desk.admit_now(desk.account.owed + PRICE, 1, Hash32(b"\x05" * 32)) is None
        desk.now = 1.0
        assert await refused(desk, desk.account.owed + PRICE, 1, Hash32(b"\x05" * 32)) == "escrow_short"

    asyncio.run(scenario())


def test_admit_now__escrow_seen_too_long_ago__is_left_to_admit(desk: Desk) -> None:
    async def scenario() -> None:
        await desk.serve(PRICE)
        desk.now = 31.0
        await desk.follower.poll()
        desk.account.fetched_at = 0.5
        assert desk.admit_now(2 * PRICE, 1, OTHER_INPUT) is None
        desk.account.fetched_at = 1.0
        assert desk.admit_now(2 * PRICE, 1, OTHER_INPUT) is not None

    asyncio.run(scenario())


def test_admit_now__covered_by_a_failed_requests_voucher__keeps_that_one(desk: Desk) -> None:
    async def scenario() -> None:
        await desk.serve(PRICE)
        failed = desk.admit_now(3 * PRICE, 1, OTHER_INPUT)
        assert failed is not None
        desk.gate.give_up(failed)
        ticket = desk.admit_now(2 * PRICE, 1, OTHER_INPUT)
        assert ticket is not None and ticket.voucher is not None
        assert ticket.voucher.amount == 3 * PRICE

    asyncio.run(scenario())


def test_admit__two_wait_for_the_chain__what_the_first_is_charged_counts_for_the_second(desk: Desk) -> None:
    """Each alone is covered by its voucher when it begins to wait, both together are not."""

    async def scenario() -> None:
        both = [desk.admit(PRICE, 0, INPUT), desk.admit(PRICE + 1, 0, OTHER_INPUT)]
        first, second = await asyncio.gather(*both, return_exceptions=True)
        assert isinstance(first, Ticket)
        assert isinstance(second, PaymentError)
        assert second.code == "voucher_short"

    asyncio.run(scenario())
