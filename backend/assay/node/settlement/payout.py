"""The settler's second half: collects batches after their dispute window, claims what they credited."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Final

import structlog

from assay.chain.client import hex_bytes
from assay.chain.contracts import Settlement
from assay.chain.outbox import Intent
from assay.chain.sender import Sender
from assay.chain.settlement import MAX_COLLECT
from assay.chain.values import TxReceipt, parse_tx_receipt
from assay.chain.views import Batch as BatchView
from assay.errors import ContractRevert
from assay.node.settlement.batches import BatchStore
from assay.node.settlement.prospects import Outlook
from assay.node.settlement.spending import Kind
from assay.node.settlement.values import Batch, BatchState, Shares
from assay.node.settlement.worth import SettlerRules, claim_pays, collect_pays, is_tight
from assay.types import Address

REVERT_WAIT: Final = 30.0
RECHECK_SECONDS: Final = 30.0
CREDIT_SECONDS: Final = 30.0
REORG_BLOCKS: Final = 64
"""What is so deep is taken for good."""
REORG_SECONDS: Final = 900
"""In which so many blocks come where they come at fixed times."""

_log = structlog.get_logger(__name__)


class Payout:
    """Used by the settler's thread. `retry_at`: by batch, not to be looked at before."""

    def __init__(
        self,
        store: BatchStore,
        settlement: Settlement,
        sender: Sender,
        node: Address,
        rules: SettlerRules,
        *,
        outlook: Outlook,
        clock: Callable[[], float],
        on_step: Callable[[str], None],
        retry_at: dict[int, float],
    ) -> None:
        self._store = store
        self._settlement = settlement
        self._client = settlement.client
        self._sender = sender
        self._node = node
        self._rules = rules
        self._outlook = outlook
        self._clock = clock
        self._on_step = on_step
        self._retry_at = retry_at
        self._checked_at: dict[int, float] = {}
        self._window: int | None = None
        self._claims: int | None = None
        self._is_credited = True
        self._asked_at = 0.0
        self._looked_at = 0.0

    def collect_final(self) -> None:
        """Collect what is final and worth it; notice what a reorg undid and what somebody else collected."""
        self._look_again()
        batches = self._store.in_state(BatchState.POSTED)
        if not batches:
            return
        if self._window is None:
            self._window = self._settlement.dispute_window()
        chain_time = self._outlook.head().timestamp
        due = [batch for batch in batches if self._needs_look(batch, chain_time)]
        final: list[tuple[Batch, BatchView]] = []
        begun: set[str] = set()
        for batch, view in zip(due, self._settlement.batches([b.batch_id for b in due]), strict=True):
            self._checked_at[batch.id] = self._clock()
            if not view.exists or self._is_moved(batch, view, chain_time):
                _log.warning("a reorg undid or moved a batch", batch=hex_bytes(batch.batch_id))
                self._store.mark_vanished(batch)
            elif batch.collect_key is not None and self._intent(batch.collect_key) is not None:
                begun.add(batch.collect_key)
            elif view.collected:
                shares = self._shares(batch, view)
                self._store.mark_collected([(batch, shares)], block=self._outlook.head().number)
                self._is_credited = True
            elif not view.holds and chain_time >= view.posted_at + self._window:
                final.append((batch, view))
        for key in sorted(begun):
            self._collect(self._store.posted_with(key), key)
        for start in range(0, len(final), MAX_COLLECT):
            self._consider(final[start : start + MAX_COLLECT], chain_time)

    def _is_moved(self, batch: Batch, view: BatchView, chain_time: int) -> bool:
        """Whether a reorg had it posted again, where it may have paid otherwise: at another time, or, where
        blocks come at fixed times, for another amount. What a dispute gave back is no reorg's doing."""
        if view.posted_at != batch.posted_at:
            return True
        is_recent = chain_time < view.posted_at + REORG_SECONDS  # no dispute can be lost unseen so soon
        return is_recent and view.amount != batch.amount and not self._store.is_disputed(batch)

    def _look_again(self) -> None:
        """At what was collected, once it is too deep for a reorg; at nothing else until then."""
        if self._clock() - self._looked_at < RECHECK_SECONDS:
            return
        self._looked_at = self._clock()
        batches = self._store.unsettled(MAX_COLLECT)
        head = self._outlook.head().number if batches else 0
        due = [batch for batch in batches if (batch.collected_block or 0) <= head - REORG_BLOCKS]
        if not due:
            return
        views = self._settlement.batches([batch.batch_id for batch in due], head)
        final = [batch for batch, view in zip(due, views, strict=True) if view.collected]
        self._store.correct_costs(self._intents(final))
        self._store.settle(final)
        if gone := [batch for batch, view in zip(due, views, strict=True) if not view.collected]:
            _log.warning("a reorg undid collecting", batches=len(gone))
            self._store.mark_uncollected(gone, self._hashes(gone))

    def _hashes(self, batches: Sequence[Batch]) -> list[str]:
        """Of the node's transactions that have collected them."""
        return [hex_bytes(attempt.hash) for intent in self._intents(batches) for attempt in intent.attempts]

    def _intents(self, batches: Sequence[Batch]) -> list[Intent]:
        """What collects them, where it is the node that does."""
        keys = {batch.collect_key for batch in batches if batch.collect_key is not None}
        return [intent for key in sorted(keys) if (intent := self._intent(key)) is not None]

    def _intent(self, key: str) -> Intent | None:
        return self._sender.outbox.find(self._client.chain_id, self._sender.address, key)

    def _needs_look(self, batch: Batch, chain_time: int) -> bool:
        if self._clock() < self._retry_at.get(batch.id, 0.0):
            return False
        is_final = chain_time >= (batch.posted_at or 0) + (self._window or 0)
        return is_final or self._clock() - self._checked_at.get(batch.id, 0.0) >= RECHECK_SECONDS

    def _consider(self, final: Sequence[tuple[Batch, BatchView]], chain_time: int) -> None:
        value = sum(self._shares(batch, view).node_amount for batch, view in final)
        waited = chain_time - min(view.posted_at for _, view in final) - (self._window or 0)
        price = self._outlook.gas_price().now if self._rules.native_price else 0
        pays = len(final) == MAX_COLLECT or collect_pays(self._rules, len(final), value, price, waited)
        if pays or self._is_tight([batch for batch, _ in final]):
            self._start([batch for batch, _ in final])
            return
        self._retry_at.update({batch.id: self._clock() + REVERT_WAIT for batch, _ in final})
        _log.info("collecting waits", batches=len(final), value=value, gas_price=price, waited=waited)

    def _is_tight(self, final: Sequence[Batch]) -> bool:
        value, at_risk = sum(batch.value for batch in final), self._store.exposure().total
        return is_tight(value, at_risk, self._outlook.cover())

    def _shares(self, batch: Batch, view: BatchView) -> Shares:
        """As `collect` splits the amount (SPEC.md §6)."""
        fee = -(-view.amount * view.fee_bps // 10_000)
        royalty = view.amount * self._outlook.royalty_bps(batch.key.version_id) // 10_000
        return Shares(view.amount - fee - royalty, royalty, fee)

    def _start(self, batches: Sequence[Batch]) -> None:
        name = sha256(b"".join(b"%s:%d" % (b.batch_id, b.attempt) for b in batches)).hexdigest()
        key = f"collect:{name}"
        self._store.note_collecting(batches, key)
        self._collect([replace(batch, collect_key=key) for batch in batches], key)

    def _collect(self, batches: Sequence[Batch], key: str) -> None:
        """Under the key of before, what was sent is followed, or sent again after a reorg."""
        try:
            receipt = self._sender.send(self._settlement.collect([b.key for b in batches]), key=key)
        except ContractRevert as error:
            # one that somebody else has collected reverts them all; the next look leaves it out
            self._store.note_failure(batches, str(error), Kind.COLLECT, mined_revert(self._sender, key))
            self._retry_at.update({batch.id: self._clock() + REVERT_WAIT for batch in batches})
            _log.error("collect refused", batches=len(batches), reason=str(error))
            return
        self._is_credited = True
        self._on_step("collect_sent")
        events = self._settlement.decode_logs(receipt.logs)
        shares = {
            event.args["batch_id"]: Shares(
                event.args["node_amount"], event.args["royalty"], event.args["fee"]
            )
            for event in events
            if event.name == "BatchCollected"
        }
        self._store.mark_collected([(batch, shares[batch.batch_id]) for batch in batches], receipt)
        _log.info(
            "batches collected",
            batches=len(batches),
            earned=sum(share.node_amount for share in shares.values()),
            gas=receipt.gas_used,
            wei=receipt.gas_used * receipt.effective_gas_price,
        )
        self._on_step("collected")

    def claim(self) -> None:
        """Pay out to the operator what settlements have credited: once it is collected here, and now and
        then, for it may be credited otherwise."""
        if self._is_credited or self._clock() - self._asked_at >= CREDIT_SECONDS:
            self._claim()
            self._is_credited, self._asked_at = False, self._clock()

    def _claim(self) -> None:
        if self._claims is None:
            self._claims = self._store.claims()
            self._note_unrecorded()
        amount = self._settlement.claimable(self._node)
        if amount < self._rules.min_claim:
            return
        if self._rules.native_price and not claim_pays(self._rules, amount, self._outlook.gas_price().now):
            return
        try:
            receipt = self._sender.send(self._settlement.claim(self._node), key=self._claim_key())
        except ContractRevert as error:
            if (mined := mined_revert(self._sender, self._claim_key())) is not None:
                self._record(mined)
            _log.error("claim refused", amount=amount, reason=str(error))
            return
        self._on_step("claim_sent")
        self._record(receipt)
        _log.info("claimed", amount=amount, gas=receipt.gas_used)

    def _claim_key(self) -> str:
        """The same after a crash until the claim is recorded, so that none is sent twice."""
        return f"claim:{self._claims}"

    def _record(self, receipt: TxReceipt) -> None:
        self._store.note_claim(receipt)
        self._claims = self._store.claims()

    def _note_unrecorded(self) -> None:
        """A claim that was mined before a crash, or by an earlier log of this key."""
        while True:
            intent = self._intent(self._claim_key())
            if intent is None:
                return
            try:
                before = self._claims
                self._record(self._sender.wait(intent))
            except ContractRevert:
                mined = mined_revert(self._sender, self._claim_key())
                if mined is None:
                    return
                self._record(mined)
            if self._claims == before:
                return


def mined_revert(sender: Sender, key: str) -> TxReceipt | None:
    """The transaction under `key`, if it was mined and reverted: it has cost its gas."""
    intent = sender.outbox.find(sender.client.chain_id, sender.address, key)
    return parse_tx_receipt(intent.receipt) if intent is not None and intent.receipt else None
