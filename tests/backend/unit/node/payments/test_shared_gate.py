"""Two processes of a node behind one log: what one has issued, the other knows before it refuses or pays
twice."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import pytest
from assay.chain.views import Escrow
from assay.commitments.receipts import voucher_digest
from assay.errors import FatalError
from assay.node.errors import NotReproducible, PaymentError, Unavailable
from assay.node.payments.follower import Follower
from assay.node.payments.gate import Ticket
from assay.node.payments.shared_gate import SharedGate
from assay.node.payments.terms import Terms
from assay.node.receipts.entries import Acknowledge, ChannelKey, Issue, LoggedReceipt
from assay.node.receipts.log import ReceiptLog
from assay.node.receipts.postgresql import PostgresDatabase
from assay.node.receipts.shared_writer import SharedWriter
from assay.types import Hash32, Voucher

from tests.backend.unit.node.payments.test_gate import (
    CONSUMER,
    DOMAIN,
    INPUT,
    NODE,
    OTHER_INPUT,
    PRICE,
    SIGNER,
    VERSION,
    PlainLedger,
)

pytestmark = pytest.mark.network
KEY = ChannelKey(VERSION, CONSUMER.address)
OTHER_VERSION = Hash32(b"\x04" * 32)


class Process:
    """One process's gate and writer."""

    def __init__(self, database: PostgresDatabase, ledger: PlainLedger) -> None:
        self.log = ReceiptLog(database, DOMAIN, NODE)
        versions = (VERSION, OTHER_VERSION)
        self.follower = Follower(ledger, self.log, lambda: versions, max_age_seconds=1e9)
        self.gate = SharedGate(DOMAIN, self.log, self.follower, ledger, max_unacknowledged=4)
        self.failures: list[FatalError] = []
        self.writer = SharedWriter(self.log, SIGNER, self.failures.append, self.gate)

    async def start(self) -> None:
        await self.follower.poll()
        self.writer.start()

    async def admit(
        self, amount: int, count: int = 0, input_hash: Hash32 = INPUT, version: Hash32 = VERSION
    ) -> Ticket:
        terms = signed(amount, count, version)
        assert self.gate.admit_now(terms.consumer, terms.held, version, PRICE, input_hash) is None
        return await self.gate.admit(terms, version, PRICE, input_hash)

    async def issue(
        self, ticket: Ticket, input_hash: Hash32 = INPUT, output: Hash32 = INPUT
    ) -> LoggedReceipt:
        key = ticket.channel.key
        item = Issue(key, input_hash, output, ticket.price, ticket.voucher, ticket.payment)
        try:
            logged = await self.writer.submit(item)
        except Exception as error:
            self.gate.give_up(ticket, error)
            raise
        assert logged is not None
        self.gate.finish(ticket, logged)
        return logged

    async def serve(self, amount: int, count: int = 0, **options: Hash32) -> LoggedReceipt:
        return await self.issue(await self.admit(amount, count, **options))


def signed(amount: int, count: int, version: Hash32) -> Terms:
    voucher = Voucher(CONSUMER.address, NODE, version, amount, count)
    return Terms(CONSUMER.address, voucher, CONSUMER.sign(voucher_digest(DOMAIN, voucher)))


Scenario = Callable[[Process, Process], Awaitable[None]]


@pytest.fixture
def ledger() -> PlainLedger:
    return PlainLedger({CONSUMER.address: Escrow(100, 0, 0)})


@pytest.fixture
def play(shared_database: PostgresDatabase, ledger: PlainLedger) -> Iterator[Callable[[Scenario], None]]:
    """Runs a scenario with two processes."""

    async def run(scenario: Scenario) -> None:
        both = [Process(shared_database, ledger) for _ in range(2)]
        for process in both:
            await process.start()
        try:
            await scenario(*both)
        finally:
            for process in both:
                await process.writer.stop()
                process.log.close()
        assert [process.failures for process in both] == [[], []]

    yield lambda scenario: asyncio.run(run(scenario))


async def refused(awaitable: Awaitable[object]) -> str:
    with pytest.raises((PaymentError, Unavailable)) as caught:
        await awaitable
    return caught.value.code


def test_admit__requests_spread_over_processes__go_on_with_one_channel(
    play: Callable[[Scenario], None],
) -> None:
    async def scenario(first: Process, second: Process) -> None:
        for n in range(1, 9):
            logged = await (first if n % 2 else second).serve(n * PRICE, n - 1)
            assert logged.signed.receipt.sequence == n
        assert first.log.channel(KEY).charged == 8 * PRICE

    play(scenario)


def test_admit__same_voucher_at_the_other_process__gives_the_stored_receipt(
    play: Callable[[Scenario], None],
) -> None:
    async def scenario(first: Process, second: Process) -> None:
        one, two = await first.admit(PRICE), await second.admit(PRICE)  # at once: neither knows
        stored = await first.issue(one)
        assert await second.issue(two) == stored
        third = await second.admit(PRICE)
        assert third.repeated == stored
        second.gate.give_up(third)
        assert await refused(first.admit(PRICE, input_hash=OTHER_INPUT)) == "voucher_stale"
        assert first.log.channel(KEY).sequence == 1

    play(scenario)


def test_submit__stored_receipt_of_another_output__is_not_given(play: Callable[[Scenario], None]) -> None:
    async def scenario(first: Process, second: Process) -> None:
        one, two = await first.admit(PRICE), await second.admit(PRICE)
        await first.issue(one)
        with pytest.raises(NotReproducible):
            await second.issue(two, output=OTHER_INPUT)

    play(scenario)


