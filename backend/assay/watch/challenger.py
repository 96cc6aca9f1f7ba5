"""Disputes wrong receipts and plays the games to their end, each transaction once.

What there is to do follows from the chain's events and the store, so every step may be cut off anywhere: it
is found again and sent under the same idempotency key, which the sender's outbox knows.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import time as system_time
from typing import Final

import structlog

from assay.chain.client import hex_bytes
from assay.chain.contracts import read_many
from assay.chain.dispute_game import state_hash
from assay.chain.disputes import DisputeRecord
from assay.chain.errors import InsufficientFunds
from assay.chain.fees import fetch_fees
from assay.chain.outbox import Intent, IntentState
from assay.chain.sender import Sender
from assay.chain.values import Call
from assay.commitments.receipts import receipts_tree
from assay.errors import ContractRevert, RequestError, RetryableError
from assay.exact.game import Concession, Move, Phase, Side, challenge
from assay.types import FraudKind, Hash32
from assay.watch.contracts import Contracts
from assay.watch.decision import Decision, Rules, Situation, decide
from assay.watch.ledger import Ledger
from assay.watch.programs import NoProgramError
from assay.watch.store import Store
from assay.watch.traces import NoTraceError, Traces
from assay.watch.values import Challenge, ChallengeState, Fraud, FraudState, SeenReceipt

GAME_GAS: Final = 1_500_000
"""More than a challenger's transactions of the longest dispute take."""
RETRY_SECONDS: Final = 2.0
WAIT_SECONDS: Final = 5.0
MAX_REVERTS: Final = 5
"""Transactions for one purpose that were mined and reverted; after that somebody has to look."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ChainTime:
    """`head`: the newest block's time. `now`: what the next one's may be by this machine's clock.

    What cannot be undone is decided by `head`; on `now` the contract is merely asked.
    """

    head: int
    now: int


class Challenger:
    """`step` does all that can be done now; one thread."""

    def __init__(
        self,
        contracts: Contracts,
        sender: Sender,
        store: Store,
        traces: Traces,
        rules: Rules,
        *,
        clock: Callable[[], float] = system_time,
    ) -> None:
        game = self._game = contracts.game
        self._settlement, self._nodes, self._token = contracts.settlement, contracts.nodes, contracts.token
        self._sender, self._store, self._traces, self._rules = sender, store, traces, rules
        self._clock = clock
        self._me = sender.address
        self._client = game.client
        self.ledger = Ledger(game, store, self._me)
        self._bond, self._slash, self._window = read_many(
            self._client,
            [game.view("bond"), game.view("slash_amount"), self._settlement.view("dispute_window")],
        )
        self._stuck: set[tuple[int, Hash32]] = set()
        self._closed: set[int] = set()

    @property
    def bond(self) -> int:
        return int(self._bond)

    def step(self, time: ChainTime) -> None:
        """Moves first: they have deadlines. Raises RetryableError, FatalError."""
        self._tend()
        own = self.ledger.own()
        for record in own.values():
            self._tell(record)
            if record.is_open:
                with self._guarded(f"dispute {record.dispute_id}"):
                    self._play(record, time)
        by_digest = {record.opened.digest for record in own.values()}
        for opened in self._store.challenges(ChallengeState.OPENED, self._clock()):
            if opened.digest not in by_digest:
                with self._guarded("opening", opened):
                    self._open(opened)
        for due in self._store.challenges(ChallengeState.DUE, self._clock()):
            if due.digest in by_digest:
                self._note(due, ChallengeState.OPENED)
            else:
                with self._guarded("opening", due):
                    self._consider(due, time.head)
        for fraud in self._store.due_frauds(self._clock()):
            with self._guarded(str(fraud.kind)):
                self._report(fraud)

    def _tell(self, record: DisputeRecord) -> None:
        """Log how a dispute ended, once a process."""
        closing = record.closing
        if closing is None:
            self._closed.discard(record.dispute_id)
        elif record.dispute_id not in self._closed:
            self._closed.add(record.dispute_id)
            log.info(
                "dispute closed",
                dispute=record.dispute_id,
                won=not closing.node_won,
                phase=closing.phase.name,
                to_challenger=closing.to_challenger,
            )

    def _tend(self) -> None:
        """Send again what a pool or a reorg dropped, raise fees that are too low."""
        with self._guarded("transactions"):
            self._sender.resume(timeout=0)

    @contextmanager
    def _guarded(self, what: str, challenge: Challenge | None = None) -> Iterator[None]:
        """One purpose's trouble is not another's; an opening in trouble is tried again a little later."""
        try:
            yield
        except (RetryableError, InsufficientFunds, RequestError, ContractRevert) as error:
            log.log(
                logging.INFO if what == "transactions" else logging.WARNING,
                "waiting",
                purpose=what,
                error=str(error),
            )
            if challenge is not None:
                self._note(challenge, challenge.state, str(error), wait=WAIT_SECONDS)

    # --- playing ------------------------------------------------------------------------------------------

    def _play(self, record: DisputeRecord, time: ChainTime) -> None:
        state = record.state
        current = state_hash(state)
        reverts, next_at = self._store.play(record.dispute_id, current)
        is_stuck = reverts >= MAX_REVERTS or (record.dispute_id, current) in self._stuck
        if self._clock() < next_at or is_stuck:
            return
        key = f"play:{record.dispute_id}:{current.hex()}:{reverts}"
        known = self._sender.outbox.find(self._client.chain_id, self._me, key)
        call = known.call if known is not None else self._next_call(record, time)
        if call is None:
            return
        intent = self._submit(call, key)
        if intent is None or has_reverted(intent):
            reverts += intent is not None
            self._store.record_play(record.dispute_id, current, reverts, self._clock() + RETRY_SECONDS)
            if reverts >= MAX_REVERTS:
                log.error("moves keep reverting; look at them", dispute=record.dispute_id, move=call.label)

    def _next_call(self, record: DisputeRecord, time: ChainTime) -> Call | None:
        """What the challenger can send now; None: it is the node's time, or all is lost."""
        state, number = record.state, record.dispute_id
        if state.side is Side.CHALLENGER:
            if time.head > state.deadline:
                self._give_up(record, f"the move was owed by {state.deadline}, it is {time.head}")
                return None
            move = self._move(record)
            return None if move is None else self._game.move(number, state, move)
        if state.phase is Phase.FORFEIT or time.now > state.deadline:
            return self._game.claim_timeout(number, state, record.receipt)
        return None

    def _move(self, record: DisputeRecord) -> Move | None:
        try:
            trace = self._traces.get(record.state.digest, record.signed)
            move = challenge(record.state, record.data, trace)
        except (NoTraceError, NoProgramError) as error:
            self._give_up(record, str(error))
            return None
        if isinstance(move, Concession):
            self._give_up(record, move.reason)
            return None
        return move

    def _give_up(self, record: DisputeRecord, reason: str) -> None:
        """Nothing that could be sent would win; the bond will be the node's."""
        self._stuck.add((record.dispute_id, state_hash(record.state)))
        log.error("dispute cannot be won", dispute=record.dispute_id, reason=reason)

    def _submit(self, call: Call, key: str) -> Intent | None:
        """The intent under this key, sent now unless it was before; None: the chain would refuse it now."""
        try:
            is_new = self._sender.outbox.find(self._client.chain_id, self._me, key) is None
            intent = self._sender.submit(call, key=key)
        except ContractRevert as error:
            log.warning("not sent: the contract would refuse it", call=call.label, reason=str(error))
            return None
        if is_new:
            log.info("sent", call=call.label, transaction=hex_bytes(intent.newest.hash))
        return intent

    # --- opening ------------------------------------------------------------------------------------------

    def _consider(self, due: Challenge, now: int) -> None:
        seen = self._store.receipt(due.digest)
        if seen is None:
            self._note(due, ChallengeState.DROPPED, "its receipt is not known any more")
            return
        if self._sender.outbox.find(self._client.chain_id, self._me, open_key(due)) is not None:
            self._open(due)
            return
        decision, reason = decide(self._situation(seen, now), self._rules)
        if decision is Decision.DROP:
            log.warning("not disputed", digest=hex_bytes(due.digest), reason=reason)
            self._note(due, ChallengeState.DROPPED, reason)
        elif decision is Decision.WAIT:
            log.warning("dispute waits", digest=hex_bytes(due.digest), reason=reason)
            self._note(due, ChallengeState.DUE, reason, wait=WAIT_SECONDS)
        else:
            self._prepare(seen)
            self._approve()
            self._open(due)

    def _situation(self, seen: SeenReceipt, now: int) -> Situation:
        receipt = seen.signed.receipt
        block = self._client.block_number()
        is_void, tokens, node, batch = read_many(
            self._client,
            [
                self._settlement.view("is_void", seen.digest),
                self._token.view("balanceOf", self._me),
                self._nodes.view("nodes", receipt.node),
                self._settlement.view("batches", seen.batch_id),
            ],
            block,
        )
        records = self.ledger.disputes().values()
        own = [r for r in records if r.challenger == self._me]
        others = [r for r in records if r.challenger != self._me and r.opened.digest == seen.digest]
        own_digests = {r.opened.digest for r in own}
        in_flight = [c for c in self._store.challenges(ChallengeState.OPENED) if c.digest not in own_digests]
        started = batch.posted_at if seen.position is not None and batch.exists else receipt.executed_at
        return Situation(
            now=now,
            open_until=started + self._window,
            is_void=is_void,
            others_open=sum(record.is_open for record in others),
            bond=self._bond,
            tokens=tokens - self._bond * len(in_flight),
            gas_needed=GAME_GAS * fetch_fees(self._client).max_fee,
            gas_balance=self._client.get_balance(self._me),
            reward=min(self._slash, node.stake + node.thawing) // 2,
            own_open=sum(record.is_open for record in own) + len(in_flight),
        )

    def _prepare(self, seen: SeenReceipt) -> None:
        """The trace, before the clock runs. Inputs that are no program's have none, and need none."""
        try:
            self._traces.get(seen.digest, seen.signed)
        except NoTraceError as error:
            log.info("no trace", digest=hex_bytes(seen.digest), reason=str(error))

    def _approve(self) -> None:
        """Let the game take as many bonds as may be out at once."""
        if self._token.allowance(self._me, self._game.address) < self._bond:
            self._sender.send(self._token.approve(self._game.address, self._bond * self._rules.max_open))

    def _open(self, challenge: Challenge) -> None:
        """Sent under one key until it is mined; a mined revert gives the next key."""
        seen = self._store.receipt(challenge.digest)
        if seen is None:
            self._note(challenge, ChallengeState.DROPPED, "its receipt is not known any more")
            return
        intent = self._submit(self._game.open(seen.signed, self._proof(seen)), open_key(challenge))
        if intent is None:
            self._note(challenge, ChallengeState.DUE, "the contract would refuse it", wait=WAIT_SECONDS)
        elif has_reverted(intent):
            attempts = challenge.attempts + 1
            state = ChallengeState.DUE if attempts < MAX_REVERTS else ChallengeState.DROPPED
            self._store.record_challenge(
                challenge.digest,
                state,
                "its opening was mined and reverted",
                attempts=attempts,
                next_at=self._clock() + WAIT_SECONDS,
            )
        else:
            self._note(challenge, ChallengeState.OPENED)

    def _proof(self, seen: SeenReceipt) -> tuple[list[Hash32], int] | None:
        """That a batch has it; None: it is disputed as in no batch."""
        leaves = self._store.leaves(seen.batch_id)
        if seen.position is None or leaves[seen.position : seen.position + 1] != [seen.digest]:
            return None
        return receipts_tree(leaves).proof(seen.position), seen.position

    def _note(
        self, challenge: Challenge, state: ChallengeState, reason: str = "", *, wait: float = 0.0
    ) -> None:
        next_at = self._clock() + wait if wait else 0.0
        self._store.record_challenge(
            challenge.digest, state, reason, attempts=challenge.attempts, next_at=next_at
        )

    # --- two signatures -----------------------------------------------------------------------------------

    def _report(self, fraud: Fraud) -> None:
        first, second = self._store.receipt(fraud.first), self._store.receipt(fraud.second)
        if first is None or second is None:
            self._store.record_fraud(fraud, FraudState.DROPPED, "its receipts are not known any more")
            return
        is_equivocation = fraud.kind is FraudKind.EQUIVOCATION
        prove = self._game.prove_equivocation if is_equivocation else self._game.prove_contradiction
        key = f"fraud:{fraud.kind}:{fraud.name.hex()}:{fraud.attempts}"
        known = self._sender.outbox.find(self._client.chain_id, self._me, key)
        if known is not None and known.state is IntentState.MINED and not has_reverted(known):
            self._store.record_fraud(fraud, FraudState.PROVEN)
            return
        try:
            intent = self._sender.submit(prove(first.signed, second.signed), key=key)
        except ContractRevert as error:  # slashed for it before, no stake, not of an exact version
            log.info("fraud not proven", kind=str(fraud.kind), reason=str(error))
            self._store.record_fraud(fraud, FraudState.DROPPED, str(error), attempts=fraud.attempts)
            return
        attempts = fraud.attempts + has_reverted(intent)
        state = FraudState.DROPPED if attempts >= MAX_REVERTS else FraudState.DUE
        self._store.record_fraud(
            fraud, state, "sent", attempts=attempts, next_at=self._clock() + RETRY_SECONDS
        )


def open_key(challenge: Challenge) -> str:
    return f"open:{challenge.digest.hex()}:{challenge.attempts}"


def has_reverted(intent: Intent) -> bool:
    """Whether it was mined, and in vain."""
    is_mined = intent.state is IntentState.MINED and intent.receipt is not None
    return is_mined and int((intent.receipt or {})["status"], 16) == 0
