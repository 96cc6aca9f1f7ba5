"""Fetches posted batches' receipts from their nodes, checks them and records what came of it.

Batches are taken in posting order. Everything but a proof of fault is looked at again with growing waits: a
node may come back, a served file may be mended, a later batch may fill a gap. Receipts that match the posted
root and are badly signed, dated or numbered stay what they are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog
from sqlalchemy import Engine

from assay.db.engine import read_session, write_transaction
from assay.db.repositories.checks import CheckResult, CheckStore, PendingBatch, StoredReceipt
from assay.errors import VerificationError
from assay.index.download import Limits, Unreachable, download
from assay.index.verify import BatchClaim, CheckedReceipt, Validity, sequences_of, verify_batch
from assay.types import Address, BatchAvailability, BatchKey, Domain, Hash32

log = structlog.get_logger(__name__)

FIRST_WAIT, MAX_WAIT = 5, 6 * 3600
"""Seconds between attempts: doubled each time."""
GAP_WAIT, MAX_GAP_WAITS = 5, 10
"""A gap may be filled by a batch that was not looked at yet; two batches must not wait for each other for
ever.
"""
NEVER = 2**62
PROVEN = {"signature", "signer", "time", "sequence"}
"""Steps of `verify_batch` after the root matched."""


@dataclass(frozen=True, slots=True)
class Verdict:
    availability: BatchAvailability
    reason: str = ""
    receipts: Sequence[CheckedReceipt] = ()
    is_final: bool = False

    @property
    def is_waiting(self) -> bool:
        """Not an answer yet: another batch has to be looked at first."""
        return self.availability is BatchAvailability.UNCHECKED


class BatchChecker:
    """`step` checks the batches that are due and says how many it finished."""

    def __init__(
        self,
        engine: Engine,
        domain: Domain,
        limits: Limits,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._engine, self._domain, self._limits, self._clock = engine, domain, limits, clock

    def step(self, limit: int = 20, should_stop: Callable[[], bool] = lambda: False) -> int:
        with read_session(self._engine) as session:
            due = CheckStore(session.connection()).due(int(self._clock()), limit)
        done = 0
        for batch in due:
            if should_stop():
                break
            self._record(batch, self._check(batch))
            done += 1
        return done

    def _check(self, batch: PendingBatch) -> Verdict:
        url = f"{batch.endpoint.rstrip('/')}/v1/batches/{batch.batch_id}"
        try:
            body = download(url, self._limits)
        except Unreachable as error:
            return Verdict(BatchAvailability.UNAVAILABLE, str(error))
        try:
            receipts = verify_batch(self._claim(batch), body)
        except VerificationError as error:
            reason, is_final = f"{error.step}: {error}", error.step in PROVEN
            return Verdict(BatchAvailability.INCONSISTENT, reason, is_final=is_final)
        return Verdict(BatchAvailability.AVAILABLE, receipts=receipts)

    def _claim(self, batch: PendingBatch) -> BatchClaim:
        signers = {Address(s): Validity(start, stop) for s, start, stop in batch.signers}
        key = BatchKey(Address(batch.node), to_hash(batch.version_id), to_hash(batch.receipts_root))
        return BatchClaim(self._domain, to_hash(batch.batch_id), key, batch.posted_at, signers)

    def _record(self, batch: PendingBatch, verdict: Verdict) -> None:
        """Neighbours are compared in the transaction that writes, so that no two batches pass each other
        by.
        """
        now = int(self._clock())
        with write_transaction(self._engine) as connection:
            store = CheckStore(connection)
            if not store.lock(batch):
                return  # a reorg took the batch away meanwhile
            if verdict.availability is BatchAvailability.AVAILABLE:
                verdict = compare_neighbours(store, batch, verdict)
            receipts = verdict.receipts if verdict.availability is BatchAvailability.AVAILABLE else ()
            store.save(batch, _result(batch, verdict, now), [_stored(c) for c in receipts])
        if not verdict.is_waiting:
            log.info(
                "batch checked", batch=batch.batch_id, result=verdict.availability, reason=verdict.reason
            )


def compare_neighbours(store: CheckStore, batch: PendingBatch, verdict: Verdict) -> Verdict:
    """Digests known already, sequences of the channels before and after, acknowledged counts (SPEC.md §8)."""
    known = store.batch_of_any(["0x" + checked.digest.hex() for checked in verdict.receipts])
    if known is not None:
        return _inconsistent(f"duplicate: receipt {known[0]} is already in batch {known[1]}")
    spans = sequences_of(verdict.receipts)
    others = store.other_states(batch)
    if batch.availability == BatchAvailability.UNCHECKED and batch.attempts >= MAX_GAP_WAITS:
        others.discard(BatchAvailability.UNCHECKED)
    for consumer, (first, last) in spans.items():
        if taken := store.sequence_in(batch, consumer, first, last):
            return _inconsistent(
                f"sequence: {consumer} has sequence {taken} in another batch: equivocation or a repeat"
            )
        before, after = store.neighbours(batch, consumer, first, last)
        for low, high in ((before, first), (last, after)):
            if high is not None and high != low + 1:
                gap = f"sequence: receipts {low + 1} to {high - 1} of {consumer} are in no batch"
                if (answer := _incomplete(others, gap, verdict)) is not None:
                    return answer
    for account, count in store.acknowledged(batch):
        published = store.published(batch, account) + _length(spans.get(Address(account)))
        if count > published:
            short = f"count: {account} acknowledged {count} inferences, {published} receipts are published"
            if (answer := _incomplete(others, short, verdict)) is not None:
                return answer
    return verdict


def _incomplete(others: set[BatchAvailability], problem: str, verdict: Verdict) -> Verdict | None:
    """What is missing may be in a batch not looked at yet (wait) or not to be had (no fault of this one)."""
    if BatchAvailability.UNCHECKED in others:
        return Verdict(BatchAvailability.UNCHECKED, problem + " yet")
    if others & {BatchAvailability.UNAVAILABLE, BatchAvailability.INCONSISTENT}:
        return None
    return _inconsistent(problem)


def _inconsistent(reason: str) -> Verdict:
    return Verdict(BatchAvailability.INCONSISTENT, reason)


def _length(span: tuple[int, int] | None) -> int:
    return 0 if span is None else span[1] - span[0] + 1


def _result(batch: PendingBatch, verdict: Verdict, now: int) -> CheckResult:
    is_same = verdict.is_waiting == (batch.availability == BatchAvailability.UNCHECKED)
    attempts = batch.attempts + 1 if is_same else 1
    wait = GAP_WAIT if verdict.is_waiting else min(MAX_WAIT, FIRST_WAIT * 2 ** min(attempts - 1, 16))
    is_done = verdict.is_final or verdict.availability is BatchAvailability.AVAILABLE
    return CheckResult(
        availability=verdict.availability.value,
        reason=verdict.reason,
        receipts=len(verdict.receipts),
        attempts=attempts,
        checked_at=now,
        next_attempt_at=NEVER if is_done else now + wait,
    )


def _stored(checked: CheckedReceipt) -> StoredReceipt:
    return StoredReceipt(checked.signed, "0x" + checked.digest.hex(), checked.signer)


def to_hash(text: str) -> Hash32:
    return Hash32(bytes.fromhex(text[2:]))
