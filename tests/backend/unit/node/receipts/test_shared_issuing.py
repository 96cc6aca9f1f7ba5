"""Receipts in a log that several processes write to: each item on its own, no sequence twice, no doubt."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace

import pytest
from assay.commitments.receipts import receipt_digest
from assay.commitments.signing import SigningKey, recover
from assay.errors import FatalError, RetryableError
from assay.node.errors import PaymentError, Unavailable
from assay.node.payments.shared_channels import Locked
from assay.node.receipts.entries import (
    Acknowledge,
    AlreadyIssued,
    ChannelKey,
    HeldVoucher,
    Issue,
    LoggedReceipt,
)
from assay.node.receipts.log import ReceiptLog, read_data
from assay.node.receipts.postgresql import PostgresDatabase
from assay.node.receipts.shared_issuing import Fresh, Item, Outcome, SharedIssuer
from assay.types import Hash32

from tests.backend.unit.node.receipts.test_log import (
    CONSUMER,
    DATA,
    DOMAIN,
    KEY,
    NODE,
    SIGNER,
    VERSION,
    issue,
)
from tests.support.postgresql import Cluster

pytestmark = pytest.mark.network

OTHER = ChannelKey(Hash32(b"\x02" * 32), CONSUMER)
STRANGER = ChannelKey(VERSION, SigningKey(b"\x0a" * 32).address)


@pytest.fixture
def log(shared_database: PostgresDatabase) -> Iterator[ReceiptLog]:
    made = ReceiptLog(shared_database, DOMAIN, NODE, clock=lambda: 1_800_000_000)
    yield made
    made.close()


def code(outcome: object) -> str:
    assert isinstance(outcome, PaymentError), outcome
    return outcome.code


def test_write__receipts_of_several_channels__are_signed_with_sequences_from_one(log: ReceiptLog) -> None:
    free = Issue(STRANGER, VERSION, VERSION, 0, data=DATA.to_bytes(), public=True)
    outcomes = log.write([issue(1), free, issue(2), issue(1, key=OTHER, payment=9), free], SIGNER)
    receipts = [outcome for outcome in outcomes if isinstance(outcome, LoggedReceipt)]
    assert [one.signed.receipt.sequence for one in receipts] == [1, 1, 2, 1, 2]
    for logged in receipts:
        assert logged.digest == receipt_digest(DOMAIN, logged.signed.receipt)
        assert recover(logged.digest, logged.signed.signature) == SIGNER.address
        assert log.receipt(logged.digest) == logged
    assert log.receipt_count() == 5
    with log.database.session() as connection:
        assert read_data(connection, receipts[1].digest) == DATA


def test_write__two_processes_by_turns__go_on_with_each_others_sequences(log: ReceiptLog) -> None:
    with closing(SharedIssuer(_of(log), DOMAIN, NODE)) as second:
        writers: list[ReceiptLog | SharedIssuer] = [log, second, log, second]
        taken = [each.write([issue(n)], SIGNER)[0] for n, each in enumerate(writers, 1)]
    assert [one.signed.receipt.sequence for one in taken if isinstance(one, LoggedReceipt)] == [1, 2, 3, 4]
    assert log.channel(KEY).charged == 20


def test_write__payment_that_has_a_receipt__answers_that_one(log: ReceiptLog) -> None:
    (first,) = log.write([issue(1)], SIGNER)
    again, fresh = log.write([issue(1), issue(2)], SIGNER)
    assert isinstance(again, AlreadyIssued)
    assert again.receipt == first
    assert isinstance(fresh, LoggedReceipt)
    other = replace(issue(2), input_hash=VERSION)
    twice = issue(3)
    assert code(log.write([other], SIGNER)[0]) == "voucher_stale"
    _, in_one_group = log.write([twice, twice], SIGNER)
    assert isinstance(in_one_group, AlreadyIssued)
    assert log.channel(KEY).sequence == 3


def test_write__voucher_spent_by_another_process__is_refused_alone(log: ReceiptLog) -> None:
    """What a gate may let in that has not heard of the first receipt yet."""
    log.write([issue(1)], SIGNER)
    short = replace(issue(1, payment=7), voucher=HeldVoucher(5, 0, b"\x01" * 65))
    growing = replace(issue(1, payment=8), voucher=HeldVoucher(9, 0, b"\x01" * 65))
    first, second, third = log.write([short, issue(2), growing], SIGNER)
    assert (code(first), code(third)) == ("voucher_stale", "voucher_stale")
    assert isinstance(second, LoggedReceipt)
    more = replace(issue(1, payment=8), voucher=HeldVoucher(11, 1, b"\x01" * 65))
    assert code(log.write([more], SIGNER)[0]) == "voucher_short"
    assert log.channel(KEY).charged == 10


def test_write__count_that_fell_or_counts_too_much__is_stale(log: ReceiptLog) -> None:
    log.write([issue(1), issue(2)], SIGNER)
    fell = replace(issue(3), voucher=HeldVoucher(15, 0, b"\x01" * 65))
    ahead = replace(issue(3), voucher=HeldVoucher(15, 3, b"\x01" * 65))
    assert [code(one) for one in log.write([fell, ahead], SIGNER)] == ["voucher_stale"] * 2


def test_write__escrow_promised_on_another_channel__is_short(log: ReceiptLog) -> None:
    outcomes = log.write(
        [
            replace(issue(1), ceiling=7),
            replace(issue(1, key=OTHER, payment=9), ceiling=7),
            replace(issue(1, key=OTHER, payment=9), ceiling=10),
        ],
        SIGNER,
    )
    assert isinstance(outcomes[0], LoggedReceipt)
    assert code(outcomes[1]) == "escrow_short"
    assert isinstance(outcomes[2], LoggedReceipt)


def test_write__acknowledgements__raise_what_is_held_and_never_lower_it(log: ReceiptLog) -> None:
    log.write([issue(1)], SIGNER)
    assert log.write([Acknowledge(KEY, HeldVoucher(5, 1, b"\x33" * 65))], SIGNER) == [None]
    behind, over = log.write(
        [
            Acknowledge(KEY, HeldVoucher(5, 0, b"\x44" * 65)),
            Acknowledge(KEY, HeldVoucher(50, 1, b"\x44" * 65), ceiling=40),
        ],
        SIGNER,
    )
    assert (code(behind), code(over)) == ("voucher_stale", "escrow_short")
    state = log.channel(KEY)
    assert (state.amount, state.count, state.sequence) == (5, 1, 1)


def test_write__prepaid__leaves_what_is_charged_alone(log: ReceiptLog) -> None:
    prepaid = Issue(KEY, VERSION, VERSION, 30, payment=Hash32(b"\x77" * 32), prepaid=True)
    assert isinstance(log.write([prepaid], SIGNER)[0], LoggedReceipt)
    assert isinstance(log.write([prepaid], SIGNER)[0], AlreadyIssued)
    state = log.channel(KEY)
    assert (state.charged, state.unpaid, state.sequence) == (0, 1, 1)
    with log.database.session() as connection:
        (row,) = connection.execute("SELECT prepaid FROM channels")
    assert int.from_bytes(row[0], "big") == 30


def test_write__many_writers_at_once__give_every_sequence_once(log: ReceiptLog) -> None:
    """Consumers in other orders in each group: locks are taken in one order, so nobody waits for ever."""
    keys = [ChannelKey(VERSION, SigningKey(bytes([n]) * 32).address) for n in range(1, 6)]
    taken: list[LoggedReceipt] = []

    def write(number: int) -> None:
        with closing(SharedIssuer(_of(log), DOMAIN, NODE)) as issuer:
            for turn in range(6):
                order = keys if (number + turn) % 2 else keys[::-1]
                items = [Issue(key, VERSION, VERSION, 0) for key in order]
                taken.extend(one for one in issuer.write(items, SIGNER) if isinstance(one, LoggedReceipt))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for key in keys:
        mine = [one.signed.receipt for one in taken if one.signed.receipt.consumer == key.consumer]
        assert sorted(one.sequence for one in mine) == list(range(1, 25))
        assert log.channel(key).sequence == 24


class Interrupted(SharedIssuer):
    """Loses its connection once, before or after a commit."""

    def __init__(self, database: PostgresDatabase, *, committed: bool) -> None:
        super().__init__(database, DOMAIN, NODE, sleep=lambda _: None)
        self.committed = committed
        self.tries = 0

    def _attempt(
        self, items: Sequence[Item], key: SigningKey, doubtful: dict[Hash32, list[Outcome]]
    ) -> list[Outcome]:
        self.tries += 1
        if self.tries > 1:
            return super()._attempt(items, key, doubtful)
        if self.committed:
            super()._attempt(items, key, doubtful)
        self._connection.close()
        raise RetryableError("the answer was lost")


@pytest.mark.parametrize("committed", [True, False])
def test_write__answer_to_the_commit_lost__is_looked_up_and_issued_once(
    log: ReceiptLog, committed: bool
) -> None:
    free = Issue(STRANGER, VERSION, VERSION, 0)
    with closing(Interrupted(_of(log), committed=committed)) as issuer:
        paid, unpaid, refused = issuer.write([issue(1), free, issue(9, payment=4)], SIGNER)
    assert issuer.tries == 2
    assert isinstance(paid, LoggedReceipt)
    assert isinstance(unpaid, LoggedReceipt)
    assert code(refused) == "voucher_stale"
    assert (log.channel(KEY).sequence, log.channel(STRANGER).sequence, log.receipt_count()) == (1, 1, 2)
    assert log.receipt(unpaid.digest) == unpaid


def test_write__backend_ended_meanwhile__goes_on_by_itself(log: ReceiptLog, postgresql: Cluster) -> None:
    log.write([issue(1)], SIGNER)
    assert postgresql.terminate_backends(postgresql.url()) > 0
    (second,) = log.write([issue(2)], SIGNER)
    assert isinstance(second, LoggedReceipt)
    assert second.signed.receipt.sequence == 2


class Paused(SharedIssuer):
    """Stops, once, between the locks and the rows, until it is woken up."""

    def __init__(self, database: PostgresDatabase) -> None:
        super().__init__(database, DOMAIN, NODE)
        self.stopped, self.woken = threading.Event(), threading.Event()

    def _issue_all(
        self, items: Sequence[Item], locked: Locked, key: SigningKey
    ) -> tuple[list[Outcome], list[Fresh]]:
        self.stopped.set()
        assert self.woken.wait(20)
        return super()._issue_all(items, locked, key)


def test_write__process_stopped_with_its_rows_locked__gives_them_up_and_issues_anew(log: ReceiptLog) -> None:
    """The server ends the session of who does not go on, as if it had lost its connection."""
    taken: list[Outcome] = []
    with closing(Paused(_of(log))) as issuer:
        issuer._connection.execute("SELECT set_config('idle_in_transaction_session_timeout', '100ms', false)")
        thread = threading.Thread(target=lambda: taken.extend(issuer.write([issue(2)], SIGNER)))
        thread.start()
        try:
            assert issuer.stopped.wait(10)
            started = time.monotonic()
            taken += log.write([issue(1)], SIGNER)
            assert time.monotonic() - started < 10
        finally:
            issuer.woken.set()
            thread.join(30)
    assert [one.signed.receipt.sequence for one in taken if isinstance(one, LoggedReceipt)] == [1, 2]


def test_write__server_takes_no_writes_for_a_while__is_connected_to_anew(
    log: ReceiptLog, postgresql: Cluster
) -> None:
    """The session is alive; another server may take writes by now."""
    with closing(SharedIssuer(_of(log), DOMAIN, NODE)) as issuer:
        issuer.write([issue(1)], SIGNER)
        before = issuer._connection.ensure_open().info.backend_pid
        issuer._connection.execute("SELECT set_config('default_transaction_read_only', 'on', false)")
        (second,) = issuer.write([issue(2)], SIGNER)
        assert isinstance(second, LoggedReceipt)
        assert issuer._connection.ensure_open().info.backend_pid != before


@pytest.mark.parametrize("table", ["channels", "consumers"])
def test_write__rows_lost_before_a_receipt__are_made_anew(log: ReceiptLog, table: str) -> None:
    """They were committed on a server that another took over from, which had not got them."""
    key = ChannelKey(VERSION, SIGNER.address)
    stale = replace(issue(1, key=key), voucher=HeldVoucher(1, 0, b"\x01" * 65))
    assert code(log.write([stale], SIGNER)[0]) == "voucher_short"
    with closing(_of(log).connect()) as server:
        server.execute(f"DELETE FROM {table}")
    (taken,) = log.write([issue(1, key=key)], SIGNER)
    assert isinstance(taken, LoggedReceipt)
    with log.database.session() as db:
        assert db.execute("SELECT count(*) FROM consumers").fetchone() == (1,)


def test_write__database_away__refuses_for_now(shared_database: PostgresDatabase) -> None:
    ReceiptLog(shared_database, DOMAIN, NODE).close()
    nowhere = PostgresDatabase("postgresql://127.0.0.1:1/none?connect_timeout=1")
    with closing(SharedIssuer(nowhere, DOMAIN, NODE, retry_seconds=0.1)) as issuer:
        (outcome,) = issuer.write([issue(1)], SIGNER)
    assert isinstance(outcome, Unavailable)


@pytest.mark.parametrize("lost", ["a receipt", "the channel"])
def test_write__log_that_lost_what_it_had_confirmed__signs_no_sequence_twice(
    log: ReceiptLog, lost: str
) -> None:
    """As a standby leaves it that was behind when it was promoted."""
    log.write([issue(1), issue(2)], SIGNER)
    with closing(_of(log).connect()) as behind:
        behind.execute("DELETE FROM receipts WHERE sequence = 2")
        behind.execute("UPDATE channels SET sequence = 1")
        if lost == "the channel":
            behind.execute("DELETE FROM receipts")
            behind.execute("DELETE FROM channels")
    with pytest.raises(FatalError, match="saw 2 there"):
        log.write([issue(3)], SIGNER)
    assert log.receipt_count() < 2


def test_write__row_that_the_schema_refuses__fails_alone(log: ReceiptLog) -> None:
    """A payment of another consumer's receipt: no voucher has that, but nothing else may suffer from it."""
    log.write([issue(1)], SIGNER)
    stolen = replace(issue(2), key=STRANGER, voucher=None, price=0, payment=Hash32(b"\x01" * 32))
    outcomes = log.write([stolen, issue(2)], SIGNER)
    assert isinstance(outcomes[0], (AlreadyIssued, PaymentError))
    assert isinstance(outcomes[1], LoggedReceipt)


def _of(log: ReceiptLog) -> PostgresDatabase:
    assert isinstance(log.database, PostgresDatabase)
    return log.database
