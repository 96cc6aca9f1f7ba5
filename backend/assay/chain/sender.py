"""Sends the transactions of one key, each once, through crashes, lost answers, stuck fees and reorgs.

    with Sender(client, key, outbox) as sender:
        receipt = sender.send(settlement.collect(keys), key=f"collect:{batch_id}")

Order of events, each a step that `on_step` hears of: `prepared` → `persisted` (nonce, raw bytes and hash are
on disk) → `broadcast` → `mined` → `recorded`. A crash between two is continued by `resume()`, or by `send`
with the same idempotency key: it looks hashes up first and sends the stored bytes again.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from assay.chain.client import ChainClient, RpcCall, call_object, hex_bytes
from assay.chain.errors import AlreadyKnown, NonceTooLow, Underpriced
from assay.chain.fees import estimate_gas, fetch_fees
from assay.chain.outbox import Attempt, Intent, IntentState, Outbox
from assay.chain.transactions import Fees, Signer, Transaction, sign_transaction
from assay.chain.values import Call, TxReceipt, parse_tx_receipt
from assay.errors import ContractRevert, FatalError, RetryableError
from assay.types import Address

logger = logging.getLogger(__name__)

FIRST_POLL_SECONDS = 0.05
POLL_GROWTH = 1.5


@dataclass(frozen=True, slots=True)
class SenderOptions:
    """Seconds, except `max_fee` (wei per gas: never bid more) and `confirmations` (1 = mined).

    `displacement_seconds`: how long the chain must insist that a nonce is used by none of our transactions
    before the intent is given another nonce.
    """

    confirmations: int = 1
    timeout: float = 300.0
    bump_after: float = 45.0
    poll_interval: float = 2.0
    displacement_seconds: float = 20.0
    max_fee: int | None = None


@dataclass(frozen=True, slots=True)
class _Sight:
    """What one endpoint said: the account's next nonce, the head, intents' raw receipts, known intents."""

    count: int
    head: int
    receipts: dict[int, dict[str, Any]]
    known: set[int]


class Sender:
    """One per key and outbox; a second process is refused. Thread-safe; `send` calls of threads queue up."""

    def __init__(
        self,
        client: ChainClient,
        key: Signer,
        outbox: Outbox,
        options: SenderOptions | None = None,
        *,
        on_step: Callable[[str, Intent], None] | None = None,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.client, self.outbox = client, outbox
        self.options = options or SenderOptions()
        self.address = Address(key.address)
        self._key, self._clock, self._sleep = key, clock, sleep
        self._on_step = on_step or (lambda step, intent: None)
        self._lock = threading.RLock()
        self._displaced_since: dict[int, float] = {}
        self._held = contextlib.ExitStack()
        with contextlib.ExitStack() as stack:
            stack.enter_context(outbox.sender_lock(client.chain_id, self.address))
            outbox.bind_chain(client.chain_id, client.get_block(0).hash)
            self._held = stack.pop_all()

    def __enter__(self) -> Sender:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Let another process send with this key."""
        self._held.close()

    # --- the three verbs ----------------------------------------------------------------------------------

    def send(
        self,
        call: Call,
        label: str | None = None,
        *,
        key: str | None = None,
        confirmations: int | None = None,
        timeout: float | None = None,
    ) -> TxReceipt:
        """Submit and wait. With a `key` used before, nothing new is sent: the first call's fate is told.

        Raises `ContractRevert` (before sending, by the gas estimate; or with the mined transaction's reason),
        `RetryableError` when it is not mined in time (it stays in the outbox and is followed up).
        """
        return self.wait(self.submit(call, label, key=key), confirmations=confirmations, timeout=timeout)

    def submit(self, call: Call, label: str | None = None, *, key: str | None = None) -> Intent:
        """Persist and broadcast without waiting for a block."""
        key = key or uuid.uuid4().hex
        with self._lock:
            known = self.outbox.find(self.client.chain_id, self.address, key)
            self._tend(known)
            if known is not None:
                return self.outbox.get(known.id)
            intent = self._prepare(call, label or call.label, key)
            self._step("prepared", intent)
            intent = self.outbox.add(self.client.chain_id, self.address, intent)
            self._step("persisted", intent)
            self._broadcast(intent)
            return intent

    def wait(
        self, intent: Intent, *, confirmations: int | None = None, timeout: float | None = None
    ) -> TxReceipt:
        """Until the intent is `confirmations` deep; tends everything pending meanwhile."""
        confirmations = self.options.confirmations if confirmations is None else confirmations
        deadline = self._clock() + (self.options.timeout if timeout is None else timeout)
        pause = FIRST_POLL_SECONDS
        while True:
            try:
                receipt = self._follow(intent, confirmations)
            except RetryableError as error:
                logger.warning("waiting for %s: %s", intent.call.label, error)
                receipt = None
            if receipt is not None:
                return self._settle(intent, receipt)
            if self._clock() >= deadline:
                raise RetryableError(
                    f"transaction {hex_bytes(self.outbox.get(intent.id).newest.hash)} ({intent.call.label}) "
                    f"is not {confirmations} deep yet; it stays in {self.outbox.path}, `resume` goes on"
                )
            self._sleep(pause)
            pause = min(self.options.poll_interval, pause * POLL_GROWTH)

    def resume(self, timeout: float | None = None) -> list[TxReceipt]:
        """Finish what an earlier process left: look up, send the stored bytes again, wait.

        Answers the receipts, reverted ones too (status 0); nobody waits for those calls' results any more.
        """
        receipts: list[TxReceipt] = []
        unresolved = self.outbox.pending(self.client.chain_id, self.address)
        with self._lock:
            self._tend()
        reopened = self.outbox.pending(self.client.chain_id, self.address)
        for intent in {i.id: i for i in (*unresolved, *reopened)}.values():
            try:
                receipts.append(self.wait(intent, timeout=timeout))
            except ContractRevert as error:
                logger.warning("%s, sent before the restart, reverted: %s", intent.call.label, error)
                receipts.append(parse_tx_receipt(self.outbox.get(intent.id).receipt or {}))
        return receipts

    # --- steps --------------------------------------------------------------------------------------------

    def _prepare(self, call: Call, label: str, key: str) -> Intent:
        """Choose nonce, gas and fees; sign. Nothing is stored yet, nothing is owed if this fails."""
        chain_id = self.client.chain_id
        is_queued = bool(self.outbox.pending(chain_id, self.address))
        gas = estimate_gas(self.client, self.address, call, "pending" if is_queued else "latest")
        nonce = self._next_nonce()
        call = Call(call.to, call.data, label, call.value)
        attempt = self._sign(call, nonce, gas, self._capped(fetch_fees(self.client)))
        return Intent(0, key, nonce, call, gas, IntentState.PENDING, (attempt,))

    def _next_nonce(self) -> int:
        """Above all that we gave out and all that the endpoint has seen, in blocks or in the pool."""
        on_chain = self.client.get_transaction_count(self.address, "pending")
        return max(on_chain, self.outbox.next_nonce(self.client.chain_id, self.address))

    def _sign(self, call: Call, nonce: int, gas: int, fees: Fees) -> Attempt:
        transaction = Transaction(self.client.chain_id, nonce, call.to, call.data, call.value, gas, fees)
        raw, transaction_hash = sign_transaction(transaction, self._key)
        return Attempt(transaction_hash, raw, fees, self._clock())

    def _broadcast(self, intent: Intent, *, may_bump: bool = True) -> None:
        """Hand the newest attempt to the pool; what waiting may cure is left to the next `_tend`."""
        try:
            self.client.send_raw_transaction(intent.newest.raw)
        except AlreadyKnown:
            pass
        except (NonceTooLow, RetryableError) as error:
            logger.info("broadcast of %s: %s", intent.call.label, error)
            return
        except Underpriced as error:
            logger.info("broadcast of %s: %s", intent.call.label, error)
            if may_bump:
                self._bump(intent)
            return
        self._step("broadcast", intent)

    def _follow(self, intent: Intent, confirmations: int) -> dict[str, Any] | None:
        with self._lock:
            sight = self._tend(intent)
            receipt = sight.receipts.get(intent.id)
            if receipt is None or sight.head - int(receipt["blockNumber"], 16) + 1 < confirmations:
                return None
            return receipt

    def _settle(self, intent: Intent, raw: dict[str, Any]) -> TxReceipt:
        self._step("mined", intent)
        receipt = parse_tx_receipt(raw)
        with self._lock:
            self.outbox.record_mined(intent.id, raw)
        self._step("recorded", intent)
        if receipt.status == 0:
            raise self._revert_of(intent, receipt)
        return receipt

    # --- looking and mending ------------------------------------------------------------------------------

    def _tend(self, also: Intent | None = None) -> _Sight:
        """Look at everything unresolved (and `also`), lowest nonce first; send again, bump or renumber."""
        chain_id = self.client.chain_id
        intents = {intent.id: intent for intent in self.outbox.pending(chain_id, self.address)}
        if also is not None:
            intents[also.id] = self.outbox.get(also.id)
        sight = self._look(list(intents.values()))
        if self.outbox.next_nonce(chain_id, self.address) > sight.count:
            self.outbox.reopen_from(chain_id, self.address, sight.count)
            for intent in self.outbox.pending(chain_id, self.address):
                intents[intent.id] = intent
        is_first = True
        for intent in sorted(intents.values(), key=lambda i: i.nonce):
            if receipt := sight.receipts.get(intent.id) or self._pruned_receipt(intent, sight):
                sight.receipts[intent.id] = receipt
                self._displaced_since.pop(intent.id, None)
                depth = sight.head - int(receipt["blockNumber"], 16) + 1
                if intent.state == IntentState.PENDING and depth >= self.options.confirmations:
                    self.outbox.record_mined(intent.id, receipt)
            elif intent.nonce < sight.count:
                self._consider_displaced(intent)
            else:
                self._displaced_since.pop(intent.id, None)  # "for a while" means without a break
                self._push(intent, is_known=intent.id in sight.known, may_bump=is_first)
                is_first = False
        return sight

    def _pruned_receipt(self, intent: Intent, sight: _Sight) -> dict[str, Any] | None:
        """The recorded receipt, where the endpoint has forgotten it but not the block that it names."""
        if intent.receipt is None or intent.nonce >= sight.count:
            return None
        block = self.client.request("eth_getBlockByNumber", [intent.receipt["blockNumber"], False])
        return intent.receipt if block and block["hash"] == intent.receipt["blockHash"] else None

    def _look(self, intents: list[Intent]) -> _Sight:
        """One JSON-RPC batch, so that count, head and receipts come from one endpoint."""
        hashes = [(intent.id, hex_bytes(a.hash)) for intent in intents for a in intent.attempts]
        calls: list[RpcCall] = [("eth_getTransactionReceipt", [h]) for _, h in hashes]
        calls += [("eth_getTransactionByHash", [h]) for _, h in hashes]
        calls += [("eth_getTransactionCount", [self.address, "latest"]), ("eth_blockNumber", [])]
        *found, count, head = self.client.batch(calls)
        mined: list[Any] = found[: len(hashes)]
        pooled: list[Any] = found[len(hashes) :]
        return _Sight(
            count=int(count, 16),
            head=int(head, 16),
            receipts={
                number: raw
                for (number, _), raw in zip(hashes, mined, strict=True)
                if raw is not None and raw.get("blockHash")
            },
            known={number for (number, _), raw in zip(hashes, pooled, strict=True) if raw is not None},
        )

    def _push(self, intent: Intent, *, is_known: bool, may_bump: bool) -> None:
        """Not mined and its nonce is free: the pool must hold it, in the end at a better fee."""
        if not is_known:
            self._broadcast(intent)
        elif may_bump and self._clock() - intent.newest.created_at >= self.options.bump_after:
            self._bump(intent)

    def _bump(self, intent: Intent) -> None:
        fees = self._capped(intent.newest.fees.bumped(fetch_fees(self.client)))
        if not _is_replacement(intent.newest.fees, fees):
            logger.warning("%s waits: its fee has reached the cap of %s wei", intent.call.label, fees.max_fee)
            return
        attempt = self._sign(intent.call, intent.nonce, intent.gas, fees)
        bumped = self.outbox.add_attempt(intent.id, attempt)
        self._step("bumped", bumped)
        self._broadcast(bumped, may_bump=False)

    def _consider_displaced(self, intent: Intent) -> None:
        """The nonce is used, by none of our hashes: an endpoint that lags, or another program with this key.

        Only after the chain has insisted for a while is the call given a new nonce.
        """
        since = self._displaced_since.setdefault(intent.id, self._clock())
        if self._clock() - since < self.options.displacement_seconds:
            return
        logger.warning("nonce %s of %s was used by a foreign transaction", intent.nonce, self.address)
        nonce = self._next_nonce()
        attempt = self._sign(intent.call, nonce, intent.gas, self._capped(fetch_fees(self.client)))
        moved = self.outbox.add_attempt(intent.id, attempt, nonce)
        self._displaced_since.pop(intent.id, None)
        self._step("renumbered", moved)
        self._broadcast(moved)

    def _capped(self, fees: Fees) -> Fees:
        cap = self.options.max_fee
        if cap is None or fees.max_fee <= cap:
            return fees
        return Fees(cap, None if fees.priority_fee is None else min(fees.priority_fee, cap))

    def _revert_of(self, intent: Intent, receipt: TxReceipt) -> ContractRevert:
        """Run the call again where it was mined, to learn the reason that the receipt does not tell."""
        call = intent.call
        if call.to is None:
            return ContractRevert(f"contract creation ({call.label}) reverted")
        request = call_object(call.to, call.data, self.address) | {
            "value": hex(call.value),
            "gas": hex(intent.gas),
        }
        for block in (receipt.block_number, receipt.block_number - 1):
            try:
                self.client.request("eth_call", [request, hex(block)])
            except ContractRevert as error:
                return error
            except (RetryableError, FatalError):
                continue
        why = (
            "ran out of gas"
            if receipt.gas_used >= intent.gas
            else "reverted; the reason cannot be reproduced"
        )
        return ContractRevert(f"transaction {hex_bytes(receipt.transaction_hash)} ({call.label}) {why}")

    def _step(self, name: str, intent: Intent) -> None:
        logger.debug("%s: %s (nonce %s)", name, intent.call.label, intent.nonce)
        self._on_step(name, intent)


def _is_replacement(old: Fees, new: Fees) -> bool:
    """Whether pools accept it in the other's place: both fees at least 10 % higher."""
    if old.priority_fee is None or new.priority_fee is None:
        return new.max_fee * 10 >= old.max_fee * 11
    return new.max_fee * 10 >= old.max_fee * 11 and new.priority_fee * 10 >= old.priority_fee * 11
