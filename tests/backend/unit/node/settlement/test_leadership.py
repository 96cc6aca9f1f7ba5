"""One process settles at a time: the lock, what is written through it, and what its end ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from assay.chain.outbox import Attempt, Intent, IntentState
from assay.chain.transactions import Fees
from assay.chain.values import Call
from assay.errors import FatalError, RetryableError
from assay.node.receipts.log import ReceiptLog
from assay.node.receipts.postgresql import PostgresDatabase
from assay.node.settlement.leadership import Candidate, Lease
from assay.node.settlement.shared_outbox import SharedOutbox
from assay.node.settlement.standby import Standby
from assay.types import Hash32

from tests.backend.unit.node.receipts.test_log import CONSUMER, DOMAIN, NODE
from tests.support.postgresql import Cluster

pytestmark = pytest.mark.network
HOLDER = "pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory')"


@pytest.fixture
def database(shared_database: PostgresDatabase) -> PostgresDatabase:
    ReceiptLog(shared_database, DOMAIN, NODE).close()
    return shared_database


@pytest.fixture
def candidate(database: PostgresDatabase) -> Iterator[Candidate]:
    made = Candidate(database, DOMAIN, NODE)
    yield made
    made.close()


@pytest.fixture
def rival(database: PostgresDatabase) -> Iterator[Candidate]:
    made = Candidate(database, DOMAIN, NODE)
    yield made
    made.close()


def acquired(candidate: Candidate) -> Lease:
    """As soon as the server has noticed that an earlier session ended."""
    deadline = time.monotonic() + 10
    while (lease := candidate.acquire()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return lease


def intent(key: str, nonce: int) -> Intent:
    attempt = Attempt(Hash32(bytes([nonce]) * 32), b"raw", Fees(7, 1), 1.0)
    return Intent(0, key, nonce, Call(CONSUMER, b"", "post"), 21_000, IntentState.PENDING, (attempt,))


def test_acquire__two_candidates__one_has_it_until_it_lets_go(candidate: Candidate, rival: Candidate) -> None:
    lease = candidate.acquire()
    assert lease is not None
    assert lease.is_held()
    assert [rival.acquire(), rival.acquire()] == [None, None]
    lease.release()
    assert not lease.is_held()
    second = acquired(rival)
    assert second.is_held()
    second.release()


def test_acquire__another_node_in_the_same_database__is_no_rival(
    candidate: Candidate, database: PostgresDatabase
) -> None:
    with closing(Candidate(database, DOMAIN, CONSUMER)) as other:
        first, second = candidate.acquire(), other.acquire()
        assert first is not None
        assert second is not None
        first.release()
        second.release()


def test_lease__session_ended_by_the_server__writes_nothing_any_more(
    candidate: Candidate, rival: Candidate, postgresql: Cluster
) -> None:
    """The holder may not have noticed yet: its outbox must refuse, the other one's go on where it was."""
    lease = candidate.acquire()
    assert lease is not None
    outbox = SharedOutbox(lease)
    outbox.add(1, CONSUMER, intent("post:1", 0))
    postgresql.terminate_backends(postgresql.url(), HOLDER)
    second = acquired(rival)
    with pytest.raises(RetryableError):
        outbox.add(1, CONSUMER, intent("post:2", 1))
    with pytest.raises(RetryableError, match="another process settles"):
        outbox.next_nonce(1, CONSUMER)
    assert not lease.is_held()
    taken_over = SharedOutbox(second)
    (pending,) = taken_over.pending(1, CONSUMER)
    assert (pending.key, pending.newest.raw) == ("post:1", b"raw")
    assert taken_over.next_nonce(1, CONSUMER) == 1
    second.release()
    lease.release()


def test_is_held__lock_lost_and_not_its_session__tells(candidate: Candidate) -> None:
    """As through a pooler that gives the session to somebody else."""
    lease = candidate.acquire()
    assert lease is not None
    lease.connect().execute("SELECT pg_advisory_unlock_all()")
    assert not lease.is_held()
    lease.release()


