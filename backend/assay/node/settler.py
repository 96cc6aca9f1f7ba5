"""Turns receipts into money: closes batches, posts them, collects after the dispute window, claims.

A batch is on disk, and served at `/v1/batches/…`, before its transaction exists; the transaction is sent
under the batch's id as idempotency key. So after a crash between any two steps the next run goes on where
this one stopped:

    close → `closed` → send → `post_sent` → mark → `posted` → send → `collect_sent` → mark → `collected` →
    `claim_sent`
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

import structlog

from assay.chain.client import hex_bytes
from assay.chain.contracts import Settlement, read_many
from assay.chain.sender import Sender
from assay.chain.settlement import MAX_COLLECT, MAX_VOUCHERS, MAX_WALLET_VOUCHERS
from assay.chain.values import TxReceipt
from assay.errors import ContractRevert
from assay.node.batches import Batch, BatchState, BatchStore, ChannelVoucher, Due
from assay.types import Address, Hash32

REVERT_WAIT: Final = 30.0
RECHECK_SECONDS: Final = 30.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SettlerRules:
    """When a version's open receipts become a batch; amounts in base units. `max_value` 0: not by value."""

    max_receipts: int = 10_000
    max_value: int = 0
    max_age_seconds: float = 300.0
    acknowledgement_seconds: float = 5.0
    """How long after its newest receipt a batch closed for its age waits for the consumers to acknowledge."""
    free_receipts: bool = False
    min_claim: int = 1

    def calls_for(self, due: Due, now: float, is_acknowledged: Callable[[Hash32], bool]) -> bool:
        """Whether a version's open receipts become a batch at `now`."""
        if due.receipts >= self.max_receipts or (self.max_value and due.value >= self.max_value):
            return True
        if now - due.oldest < self.max_age_seconds:
            return False
        return now - due.newest >= self.acknowledgement_seconds or is_acknowledged(due.version_id)


