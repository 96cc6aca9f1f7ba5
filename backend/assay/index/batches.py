"""Fetches posted batches' receipts from their nodes, checks them and records what came of it.

Several nodes are asked at once, in threads of their own (places.py), each for its batches in posting order.
Everything but a proof of fault is looked at again with growing waits: a node may come back, a served file may
be mended, a later batch may fill a gap. Receipts that match the posted root and are badly signed, dated or
numbered stay what they are.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import structlog
from sqlalchemy import Engine

from assay.db.engine import read_session, write_transaction
from assay.db.repositories.checks import CheckResult, CheckStore, PendingBatch, StoredReceipt
from assay.errors import VerificationError
from assay.index.batch_file import BatchFile, spool
from assay.index.download import Interrupted, Limits, ShouldStop, Unreachable, download_to, go_on
from assay.index.places import Places, alone
from assay.index.turns import while_in_turn
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
PART = 20_000
"""Receipts written in one transaction: a few seconds, in which nobody else writes into SQLite."""
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
    """`step` asks for the batches that are due; what a node does cannot end it, nor keep it from others."""

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
        self._places: Places[int] = Places("batches", patience=limits.seconds)
        self._large, self._writing = threading.Lock(), threading.Lock()
        """Held by who checks a large batch, and by who writes one into the database."""

    @property
    def is_busy(self) -> bool:
        """Whether batches are under way."""
        return self._places.is_busy

    def step(self, limit: int = 20, should_stop: ShouldStop = go_on, wait: float = 0.0) -> int:
        """Ask the nodes that are due, for so many batches each in a turn; how many turns began or ended.
        Where none did, one is waited for `wait` seconds. Raises RetryableError, DiskFullError among them.
        """
        now = int(self._clock())
        turn = partial(self._turn, now, limit)
        return self._places.step(partial(self._due_nodes, now), turn, should_stop, wait)

    def close(self) -> None:
        """End what is under way; it is begun again another time."""
        self._places.close()

    def _turn(self, now: int, limit: int, node: Address, should_stop: ShouldStop) -> int:
        """How many batches it gave or did not give."""
        done = 0
        for batch in while_in_turn(self._due(now, node, limit), should_stop):
            with spool(self._folder) as file:
                self._fetch(batch, file, should_stop)
            done += 1
        return done

    def _due_nodes(self, now: int) -> list[Address]:
        with read_session(self._engine) as session:
            return list(map(Address, CheckStore(session.connection()).due_nodes(now)))

    def _due(self, now: int, node: Address, limit: int) -> list[PendingBatch]:
        with read_session(self._engine) as session:
            return CheckStore(session.connection()).due(now, node, limit)

    def _fetch(self, batch: PendingBatch, file: BinaryIO, should_stop: ShouldStop) -> None:
        url = f"{batch.endpoint.rstrip('/')}/v1/batches/{batch.batch_id}"
        try:
            size = download_to(file, url, self._limits, should_stop)
        except Unreachable as error:
            self._record(batch, Verdict(BatchAvailability.UNAVAILABLE, str(error)), should_stop)
            return
        if size > LARGE:
            log.info("checking a large batch", batch=batch.batch_id, bytes=size)
        with alone(self._large, should_stop) if size > LARGE else contextlib.nullcontext():
            self._record(batch, self._check(batch, file, should_stop), should_stop)

    def _check(self, batch: PendingBatch, file: BinaryIO, should_stop: ShouldStop) -> Verdict:
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

    def _record(self, batch: PendingBatch, verdict: Verdict, should_stop: ShouldStop) -> None:
        """One batch at a time is compared with its neighbours and written, so that no two pass each other by.
        A large one is written in parts, so that the follower, too, can write.
        """
        now = int(self._clock())
        with alone(self._writing, should_stop):
            self._clear(should_stop)
            if verdict.availability is BatchAvailability.AVAILABLE:
                with read_session(self._engine) as session:
                    verdict = compare_neighbours(CheckStore(session.connection()), batch, verdict)
            found = verdict.receipts if verdict.availability is BatchAvailability.AVAILABLE else None
            left = enumerate(_stored(found) if found else ())
            part, is_begun = list(islice(left, PART)), False
            while following := list(islice(left, PART)):
                with write_transaction(self._engine) as connection:
                    store = CheckStore(connection)
                    if not store.lock(batch, is_begun=is_begun):
                        return  # a reorg took the batch away meanwhile, and what was written of it
                    if not is_begun:
                        store.begin(batch, now)
                    store.add(batch, part)
                part, is_begun = following, True
            with write_transaction(self._engine) as connection:
                store = CheckStore(connection)
                if not store.lock(batch, is_begun=is_begun):
                    return
                store.save(batch, _result(batch, verdict, now))
                store.add(batch, part)
        if not verdict.is_waiting:
            log.info(
                "batch checked", batch=batch.batch_id, result=verdict.availability, reason=verdict.reason
            )

    def _clear(self, should_stop: ShouldStop) -> None:
        """Remove what is there of batches that were not written to the end."""
        with read_session(self._engine) as session:
            unfinished = CheckStore(session.connection()).unfinished()
        for batch_id in unfinished:
            below, is_left = 0, True
            while is_left:
                if should_stop():
                    raise Interrupted("a batch that was left half written is removed another time")
                below += PART
                with write_transaction(self._engine) as connection:
                    is_left = CheckStore(connection).remove(batch_id, below)


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