def test_lease__transaction_of_one_thread__lets_the_others_wait(candidate: Candidate) -> None:
    """Else what another writes would be undone with it."""
    lease = candidate.acquire()
    assert lease is not None
    first, second = lease.connect(), lease.connect()
    first.execute("CREATE TEMPORARY TABLE marks (name TEXT)")
    other = threading.Thread(target=lambda: second.execute("INSERT INTO marks VALUES ('other')"))
    with pytest.raises(ZeroDivisionError), first.transaction():
        first.execute("INSERT INTO marks VALUES ('mine')")
        other.start()
        other.join(0.3)
        assert other.is_alive()
        raise ZeroDivisionError
    other.join(10)
    assert first.execute("SELECT name FROM marks").fetchall() == [("other",)]
    lease.release()


def test_lease__holder_that_hangs__loses_it(
    candidate: Candidate, rival: Candidate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a process that is stopped: its connections are alive, nobody looks at them."""
    monkeypatch.setattr("assay.node.settlement.leadership.HANG_SECONDS", 1)
    lease = candidate.acquire()
    assert lease is not None
    for _ in range(6):
        time.sleep(0.25)
        assert lease.is_held()
    acquired(rival).release()
    assert not lease.is_held()
    with pytest.raises(RetryableError):
        SharedOutbox(lease).next_nonce(1, CONSUMER)


def test_lease__stopped_within_a_transaction__is_lost_and_stops_nobody(
    candidate: Candidate, rival: Candidate
) -> None:
    """The server ends a transaction that nobody goes on with; the holder, awake again, must not fail for
    good."""
    lease = candidate.acquire()
    assert lease is not None
    outbox = SharedOutbox(lease)
    outbox._session.execute("SELECT set_config('idle_in_transaction_session_timeout', '100ms', false)")
    with pytest.raises(RetryableError), outbox._transaction() as db:
        db.execute("SELECT 1")
        acquired(rival).release()
        db.execute("SELECT 1")
    assert not lease.is_held()


def test_lease__used_by_several_threads__gives_each_its_transactions(candidate: Candidate) -> None:
    lease = candidate.acquire()
    assert lease is not None
    outbox = SharedOutbox(lease)

    def add(start: int) -> None:
        for nonce in range(start, start + 5):
            outbox.add(1, CONSUMER, intent(f"k{nonce}", nonce))

    threads = [threading.Thread(target=add, args=(start,)) for start in (0, 5, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert [one.nonce for one in outbox.pending(1, CONSUMER)] == list(range(15))
    outbox.close()
    assert lease.is_held()
    lease.release()


class Work:
    """Stands for the threads that send: when they ran."""

    def __init__(self) -> None:
        self.leases: list[Lease] = []
        self.stopped = 0

    def start(self, lease: Lease) -> Any:
        self.leases.append(lease)
        return self

    def stop(self) -> None:
        self.stopped += 1


def wait_for(check: Any) -> None:
    deadline = time.monotonic() + 15
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_standby__holder_loses_its_session__the_other_takes_over(
    candidate: Candidate, rival: Candidate, postgresql: Cluster
) -> None:
    failures: list[FatalError] = []
    works = [Work(), Work()]
    standbys = [
        Standby(each, work.start, failures.append, look_seconds=0.05)
        for each, work in zip((candidate, rival), works, strict=True)
    ]
    for standby in standbys:
        standby.start()
    try:
        wait_for(lambda: sum(standby.leads for standby in standbys) == 1)
        first = 0 if standbys[0].leads else 1
        postgresql.terminate_backends(postgresql.url(), HOLDER)
        wait_for(lambda: works[first].stopped == 1)
        wait_for(lambda: sum(standby.leads for standby in standbys) == 1)
        leader = next(place for place, standby in enumerate(standbys) if standby.leads)
        standbys[leader].stop()
        wait_for(lambda: standbys[1 - leader].leads)
    finally:
        for standby in standbys:
            standby.stop()
    assert failures == []
    assert sum(len(work.leases) for work in works) == sum(work.stopped for work in works) >= 3
    assert not any(lease.is_held() for work in works for lease in work.leases)


def test_standby__work_that_cannot_start__lets_the_lock_go(candidate: Candidate, rival: Candidate) -> None:
    def refuse(lease: Lease) -> Any:
        raise FatalError("another chain")

    failures: list[FatalError] = []
    standby = Standby(candidate, refuse, failures.append, look_seconds=0.05)
    standby.start()
    standby.join(10)
    assert [str(error) for error in failures] == ["another chain"]
    acquired(rival).release()
