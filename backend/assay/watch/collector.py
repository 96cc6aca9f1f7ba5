"""Fetches posted batches from their nodes, keeps what they signed, chooses what is re-executed.

Several nodes at once, in threads of their own (places.py).
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Final

import structlog

from assay.chain.contracts import read_many
from assay.chain.logs import scan_logs
from assay.chain.views import SignerInfo
from assay.commitments.identifiers import address_word
from assay.errors import VerificationError
from assay.index.batch_file import BatchFile, spool
from assay.index.batches import LARGE, PROVEN
from assay.index.download import Limits, ShouldStop, Unreachable, download_to, go_on
from assay.index.places import Places, alone
from assay.index.turns import while_in_turn
from assay.index.verify import BatchClaim, Validity, verify_batch
from assay.types import Address, BatchAvailability
from assay.watch.contracts import Contracts
from assay.watch.policy import Policy, choose
from assay.watch.published import is_signed, public_digests, signed_by_node, signers_of
from assay.watch.store import Store
from assay.watch.values import PostedBatch

FIRST_WAIT, MAX_WAIT = 2.0, 1_800.0
"""Seconds between attempts: doubled each time."""
NEVER: Final = 1e15
AT_ONCE: Final = 2_000
"""Receipts in one transaction of the store: the games wait no longer than for that."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Found:
    state: BatchAvailability
    reason: str = ""
    receipts: int = 0
    chosen: int = 0
    is_final: bool = False


class Collector:
    """`step` asks for the batches that are due; what a node does cannot end it, nor keep it from others."""

    def __init__(
        self,
        contracts: Contracts,
        store: Store,
        policy: Policy,
        seed: bytes,
        limits: Limits,
        *,
        clock: Callable[[], float] = time.time,
        places: Places[int] | None = None,
    ) -> None:
        self._settlement, self._nodes, self._store = contracts.settlement, contracts.nodes, store
        self._policy, self._seed, self._limits, self._clock = policy, seed, limits, clock
        self._domain = contracts.domain
        self._places = places or Places("batches", patience=limits.seconds)
        self._large = threading.Lock()
        """Held by who judges a large batch."""

    @property
    def is_busy(self) -> bool:
        """Whether batches are under way."""
        return self._places.is_busy

    def step(self, limit: int = 5, should_stop: ShouldStop = go_on, wait: float = 0.0) -> int:
        """Ask the nodes that are due, for so many batches each in a turn; how many turns began or ended.
        Where none did, one is waited for `wait` seconds. Raises RetryableError if the chain does not answer.
        """
        now = self._clock()
        turn = partial(self._turn, now, limit)
        return self._places.step(partial(self._store.due_nodes, now), turn, should_stop, wait)

    def close(self) -> None:
        """End what is under way; it is begun again another time."""
        self._places.close()

    def _turn(self, now: float, limit: int, node: Address, should_stop: ShouldStop) -> int:
        """How many batches it gave or did not give."""
        done = 0
        for batch in while_in_turn(self._store.due_batches(now, node, limit), should_stop):
            self._collect(batch, should_stop)
            done += 1
        return done

    def _collect(self, batch: PostedBatch, should_stop: ShouldStop) -> None:
        view = self._settlement.batch(batch.batch_id)
        if not view.exists:  # a reorg took it away; the follower will say so
            self._record(batch, 0, Found(BatchAvailability.UNCHECKED, "the chain has no such batch now"))
            return
        endpoint = self._nodes.node(batch.key.node).endpoint
        url = f"{endpoint.rstrip('/')}/v1/batches/0x{batch.batch_id.hex()}"
        with spool(self._store.path.parent) as file:
            try:
                size = download_to(file, url, self._limits, should_stop)
            except Unreachable as error:
                self._record(batch, view.posted_at, Found(BatchAvailability.UNAVAILABLE, str(error)))
                return
            with alone(self._large, should_stop) if size > LARGE else contextlib.nullcontext():
                published = BatchFile(self._domain, batch.key, file, should_stop=should_stop)
                self._record(batch, view.posted_at, self._judge(batch, view.posted_at, published))

    def _judge(self, batch: PostedBatch, posted_at: int, published: BatchFile) -> Found:
        """Keeps what the node signed, so many receipts at a time; begun again, it keeps them once."""
        validities = self._validities(batch.key.node, published)
        kept = self._keep(batch, published, is_signed(published, validities))
        claim = BatchClaim(self._domain, batch.batch_id, batch.key, posted_at, validities)
        try:
            verify_batch(claim, published)
        except VerificationError as error:
            is_final = published.is_whole and error.step in PROVEN
            return Found(BatchAvailability.INCONSISTENT, f"{error.step}: {error}", *kept, is_final)
        return Found(BatchAvailability.AVAILABLE, "", *kept, is_final=True)

    def _keep(self, batch: PostedBatch, published: BatchFile, signed: bytearray) -> tuple[int, int]:
        """How many receipts, how many of them to be re-executed."""
        chosen = choose(self._policy, self._seed, public_digests(published, signed))
        wanted = set(chosen)
        if published.is_whole:
            self._store.keep_leaves(batch.batch_id, published.all_digests)
        seen = signed_by_node(batch, published, signed)
        total = 0
        while some := list(islice(seen, AT_ONCE)):
            self._store.add_receipts(some, [one.digest for one in some if one.digest in wanted])
            total += len(some)
            if total % (16 * AT_ONCE) == 0:
                log.info("reading a large batch", batch="0x" + batch.batch_id.hex(), receipts=total)
        return total, len(chosen)

    def _validities(self, node: Address, published: BatchFile) -> dict[Address, Validity]:
        signers = signers_of(published, lambda: self._keys_of(node))
        found: list[SignerInfo] = read_many(
            self._nodes.client, [self._nodes.view("signer_info", signer) for signer in signers]
        )
        return {
            signer: Validity(info.valid_from, info.valid_to)
            for signer, info in zip(signers, found, strict=True)
            if info.node == node
        }

    def _keys_of(self, node: Address) -> list[Address]:
        """All that it ever signed with, from the chain's events."""
        abi, word = self._nodes.abi, "0x" + address_word(node).hex()
        topics = [[abi.topic("NodeRegistered"), abi.topic("SignerRotated")], word]
        events = map(self._nodes.decode_log, scan_logs(self._nodes, topics, self._nodes.deployment.block))
        return [event.args.get("new_signer") or event.args["signer"] for event in events]

    def _record(self, batch: PostedBatch, posted_at: int, found: Found) -> None:
        wait = min(MAX_WAIT, FIRST_WAIT * 2 ** min(batch.attempts, 16))
        self._store.record_batch(
            batch,
            found.state,
            found.reason,
            posted_at=posted_at,
            receipts=found.receipts,
            next_at=NEVER if found.is_final else self._clock() + wait,
        )
        log.info(
            "batch read",
            batch="0x" + batch.batch_id.hex(),
            node=batch.key.node,
            result=str(found.state),
            reason=found.reason,
            receipts=found.receipts,
            chosen=found.chosen,
        )