def test_submit__voucher_spent_elsewhere_meanwhile__is_refused_and_charges_nothing(
    play: Callable[[Scenario], None],
) -> None:
    async def scenario(first: Process, second: Process) -> None:
        await first.serve(PRICE)
        late = await second.admit(2 * PRICE, 1)
        await first.serve(2 * PRICE + 1, 1, input_hash=OTHER_INPUT)
        assert await refused(second.issue(late)) == "voucher_stale"
        assert await refused(second.admit(2 * PRICE + 2, 2)) == "voucher_short"
        assert (await second.serve(3 * PRICE, 2)).signed.receipt.sequence == 3

    play(scenario)


def test_submit__escrow_promised_at_the_other_process__is_short(
    play: Callable[[Scenario], None], ledger: PlainLedger
) -> None:
    async def scenario(first: Process, second: Process) -> None:
        ledger.escrows[CONSUMER.address] = Escrow(2 * PRICE, 0, 0)
        await first.serve(PRICE)
        await second.serve(PRICE, version=OTHER_VERSION)
        late = await first.admit(2 * PRICE, 1)  # as far as it knows, there is enough
        assert await refused(first.issue(late)) == "escrow_short"
        assert await refused(first.admit(2 * PRICE, 1)) == "escrow_short"
        assert first.log.channel(KEY).charged == PRICE

    play(scenario)


def test_submit__escrow_funded_since_it_was_read__is_enough(
    play: Callable[[Scenario], None], ledger: PlainLedger
) -> None:
    async def scenario(first: Process, second: Process) -> None:
        ledger.escrows[CONSUMER.address] = Escrow(2 * PRICE, 0, 0)
        await first.serve(PRICE)
        await second.serve(PRICE, version=OTHER_VERSION)
        late = await first.admit(2 * PRICE, 1)
        ledger.escrows[CONSUMER.address] = Escrow(3 * PRICE, 0, 0)
        account = first.follower.known(CONSUMER.address)
        assert account is not None
        account.fetched_at = -1e6  # not just now
        assert (await first.issue(late)).signed.receipt.sequence == 2

    play(scenario)


def test_submit__escrow_that_was_paid_out__covers_what_it_has_paid(
    play: Callable[[Scenario], None], ledger: PlainLedger
) -> None:
    """Of an escrow that holds less than was promised since the node began: a part of that is settled."""

    async def scenario(first: Process, second: Process) -> None:
        await second.serve(PRICE)
        ledger.settled[CONSUMER.address] = PRICE
        ledger.escrows[CONSUMER.address] = Escrow(PRICE, 0, 0)
        assert (await first.serve(2 * PRICE, 1)).signed.receipt.sequence == 2
        assert await refused(first.serve(3 * PRICE, 2)) == "escrow_short"

    play(scenario)


def test_admit__paid_by_the_chain_what_another_accepted__is_no_lost_log(
    play: Callable[[Scenario], None], ledger: PlainLedger
) -> None:
    async def scenario(first: Process, second: Process) -> None:
        await second.serve(PRICE)
        await first.serve(2 * PRICE, 1)
        ledger.settled[CONSUMER.address] = 2 * PRICE
        ledger.escrows[CONSUMER.address] = Escrow(100 - 2 * PRICE, 0, 0)
        await second.follower.poll()
        assert (await second.serve(3 * PRICE, 2)).signed.receipt.sequence == 3

    play(scenario)


def test_admit__requests_in_flight_here_and_written__are_counted_once(
    play: Callable[[Scenario], None],
) -> None:
    async def scenario(first: Process, second: Process) -> None:
        mine = [await first.admit(n * PRICE) for n in (1, 2)]
        key = mine[0].channel.key
        one = Issue(key, INPUT, INPUT, PRICE, mine[0].voucher, mine[0].payment)
        await first.writer.submit(one)  # written, but the gate has not heard of it
        await second.serve(3 * PRICE, 1)
        await first.gate.look(CONSUMER.address)
        assert mine[0].channel.charged == 3 * PRICE
        assert (mine[0].channel.issued, mine[0].channel.held_amount) == (2, 3 * PRICE)
        await first.issue(mine[1])
        first.gate.give_up(mine[0])

    play(scenario)


def test_check_acknowledgement__of_what_another_issued__is_accepted(play: Callable[[Scenario], None]) -> None:
    async def scenario(first: Process, second: Process) -> None:
        await first.serve(PRICE)
        channel, held = await second.gate.check_acknowledgement(signed(PRICE, 1, VERSION), VERSION)
        assert await second.writer.submit(Acknowledge(channel.key, held)) is None
        assert first.log.channel(KEY).count == 1
        stale = second.gate.check_acknowledgement(signed(PRICE, 2, VERSION), VERSION)
        assert await refused(stale) == "voucher_stale"

    play(scenario)


def test_look__database_away__is_not_ready(
    shared_database: PostgresDatabase, ledger: PlainLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = Process(shared_database, ledger)
    nowhere = PostgresDatabase("postgresql://127.0.0.1:1/none?connect_timeout=1")
    monkeypatch.setattr(process.gate._reader, "_database", nowhere)

    async def scenario() -> None:
        await process.follower.poll()
        assert await refused(process.gate.look(CONSUMER.address)) == "not_ready"

    asyncio.run(scenario())
    process.log.close()
