"""Turns receipts into money: closes batches that are worth it, posts them, collects after the dispute window,
claims.

A batch is on disk, and served at `/v1/batches/…`, before its transaction exists; the transaction is sent
under the batch's id as idempotency key. So after a crash between any two steps the next run goes on where
this one stopped:

    read → `hashed` → close → `closed` → send → `post_sent` → mark → `posted` → send → `collect_sent` → mark →
    `collected` → `claim_sent`
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import structlog

from assay.chain.client import hex_bytes
from assay.chain.contracts import Settlement, read_many
from assay.chain.sender import Sender
from assay.chain.settlement import MAX_VOUCHERS, MAX_WALLET_VOUCHERS
from assay.chain.values import TxReceipt
from assay.errors import ContractRevert
from assay.node.receipts.retention import PRUNE_SECONDS, Retention
from assay.node.receipts.unbatched import choose_ranges, within_rows
from assay.node.settlement.batches import BatchStore
from assay.node.settlement.payout import Payout, mined_revert
from assay.node.settlement.prospects import Forecast, Outlook, forecasts
from assay.node.settlement.values import Batch, BatchState, ChannelVoucher, Owing
from assay.node.settlement.worth import SettlerRules
from assay.types import Address, Hash32

REVERT_WAIT: Final = 30.0
QUIET_SECONDS: Final = 60.0
"""Between two log lines about a batch that waits."""

_log = structlog.get_logger(__name__)


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
        retention: Retention | None = None,
        clock: Callable[[], float] = time.time,
        on_step: Callable[[str], None] = lambda name: None,
    ) -> None:
        """`retention`: drop what is old, where no defender does it."""
        self._store = store
        self._settlement = settlement
        self._client = settlement.client
        self._sender = sender
        self._node = node
        self._rules = rules
        self._clock = clock
        self._on_step = on_step
        self._retry_at: dict[int, float] = {}
        self._told_at: dict[Hash32, float] = {}
        self._resumed = False
        self._retention = retention
        self._pruned_at = 0.0
        self._outlook = Outlook(settlement, node)
        self._payout = Payout(
            store,
            settlement,
            sender,
            node,
            rules,
            outlook=self._outlook,
            clock=clock,
            on_step=on_step,
            retry_at=self._retry_at,
        )

    def step(self, *, close_all: bool = False) -> None:
        """`close_all` closes whatever is open. Raises RetryableError, FatalError."""
        if not self._resumed:
            self._sender.resume(timeout=60)
            outbox, chain_id = self._sender.outbox, self._client.chain_id
            self._store.correct_costs(outbox.newest(chain_id, self._sender.address))
            self._resumed = True
        with self._outlook.one_head():
            self.close_due(close_all=close_all)
            self.post_closed()
            self._payout.collect_final()
        self._payout.claim()
        self._prune()

    def _prune(self) -> None:
        if self._retention is None or self._clock() - self._pruned_at < PRUNE_SECONDS:
            return
        self._pruned_at = self._clock()
        if dropped := self._store.prune(self._retention, self._client.get_block("latest").timestamp):
            _log.info("old receipts dropped", receipts=dropped)

    # Closing

    def close_due(self, *, close_all: bool = False) -> list[Batch]:
        """Close a batch of each version that calls for one and has none waiting to be posted."""
        closed = []
        for forecast in forecasts(
            self._store, self._outlook, self._rules, self._clock(), close_all=close_all
        ):
            if self._store.has_closed(forecast.version_id):
                continue
            if forecast.decision.closes:
                closed.append(self._close(forecast))
            elif self._clock() - self._told_at.get(forecast.version_id, 0.0) >= QUIET_SECONDS:
                self._told_at[forecast.version_id] = self._clock()
                _log.info("batch waits", text=forecast.decision.text, **self._facts(forecast))
        return closed

    def _facts(self, forecast: Forecast) -> dict[str, Any]:
        """What the decision was made of."""
        seen, decision = forecast.prospect, forecast.decision
        return {
            "version": hex_bytes(forecast.version_id),
            "reason": str(decision.reason),
            "open": seen.receipts,
            "value": decision.value,
            "cost": decision.cost,
            "needed": decision.needed,
            "gas": seen.rows.gas,
            "gas_price": seen.gas_price,
            "usual_gas_price": self._outlook.gas_price().usual,
            "age": round(decision.age_seconds),
            "at_risk": seen.at_risk,
            "cover": seen.cover,
        }

    def _close(self, forecast: Forecast) -> Batch:
        version_id = forecast.version_id
        channels = within_rows(forecast.channels)
        ranges = choose_ranges(channels, self._rules.max_receipts)
        vouchers = self._vouchers(version_id, [channel.channel for channel in channels], forecast.owing)
        started = time.monotonic()
        leaves = self._store.leaves(ranges)
        root = leaves.root()
        self._on_step("hashed")
        batch = self._store.write_batch(version_id, root, leaves, vouchers, int(self._clock()))
        _log.info(
            "batch closed",
            batch=hex_bytes(batch.batch_id),
            receipts=batch.receipts,
            seconds=round(time.monotonic() - started, 3),
            rows=len(vouchers),
            **self._facts(forecast),
        )
        self._on_step("closed")
        return batch

    def _vouchers(
        self, version_id: Hash32, channels: Sequence[int], owing: Sequence[Owing]
    ) -> list[ChannelVoucher]:
        """Of the batch's channels first, then of others that owe, the greatest debts first."""
        vouchers = self._worthwhile(version_id, self._store.vouchers(channels))
        debts = sorted(owing, key=lambda row: row.settled - row.amount)
        others = [row.channel for row in debts if row.channel not in set(channels)]
        room = _room(vouchers)
        for start in range(0, len(others), MAX_VOUCHERS):
            if not any(room.values()):
                break
            page = self._store.vouchers(others[start : start + MAX_VOUCHERS])
            for voucher in self._worthwhile(version_id, page):
                if room[voucher.held.wallet] > 0:
                    room[voucher.held.wallet] -= 1
                    vouchers.append(voucher)
        return vouchers

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
        key = f"post:{batch.batch_id.hex()}:{batch.attempt}"
        try:
            receipt = self._send_post(batch, vouchers, key)
        except ContractRevert as error:
            self._store.note_failure([batch], str(error), receipt=mined_revert(self._sender, key))
            self._retry_at[batch.id] = self._clock() + REVERT_WAIT
            _log.error("batch refused", batch=hex_bytes(batch.batch_id), reason=str(error))
            return
        self._on_step("post_sent")
        found = self._settlement.batch(batch.batch_id)
        if not found.exists:
            return  # a reorg took it away again; the next step looks anew
        skipped = self._skipped(receipt)
        settled = self._settled(batch.key.version_id, vouchers)
        self._store.mark_posted(batch, found.posted_at, found.amount, receipt, skipped, settled=settled)
        self._outlook.escrows.forget(voucher.consumer for voucher in vouchers)
        _log.info(
            "batch posted",
            batch=hex_bytes(batch.batch_id),
            receipts=batch.receipts,
            amount=found.amount,
            count=found.count,
            skipped=[(consumer, reason) for consumer, reason in skipped],
            gas=receipt.gas_used if receipt else None,
            wei=receipt.gas_used * receipt.effective_gas_price if receipt else None,
        )
        self._on_step("posted")

    def _send_post(self, batch: Batch, vouchers: Sequence[ChannelVoucher], key: str) -> TxReceipt | None:
        """The posting's transaction, sent now unless it was; None if the batch is on-chain by another's
        hand."""
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

    def _settled(self, version_id: Hash32, vouchers: Sequence[ChannelVoucher]) -> list[tuple[int, int, int]]:
        """(channel, amount, count) as the chain has them now."""
        keys = [(voucher.consumer, self._node, version_id) for voucher in vouchers]
        views = self._settlement.channels(keys)
        return [
            (voucher.channel, view.settled, view.count) for voucher, view in zip(vouchers, views, strict=True)
        ]


def _room(vouchers: Sequence[ChannelVoucher]) -> dict[bool, int]:
    wallets = sum(voucher.held.wallet for voucher in vouchers)
    return {False: MAX_VOUCHERS - len(vouchers) + wallets, True: MAX_WALLET_VOUCHERS - wallets}
