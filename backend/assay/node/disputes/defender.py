"""Answers every dispute of this node, from its log, within the window.

Each `step` looks at the chain anew, so a crash or a reorg between any two changes nothing: the current state
of each dispute comes from events, the move from that state and the trace, and the transaction is sent under
the dispute's number and state hash as idempotency key, so that a move is never played twice.

    DisputeOpened → trace of the receipt's inputs → move → … → proven, or the challenger's time-out claimed
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import structlog

from assay.chain.client import hex_bytes
from assay.chain.dispute_game import DisputeGame, state_hash
from assay.chain.disputes import EVENTS, DisputeRecord, fetch_disputes, fold_events
from assay.chain.errors import InsufficientFunds
from assay.chain.logs import scan_logs
from assay.chain.outbox import IntentState
from assay.chain.sender import Sender
from assay.chain.values import Block, Call, EventData, parse_tx_receipt
from assay.errors import AssayError, ContractRevert, FatalError, RetryableError
from assay.exact.game import LEVELS, PARTS, Phase, Side, State, defend
from assay.node.disputes.dispute_log import DisputeLog
from assay.node.disputes.tracing import TraceSource, Undefendable, disagreement
from assay.node.receipts.log import read_data
from assay.node.receipts.retention import PRUNE_SECONDS, Retention
from assay.node.settlement import spending
from assay.node.settlement.spending import Kind
from assay.types import Address, Hash32

REORG_BLOCKS: Final = 64
"""Events this deep are taken for good."""
RETRY_SECONDS: Final = 30.0
"""After a refused move, and between two alerts of one dispute."""

_PREFIX: Final = "dispute:"
"""Of the idempotency keys of its transactions."""

_log = structlog.get_logger(__name__)


class Defender:
    """Synchronous; `step` does all that can be done now. `on_step` hears `sent` after each broadcast."""

    def __init__(
        self,
        game: DisputeGame,
        disputes: DisputeLog,
        sender: Sender,
        node: Address,
        traces: TraceSource,
        *,
        retention: Retention | None = None,
        clock: Callable[[], float] = time.time,
        on_step: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._game = game
        self._client = game.client
        self._disputes = disputes
        self._sender = sender
        self._node = node
        self._traces = traces
        self._retention = retention
        self._clock = clock
        self._on_step = on_step
        self._base: dict[int, DisputeRecord] | None = None
        self._cursor = 0
        self._saved: dict[int, DisputeRecord] = {}
        self._retry_at: dict[int, tuple[State, float]] = {}
        self._stale_since: dict[int, float] = {}
        self._told: dict[int, tuple[str, float]] = {}
        self._pruned_at = 0.0
        self._unpaid: dict[str, Hash32 | None] | None = None
        """Transactions whose cost is not in the books, with the version that they defend; None: not known
        since the start."""
        self._seen: tuple[Hash32, dict[int, DisputeRecord]] | None = None

    def step(self) -> None:
        """Raises RetryableError, FatalError."""
        head = self._client.get_block("latest")
        if self._seen is None or self._seen[0] != head.hash:
            self._seen = None
            self._seen = head.hash, self.follow(head)
        records = self._seen[1]
        for record in sorted(records.values(), key=lambda one: one.state.deadline):
            if record.is_open:
                self._handle(record, head)
        self._note_costs()
        self._prune()

    # --- what the chain says ------------------------------------------------------------------------------

    def follow(self, head: Block) -> dict[int, DisputeRecord]:
        """This node's disputes as of `head`, open ones and those closed lately; the log is brought up to
        it."""
        base = self._restored()
        start = self._cursor + 1
        events = self._events(base, start, head.number)
        records = fold_events(events, base)
        self._save(records)
        final = head.number - REORG_BLOCKS
        if final > self._cursor and (events or final >= self._cursor + REORG_BLOCKS):
            done = fold_events((event for event in events if event.block_number <= final), base)
            self._base = {number: record for number, record in done.items() if record.is_open}
            self._cursor = final
            self._disputes.set_cursor(final, self._client.get_block(final).timestamp)
        return records

    def _restored(self) -> dict[int, DisputeRecord]:
        """The open disputes as of the cursor; from the chain again after a start."""
        if self._base is None:
            self._check_rules()
            known = self._disputes.cursor()
            self._cursor = known[0] if known else self._game.deployment.block - 1
            rows = self._disputes.unsettled(self._cursor)
            self._base = {}
            if rows:
                first = min(row.opened_block for row in rows)
                found = fetch_disputes(
                    self._client,
                    self._game,
                    first,
                    self._cursor,
                    node=self._node,
                    ids={row.dispute_id for row in rows},
                )
                self._base = {number: record for number, record in found.items() if record.is_open}
        return self._base

    def _check_rules(self) -> None:
        """Raises FatalError where the contract cuts trees and reductions otherwise than this release."""
        rules = {name: self._game.read(name) for name in ("LEVELS", "PARTS")}
        if rules != {"LEVELS": LEVELS, "PARTS": PARTS}:
            raise FatalError(
                f"dispute game {self._game.address} has {rules}, this release plays with LEVELS {LEVELS} and "
                f"PARTS {PARTS}: every dispute would be lost; run the release that belongs to the deployment"
            )

    def _events(self, base: dict[int, DisputeRecord], start: int, end: int) -> list[EventData]:
        """Of this node's disputes, oldest first."""
        node = "0x" + self._node[2:].lower().rjust(64, "0")
        abi = self._game.abi
        opened = scan_logs(self._game, [abi.topic("DisputeOpened"), None, node], start, end)
        numbers = {self._game.decode_log(log).args["dispute_id"] for log in opened} | base.keys()
        if not numbers:
            return []
        topics = [[abi.topic(name) for name in EVENTS], [f"0x{number:064x}" for number in sorted(numbers)]]
        return [self._game.decode_log(log) for log in scan_logs(self._game, topics, start, end)]

    def _save(self, records: dict[int, DisputeRecord]) -> None:
        gone = [row.dispute_id for row in self._disputes.unsettled(self._cursor)]
        vanished = [number for number in gone if number not in records]
        if vanished:
            _log.warning("disputes vanished in a reorg", disputes=vanished)
            self._disputes.forget(vanished)
        for number, record in records.items():
            if self._saved.get(number) != record:
                self._disputes.save(record)
                self._announce(record, self._saved.get(number))
        self._saved = dict(records)

    def _announce(self, record: DisputeRecord, before: DisputeRecord | None) -> None:
        name = _name(record)
        if record.closing is not None:
            self._told.pop(record.dispute_id, None)
            tell = _log.info if record.closing.node_won else _log.error
            won = "won" if record.closing.node_won else "lost"
            tell(f"dispute {won}", **name, slashed=record.closing.slashed)
        elif before is None:
            _log.error(
                "this node is under dispute",
                **name,
                challenger=record.challenger,
                phase=record.state.phase.name,
                deadline=record.state.deadline,
            )

    # --- what the node does -------------------------------------------------------------------------------

    def _handle(self, record: DisputeRecord, head: Block) -> None:
        state, at = self._retry_at.get(record.dispute_id, (None, 0.0))
        if state == record.state and self._clock() < at:
            return
        try:
            self._act(record, head)
        except RetryableError as error:
            self._alert(record, f"the answer waits: {error}")
        except InsufficientFunds as error:
            self._refused(record, f"signer {self._sender.address} cannot pay gas; send it funds ({error})")
        except ContractRevert as error:
            self._refused(record, f"the contract refuses the move: {error}")
        except Undefendable as error:
            self._refused(record, str(error))
        except FatalError:
            raise
        except AssayError as error:
            self._refused(record, f"no trace could be made: {error}")
        except Exception as error:
            _log.error("dispute not answered", **_name(record), exc_info=error)
            self._refused(record, f"no trace could be made: {type(error).__name__}: {str(error)[:200]}")

    def _act(self, record: DisputeRecord, head: Block) -> None:
        state = record.state
        if state.phase is Phase.FORFEIT:
            self._alert(record, "lost: its trace has a leaf where the tree has only padding")
        elif record.side is Side.CHALLENGER:
            if max(head.timestamp, self._clock()) > state.deadline:
                self._send(record, "timeout", self._time_out)
        elif head.timestamp > state.deadline:
            self._alert(record, "the window for its move has passed unanswered: the challenger can claim it")
        else:
            self._send(record, "move", self._move)

    def _move(self, record: DisputeRecord) -> Call:
        """Raises Undefendable."""
        digest = record.state.digest
        trace = self._traces.trace(record.receipt, digest)
        if disagreement(trace, record.receipt):
            reason = disagreement(trace, record.receipt, read_data(self._disputes.connection, digest))
            raise Undefendable(
                f"this node signed what is wrong: {reason}. The dispute cannot be won, so no move is sent; "
                "find out why (memory, other hardware, another runtime) before it serves exact versions again"
            )
        return self._game.move(record.dispute_id, record.state, defend(record.state, trace, record.receipt))

    def _time_out(self, record: DisputeRecord) -> Call:
        return self._game.claim_timeout(record.dispute_id, record.state, record.receipt)

    def _send(self, record: DisputeRecord, kind: str, build: Callable[[DisputeRecord], Call]) -> None:
        """Once for each state of a dispute; a transaction that was sent already is tended instead."""
        number, state = record.dispute_id, record.state
        attempt = self._disputes.attempt(number)
        key = f"{_PREFIX}{number}:{kind}:{state_hash(state).hex()}:{attempt}"
        known = self._sender.outbox.find(self._client.chain_id, self._sender.address, key)
        if known is None and not self._is_current(record):
            return
        self._owed_for()[key] = record.receipt.version_id
        intent = self._sender.submit(known.call if known else build(record), key=key)
        self._on_step("sent")
        if intent.state is IntentState.MINED and intent.receipt and int(intent.receipt["status"], 16) == 0:
            self._disputes.note_revert(number)
            self._refused(record, f"transaction {hex_bytes(intent.newest.hash)} was mined and reverted")
            return
        self._disputes.note_problem(number, None)
        if known is None:
            self._told.pop(number, None)
            _log.info("dispute answered", **_name(record), move=intent.call.label, deadline=state.deadline)

    def _is_current(self, record: DisputeRecord) -> bool:
        """Whether the contract is in the state that the events tell; if not for long, they are read anew."""
        number = record.dispute_id
        if self._game.is_current(number, record.state):
            self._stale_since.pop(number, None)
            return True
        if self._clock() - self._stale_since.setdefault(number, self._clock()) >= RETRY_SECONDS:
            _log.warning("events and contract differ; reading the events anew", **_name(record))
            self._stale_since.pop(number)
            opened = [row.opened_block for row in self._disputes.unsettled(self._cursor)]
            self._cursor = min((self._cursor, *(block - 1 for block in opened)))
            self._base, self._seen = {}, None
        return False

    # --- what people hear ---------------------------------------------------------------------------------

    def _refused(self, record: DisputeRecord, problem: str) -> None:
        left = record.state.deadline - self._clock()
        wait = min(RETRY_SECONDS, max(left / 10, 1.0))
        self._retry_at[record.dispute_id] = (record.state, self._clock() + wait)
        self._alert(record, problem)

    def _alert(self, record: DisputeRecord, problem: str) -> None:
        """On the log at error level, again after a while as long as it lasts; kept for `status`."""
        self._disputes.note_problem(record.dispute_id, problem)
        text, at = self._told.get(record.dispute_id, ("", 0.0))
        if text != problem or self._clock() - at >= RETRY_SECONDS:
            self._told[record.dispute_id] = (problem, self._clock())
            left = round(record.state.deadline - self._clock())
            _log.error("dispute not answered", **_name(record), problem=problem, seconds_left=left)

    def _note_costs(self) -> None:
        """Moves that were mined since, by the version that was defended."""
        unpaid = self._owed_for()
        for key, version_id in list(unpaid.items()):
            intent = self._sender.outbox.find(self._client.chain_id, self._sender.address, key)
            if intent is None or intent.receipt is None:
                continue
            receipt = parse_tx_receipt(intent.receipt)
            with self._disputes.connection.transaction():
                spending.record(self._disputes.connection, Kind.DEFEND, receipt, [(0, version_id)])
            del unpaid[key]

    def _owed_for(self) -> dict[str, Hash32 | None]:
        """After a start the newest that the outbox knows of: what is in the books stays there as it is."""
        if self._unpaid is None:
            sent = self._sender.outbox.newest(self._client.chain_id, self._sender.address, _PREFIX)
            numbers = {intent.key: int(intent.key.split(":")[1]) for intent in sent}
            self._unpaid = {key: self._disputes.version_of(number) for key, number in numbers.items()}
        return self._unpaid

    def _prune(self) -> None:
        known = self._disputes.cursor()
        if self._retention is None or known is None or self._clock() - self._pruned_at < PRUNE_SECONDS:
            return
        self._pruned_at = self._clock()
        total = self._retention.prune_for(self._disputes.connection, known[1])
        if total:
            _log.info("receipts and tensors that no dispute can need dropped", receipts=total)


def _name(record: DisputeRecord) -> dict[str, object]:
    return {"dispute": record.dispute_id, "receipt": hex_bytes(record.state.digest)}
