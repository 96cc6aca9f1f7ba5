"""Fetches posted batches' receipts from their nodes, checks them and records what came of it.

A node's batches are taken in posting order. Everything but a proof of fault is looked at again with growing
waits: a node may come back, a served file may be mended, a later batch may fill a gap. Receipts that match
the posted root and are badly signed, dated or numbered stay what they are.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import structlog
from sqlalchemy import Engine

from assay.db.engine import read_session, write_transaction
from assay.db.repositories.checks import CheckResult, CheckStore, PendingBatch, StoredReceipt
from assay.errors import VerificationError
from assay.index.batch_file import BatchFile, spool
from assay.index.download import Limits, Unreachable, download_to
from assay.index.turns import Turns
from assay.index.verify import BatchClaim, Validity, verify_batch
from assay.types import Address, BatchAvailability, BatchKey, Domain, Hash32

log = structlog.get_logger(__name__)

FIRST_WAIT, MAX_WAIT = 5, 6 * 3600
"""Seconds between attempts: doubled each time."""
GAP_WAIT, MAX_GAP_WAITS = 5, 10
"""A gap may be filled by a batch that was not looked at yet; two batches must not wait for each other for
ever.
"""
NEVER = 2**62
LARGE = 64 << 20
"""Bytes of a batch that takes long enough to be told of."""
PROVEN = {"signature", "signer", "time", "sequence"}
"""Steps of `verify_batch` after the root matched."""


@dataclass(frozen=True, slots=True)
class Verdict:
    availability: BatchAvailability
    reason: str = ""
    receipts: BatchFile | None = None
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
        folder: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._engine, self._domain, self._limits, self._clock = engine, domain, limits, clock
        self._folder = folder or Path(tempfile.gettempdir())
        self._turns = Turns()

    def step(self, limit: int = 20, should_stop: Callable[[], bool] = lambda: False) -> int:
        now = int(self._clock())

        def check(batch: PendingBatch) -> None:
            with spool(self._folder) as file:
                self._record(batch, self._check(batch, file, should_stop))

        nodes = self._due_nodes(now)
        return self._turns.work(nodes, partial(self._due, now), check, limit, should_stop)

    def _due_nodes(self, now: int) -> list[str]:
        with read_session(self._engine) as session:
            return CheckStore(session.connection()).due_nodes(now)

    def _due(self, now: int, node: str, limit: int) -> list[PendingBatch]:
        with read_session(self._engine) as session:
            return CheckStore(session.connection()).due(now, node, limit)

    def _check(self, batch: PendingBatch, file: BinaryIO, should_stop: Callable[[], bool]) -> Verdict:
        url = f"{batch.endpoint.rstrip('/')}/v1/batches/{batch.batch_id}"
        try:
            size = download_to(file, url, self._limits, should_stop)
        except Unreachable as error:
            return Verdict(BatchAvailability.UNAVAILABLE, str(error))
        if size > LARGE:
            log.info("checking a large batch", batch=batch.batch_id, bytes=size)
        claim = self._claim(batch)
        receipts = BatchFile(self._domain, claim.key, file, should_stop=should_stop)
        try:
            verify_batch(claim, receipts)
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
            found = verdict.receipts if verdict.availability is BatchAvailability.AVAILABLE else None
            store.save(batch, _result(batch, verdict, now), _stored(found) if found else ())
        if not verdict.is_waiting:
            log.info(
                "batch checked", batch=batch.batch_id, result=verdict.availability, reason=verdict.reason
            )


def compare_neighbours(store: CheckStore, batch: PendingBatch, verdict: Verdict) -> Verdict:
    """Digests known already, sequences of the channels before and after, acknowledged counts (SPEC.md §8)."""
    assert verdict.receipts is not None
    known = store.batch_of_any("0x" + digest.hex() for digest in verdict.receipts.digests())
    if known is not None:
        return _inconsistent(f"duplicate: receipt {known[0]} is already in batch {known[1]}")
    spans = verdict.receipts.spans
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
        receipts=len(verdict.receipts or ()),
        attempts=attempts,
        checked_at=now,
        next_attempt_at=NEVER if is_done else now + wait,
    )


def _stored(batch: BatchFile) -> Iterator[StoredReceipt]:
    numbers, names = batch.signers
    for number, digest, signed in zip(numbers, batch.digests(), batch.receipts(), strict=True):
        yield StoredReceipt(signed, "0x" + digest.hex(), names[number])


def to_hash(text: str) -> Hash32:
    return Hash32(bytes.fromhex(text[2:]))