class Settler:
    """Synchronous; `step` does all that can be done now. `on_step` hears of each boundary named above."""

    def __init__(
        self,
        store: BatchStore,
        settlement: Settlement,
        sender: Sender,
        node: Address,
        rules: SettlerRules,
        *,
        clock: Callable[[], float] = time.time,
        on_step: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._store = store
        self._settlement = settlement
        self._client = settlement.client
        self._sender = sender
        self._node = node
        self._rules = rules
        self._clock = clock
        self._on_step = on_step
        self._retry_at: dict[int, float] = {}
        self._checked_at: dict[int, float] = {}
        self._window: int | None = None
        self._resumed = False

    def step(self, *, close_all: bool = False) -> None:
        """`close_all` closes whatever is open. Raises RetryableError, FatalError."""
        if not self._resumed:
            self._sender.resume(timeout=60)
            self._resumed = True
        self.close_due(close_all=close_all)
        self.post_closed()
        self.collect_final()
        self.claim()

    # Closing

    def close_due(self, *, close_all: bool = False) -> list[Batch]:
        """Close a batch of each version that calls for one and has none waiting to be posted."""
        now = self._clock()
        closed = []
        for due in self._store.due(
            free_receipts=self._rules.free_receipts, with_value=self._rules.max_value > 0
        ):
            if self._store.has_closed(due.version_id):
                continue
            if close_all or self._rules.calls_for(due, now, self._store.is_acknowledged):
                closed.append(self._close(due.version_id))
        return closed

    def _close(self, version_id: Hash32) -> Batch:
        channels = self._store.channels_to_close(version_id, free_receipts=self._rules.free_receipts)
        vouchers = self._worthwhile(version_id, self._store.vouchers(channels))
        extra = [channel for channel in self._store.owing(version_id) if channel not in channels]
        room = _room(vouchers)
        for voucher in self._worthwhile(version_id, self._store.vouchers(extra)):
            if room[voucher.held.wallet] > 0:
                room[voucher.held.wallet] -= 1
                vouchers.append(voucher)
        batch = self._store.close_batch(
            version_id, channels, vouchers, self._rules.max_receipts, int(self._clock())
        )
        _log.info(
            "batch closed", batch=hex_bytes(batch.batch_id), receipts=batch.receipts, vouchers=len(vouchers)
        )
        self._on_step("closed")
        return batch

    def _worthwhile(self, version_id: Hash32, vouchers: list[ChannelVoucher]) -> list[ChannelVoucher]:
        """Those that the contract would not skip, as far as one can see now."""
        if not vouchers:
            return []
        number = self._client.block_number()
        view = self._settlement.view
        reads = [view("channel", v.consumer, self._node, version_id) for v in vouchers]
        reads += [view("escrows", v.consumer, self._node) for v in vouchers]
        answers = read_many(self._client, reads, number)
        result = []
        for voucher, channel, escrow in zip(
            vouchers, answers[: len(vouchers)], answers[len(vouchers) :], strict=True
        ):
            held = voucher.held
            falls = held.amount < channel.settled or held.count < channel.count
            if not falls and (
                (held.amount > channel.settled and escrow.balance)
                or (held.amount == channel.settled and held.count > channel.count)
            ):
                result.append(voucher)
        return result

    # Posting

    def post_closed(self) -> None:
        for batch in self._store.in_state(BatchState.CLOSED):
            if self._clock() >= self._retry_at.get(batch.id, 0.0):
                self._post(batch)

    def _post(self, batch: Batch) -> None:
        vouchers = self._store.batch_vouchers(batch)
        try:
            receipt = self._send_post(batch, vouchers)
        except ContractRevert as error:
            self._store.note_failure([batch], str(error), reverted=True)
            self._retry_at[batch.id] = self._clock() + REVERT_WAIT
            _log.error("batch refused", batch=hex_bytes(batch.batch_id), reason=str(error))
            return
        self._on_step("post_sent")
        found = self._settlement.batch(batch.batch_id)
        if not found.exists:
            return  # a reorg took it away again; the next step looks anew
        skipped = self._skipped(receipt)
        tx_hash = hex_bytes(receipt.transaction_hash) if receipt else None
        self._store.mark_posted(batch, found.posted_at, found.amount, tx_hash, skipped)
        self._note_settled(batch.key.version_id, vouchers)
        _log.info(
            "batch posted",
            batch=hex_bytes(batch.batch_id),
            receipts=batch.receipts,
            amount=found.amount,
            count=found.count,
            skipped=[(consumer, reason) for consumer, reason in skipped],
            gas=receipt.gas_used if receipt else None,
        )
        self._on_step("posted")

    def _send_post(self, batch: Batch, vouchers: Sequence[ChannelVoucher]) -> TxReceipt | None:
        """The posting's transaction, sent now unless it was; None if the batch is on-chain by another's
        hand."""
        key = f"post:{batch.batch_id.hex()}:{batch.attempt}"
        if self._settlement.batch(batch.batch_id).exists:
            intent = self._sender.outbox.find(self._client.chain_id, self._sender.address, key)
            return self._sender.wait(intent) if intent else None
        call = self._settlement.post_batch(
            self._node,
            batch.key.version_id,
            batch.key.receipts_root,
            [voucher.signed(self._node, batch.key.version_id) for voucher in vouchers],
        )
        return self._sender.send(call, key=key)

    def _skipped(self, receipt: TxReceipt | None) -> list[tuple[Address, int]]:
        if receipt is None:
            return []
        events = self._settlement.decode_logs(receipt.logs)
        return [
            (event.args["consumer"], int(event.args["reason"]))
            for event in events
            if event.name == "VoucherSkipped"
        ]

    def _note_settled(self, version_id: Hash32, vouchers: Sequence[ChannelVoucher]) -> None:
        keys = [(voucher.consumer, self._node, version_id) for voucher in vouchers]
        views = self._settlement.channels(keys)
        self._store.note_settled(
            (voucher.channel, view.settled, view.count) for voucher, view in zip(vouchers, views, strict=True)
        )

    # Collecting

    def collect_final(self) -> None:
        """Collect what is final; notice what a reorg undid and what somebody else collected."""
        batches = self._store.in_state(BatchState.POSTED)
        if not batches:
            return
        if self._window is None:
            self._window = self._settlement.dispute_window()
        chain_time = self._client.get_block("latest").timestamp
        due = [batch for batch in batches if self._needs_look(batch, chain_time)]
        final: list[Batch] = []
        for batch, view in zip(due, self._settlement.batches([b.batch_id for b in due]), strict=True):
            self._checked_at[batch.id] = self._clock()
            if not view.exists:
                _log.warning("batch vanished in a reorg", batch=hex_bytes(batch.batch_id))
                self._store.mark_vanished(batch)
            elif view.collected:
                self._store.mark_collected([batch])
            elif not view.holds and chain_time >= view.posted_at + self._window:
                final.append(batch)
        for start in range(0, len(final), MAX_COLLECT):
            self._collect(final[start : start + MAX_COLLECT])

    def _needs_look(self, batch: Batch, chain_time: int) -> bool:
        if self._clock() < self._retry_at.get(batch.id, 0.0):
            return False
        is_final = chain_time >= (batch.posted_at or 0) + (self._window or 0)
        return is_final or self._clock() - self._checked_at.get(batch.id, 0.0) >= RECHECK_SECONDS

    def _collect(self, batches: list[Batch]) -> None:
        name = sha256(b"".join(b"%s:%d" % (b.batch_id, b.attempt) for b in batches)).hexdigest()
        try:
            self._sender.send(self._settlement.collect([b.key for b in batches]), key=f"collect:{name}")
        except ContractRevert as error:
            self._store.note_failure(batches, str(error), reverted=True)
            self._retry_at.update({batch.id: self._clock() + REVERT_WAIT for batch in batches})
            _log.error("collect refused", batches=len(batches), reason=str(error))
            return
        self._on_step("collect_sent")
        self._store.mark_collected(batches)
        _log.info("batches collected", batches=len(batches))
        self._on_step("collected")

    def claim(self) -> None:
        """Pay out to the operator what settlements have credited."""
        amount = self._settlement.claimable(self._node)
        if amount < self._rules.min_claim:
            return
        try:
            self._sender.send(self._settlement.claim(self._node))
        except ContractRevert as error:
            _log.error("claim refused", amount=amount, reason=str(error))
            return
        _log.info("claimed", amount=amount)
        self._on_step("claim_sent")


def _room(vouchers: Sequence[ChannelVoucher]) -> dict[bool, int]:
    wallets = sum(voucher.held.wallet for voucher in vouchers)
    return {False: MAX_VOUCHERS - len(vouchers) + wallets, True: MAX_WALLET_VOUCHERS - wallets}
