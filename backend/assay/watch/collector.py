"""Fetches posted batches from their nodes, keeps what they signed, chooses what is re-executed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from assay.chain.contracts import read_many
from assay.chain.views import SignerInfo
from assay.errors import VerificationError
from assay.index.batches import PROVEN
from assay.index.download import Limits, Unreachable, download
from assay.index.verify import BatchClaim, Validity, verify_batch
from assay.types import Address, BatchAvailability, Hash32
from assay.watch.contracts import Contracts
from assay.watch.policy import Policy, choose
from assay.watch.published import PublishedReceipt, read_receipts, signed_by_node, signers_of
from assay.watch.store import Store
from assay.watch.values import PostedBatch, SeenReceipt

FIRST_WAIT, MAX_WAIT = 2.0, 1_800.0
"""Seconds between attempts: doubled each time."""
NEVER: Final = 1e15

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Found:
    state: BatchAvailability
    reason: str = ""
    receipts: tuple[SeenReceipt, ...] = ()
    is_final: bool = False


class Collector:
    """`step` asks for the batches that are due; what a node does cannot end it."""

    def __init__(
        self,
        contracts: Contracts,
        store: Store,
        policy: Policy,
        seed: bytes,
        limits: Limits,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settlement, self._nodes, self._store = contracts.settlement, contracts.nodes, store
        self._policy, self._seed, self._limits, self._clock = policy, seed, limits, clock
        self._domain = contracts.domain

    def step(self, limit: int = 5, should_stop: Callable[[], bool] = lambda: False) -> int:
        """How many batches were asked for. Raises RetryableError if the chain does not answer."""
        due = self._store.due_batches(self._clock(), limit)
        for batch in due:
            if should_stop():
                break
            self._collect(batch)
        return len(due)

    def _collect(self, batch: PostedBatch) -> None:
        view = self._settlement.batch(batch.batch_id)
        if not view.exists:  # a reorg took it away; the follower will say so
            self._record(batch, 0, Found(BatchAvailability.UNCHECKED, "the chain has no such batch now"))
            return
        endpoint = self._nodes.node(batch.key.node).endpoint
        url = f"{endpoint.rstrip('/')}/v1/batches/0x{batch.batch_id.hex()}"
        try:
            body = download(url, self._limits)
        except Unreachable as error:
            self._record(batch, view.posted_at, Found(BatchAvailability.UNAVAILABLE, str(error)))
            return
        self._record(batch, view.posted_at, self._judge(batch, view.posted_at, body))

    def _judge(self, batch: PostedBatch, posted_at: int, body: bytes) -> Found:
        receipts, is_root = read_receipts(self._domain, batch, body)
        validities = self._validities(batch.key.node, receipts)
        seen = tuple(signed_by_node(batch, receipts, validities, is_root=is_root))
        claim = BatchClaim(self._domain, batch.batch_id, batch.key, posted_at, validities)
        try:
            verify_batch(claim, body)
        except VerificationError as error:
            is_final = is_root and error.step in PROVEN
            return Found(BatchAvailability.INCONSISTENT, f"{error.step}: {error}", seen, is_final)
        return Found(BatchAvailability.AVAILABLE, "", seen, is_final=True)

    def _validities(self, node: Address, receipts: list[PublishedReceipt]) -> dict[Address, Validity]:
        signers = signers_of(receipts)
        found: list[SignerInfo] = read_many(
            self._nodes.client, [self._nodes.view("signer_info", signer) for signer in signers]
        )
        return {
            signer: Validity(info.valid_from, info.valid_to)
            for signer, info in zip(signers, found, strict=True)
            if info.node == node
        }

    def _record(self, batch: PostedBatch, posted_at: int, found: Found) -> None:
        wait = min(MAX_WAIT, FIRST_WAIT * 2 ** min(batch.attempts, 16))
        chosen: list[Hash32] = choose(
            self._policy, self._seed, [seen.digest for seen in found.receipts if seen.is_public]
        )
        self._store.record_batch(
            batch,
            found.state,
            found.reason,
            posted_at=posted_at,
            receipts=found.receipts,
            chosen=chosen,
            next_at=NEVER if found.is_final else self._clock() + wait,
        )
        log.info(
            "batch read",
            batch="0x" + batch.batch_id.hex(),
            node=batch.key.node,
            result=str(found.state),
            reason=found.reason,
            receipts=len(found.receipts),
            chosen=len(chosen),
        )
