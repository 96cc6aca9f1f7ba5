"""Follows the chain: one window of blocks at a time, events, state and cursor in one transaction.

A reorg is undone in the transaction that writes its replacement, after the replacement was read; so the
database always holds one consistent chain, and a crash at any point leaves it at the last window's end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import structlog
from sqlalchemy import Connection, Engine, delete, insert, select, update

from assay.chain.deployments import Deployment
from assay.chain.errors import LogRangeTooLarge
from assay.db.engine import read_session, write_transaction
from assay.db.tables import Batch, BatchCheck, Block, Cursor, Event, Receipt, Reorg
from assay.errors import ConfigurationError, FatalError, RetryableError
from assay.index import disputes  # noqa: F401 - registers its handlers
from assay.index.fetch import ChainEvent, Fetcher, Header, Window
from assay.index.handlers import Context, apply_event
from assay.index.payments import Payments
from assay.index.rows import event_row
from assay.index.state import State
from assay.types import ZERO_ADDRESS

log = structlog.get_logger(__name__)

MAX_REORG = 64
KEEP = 2 * MAX_REORG
"""Hashes and undo journal reach back this many blocks."""
FIRST_RANGE, MAX_RANGE = 200, 2_000


class Outcome(StrEnum):
    ADVANCED = "advanced"
    AT_HEAD = "at head"
    BEHIND = "rpc is behind"


@dataclass(frozen=True, slots=True)
class Position:
    """The cursor as a plain value."""

    chain_id: int
    number: int
    hash: str
    journal_from: int
    next_seq: int
    first_block: int


@dataclass(frozen=True, slots=True)
class Step:
    outcome: Outcome
    number: int
    head: int
    events: int = 0
    reorg_depth: int = 0


class Follower:
    """`step` until it says AT_HEAD, then again when there may be a new block."""

    def __init__(
        self,
        engine: Engine,
        fetcher: Fetcher,
        deployment: Deployment,
        *,
        max_range: int = MAX_RANGE,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._engine, self._fetcher, self._deployment = engine, fetcher, deployment
        self._state, self._clock = State(), clock
        self._max_range = max_range
        self._range = min(FIRST_RANGE, max_range)

    def prepare(self) -> Position:
        """Create the cursor, or check that the database is of this chain and deployment."""
        with read_session(self._engine) as session:
            found = session.scalars(select(Cursor)).all()
        addresses = self._deployment.addresses
        if not found:
            self._create_cursor()
            return self.position()
        cursor = found[0]
        here = (self._deployment.chain_id, addresses["Settlement"])
        game = addresses.get("DisputeGame", ZERO_ADDRESS)
        if (cursor.chain_id, cursor.settlement) == here and cursor.dispute_game != game:
            raise ConfigurationError(
                f"the database was filled without the events of DisputeGame {game}: start it over with "
                "`assay index backfill --reset`"
            )
        if (cursor.chain_id, cursor.settlement) != here:
            raise ConfigurationError(
                f"the database follows chain {cursor.chain_id}, settlement {cursor.settlement}, but the "
                f"deployment is chain {here[0]}, settlement {here[1]}: name another database "
                "(ASSAY_DATABASE_URL), or start this one over with `assay index backfill --reset`"
            )
        return self.position()

    def position(self) -> Position:
        with read_session(self._engine) as session:
            cursor = session.scalars(select(Cursor)).one()
        return Position(
            cursor.chain_id,
            cursor.number,
            cursor.hash,
            cursor.journal_from,
            cursor.next_seq,
            cursor.first_block,
        )

    def step(self, until: int | None = None) -> Step:
        """Index one more window, at most up to block `until`. Raises RetryableError and FatalError."""
        position = self.position()
        head = self._fetcher.head()
        ancestor = self._find_ancestor(position, head)
        base = ancestor or Header(position.number, position.hash, "", 0, 0)
        target = head.number if until is None else min(head.number, until)
        if target <= base.number:
            behind = head.number < position.number
            if not behind and ancestor is None:
                self._note_head(position, head)
            return Step(Outcome.BEHIND if behind else Outcome.AT_HEAD, position.number, head.number)
        window = self._read(base, target)
        depth = 0 if ancestor is None else position.number - ancestor.number
        if depth:
            log.warning("reorg", depth=depth, ancestor=base.number, old_head=position.number)
        self._write(position, window, ancestor, head)
        return Step(Outcome.ADVANCED, window.headers[-1].number, head.number, len(window.events), depth)

    # --- reading ---

    def _read(self, base: Header, target: int) -> Window:
        """The next window after `base`; halved while the RPC refuses it, grown again when it does not."""
        start = base.number + 1
        while True:
            stop = min(target, start + self._range - 1)
            try:
                window = self._fetcher.window(start, stop)
                break
            except (LogRangeTooLarge, RetryableError) as error:
                if stop == start:
                    raise
                self._range = max(1, (stop - start + 1) // 2)
                log.info("window halved", blocks=self._range, error=str(error))
        if window.headers[0].parent_hash != base.hash:
            raise RetryableError(
                f"block {start} does not follow the indexed block {base.number}: chain is moving"
            )
        self._range = min(self._max_range, self._range * 2)
        return window

    def _find_ancestor(self, position: Position, head: Header) -> Header | None:
        """The newest indexed block that the chain still has, if that is not the last one."""
        if head.number >= position.number and self._is_on_chain(position.number, position.hash):
            return None
        oldest = max(position.number - MAX_REORG, position.first_block - 1)
        stored = self._stored_hashes(oldest, min(head.number, position.number))
        if head.number < position.number and stored.get(head.number) == head.hash:
            return None  # the same chain, as seen by an RPC that is behind
        if head.number < oldest and self._knows(head):
            raise RetryableError(
                f"the RPC's head is block {head.number}, far behind indexed block {position.number}: "
                "it is still syncing"
            )
        for header in reversed(self._fetcher.headers(sorted(stored))):
            if stored[header.number] == header.hash:
                if header.number + 1 < position.journal_from:
                    break
                return header
        raise FatalError(
            f"the chain parted from this database more than {MAX_REORG} blocks below block "
            f"{position.number}, or is another chain with the same id (a restarted local chain?): check "
            "ASSAY_RPC_URLS; if the chain is right, start over with `assay index backfill --reset`"
        )

    def _knows(self, head: Header) -> bool:
        """Whether the newest stored block that the RPC can have is on its chain."""
        query = select(Block.number, Block.hash).where(Block.number <= head.number)
        with read_session(self._engine) as session:
            stored = session.execute(query.order_by(Block.number.desc()).limit(1)).first()
        return stored is None or self._is_on_chain(*stored)

    def _is_on_chain(self, number: int, block_hash: str) -> bool:
        return self._fetcher.headers([number])[0].hash == block_hash

    def _stored_hashes(self, start: int, stop: int) -> dict[int, str]:
        query = select(Block.number, Block.hash).where(Block.number >= start, Block.number <= stop)
        with read_session(self._engine) as session:
            return {number: block_hash for number, block_hash in session.execute(query)}

    # --- writing ---

    def _write(self, position: Position, window: Window, ancestor: Header | None, head: Header) -> None:
        finalized = self._fetcher.finalized_number(head, MAX_REORG)
        last, seq = window.headers[-1], position.next_seq
        journal_from = max(position.journal_from, head.number - KEEP)
        try:
            with write_transaction(self._engine) as connection:
                self._move_cursor(
                    connection, position, last=last, head=head, finalized=finalized, journal_from=journal_from
                )
                self._state.begin(connection, journal_from)
                if ancestor is not None:
                    self._roll_back(connection, position, ancestor)
                    seq += 1
                seq = self._write_events(connection, window, position.chain_id, seq)
                self._apply(connection, window)
                self._write_blocks(connection, window, last.number - KEEP)
                connection.execute(update(Cursor).values(next_seq=seq))
                self._state.prune(journal_from)
        except BaseException:
            self._state.forget()
            raise

    def _move_cursor(
        self,
        connection: Connection,
        position: Position,
        *,
        last: Header,
        head: Header,
        finalized: int,
        journal_from: int,
    ) -> None:
        moved = connection.execute(
            update(Cursor)
            .where(Cursor.number == position.number, Cursor.hash == position.hash)
            .values(
                number=last.number,
                hash=last.hash,
                timestamp=last.timestamp,
                head_number=max(head.number, last.number),
                finalized_number=finalized,
                journal_from=journal_from,
                updated_at=int(self._clock()),
            )
        )
        if moved.rowcount != 1:
            raise FatalError(
                "another index process moved this database's cursor: give each index a database of its own"
            )

    def _roll_back(self, connection: Connection, position: Position, ancestor: Header) -> None:
        self._state.rollback_to(ancestor.number)
        connection.execute(delete(Event).where(Event.block_number > ancestor.number))
        connection.execute(delete(Block).where(Block.number > ancestor.number))
        gone = ~select(Batch.batch_id).where(Batch.batch_id == BatchCheck.batch_id).exists()
        connection.execute(delete(BatchCheck).where(gone))
        gone = ~select(Batch.batch_id).where(Batch.batch_id == Receipt.batch_id).exists()
        connection.execute(delete(Receipt).where(Receipt.block_number > ancestor.number, gone))
        connection.execute(
            insert(Reorg).values(
                seq=position.next_seq,
                ancestor_number=ancestor.number,
                ancestor_hash=ancestor.hash,
                old_number=position.number,
                old_hash=position.hash,
            )
        )

    def _write_events(self, connection: Connection, window: Window, chain_id: int, seq: int) -> int:
        rows = [event_row(event, chain_id, seq + offset) for offset, event in enumerate(window.events)]
        if rows:
            connection.execute(insert(Event), rows)
        return seq + len(rows)

    def _apply(self, connection: Connection, window: Window) -> None:
        settlement = self._deployment.addresses["Settlement"]
        abi = self._deployment.contract_abi("Settlement")
        payments = Payments(
            settlement=settlement,
            abi=abi,
            fetcher=self._fetcher,
            connection=connection,
            postings=window.postings,
            events=window.events,
        )
        context = Context(self._state, payments, self._deployment)
        for event in window.events:
            self._state.begin_block(event.number)
            apply_event(context, event)
        self._state.flush()

    def _write_blocks(self, connection: Connection, window: Window, keep_from: int) -> None:
        counts = _events_per_block(window.events)
        rows = [
            {
                "number": header.number,
                "hash": header.hash,
                "parent_hash": header.parent_hash,
                "timestamp": header.timestamp,
                "events": counts.get(header.number, 0),
            }
            for header in window.headers
            if header.number > keep_from or header.number in counts
        ]
        connection.execute(delete(Block).where(Block.number <= keep_from, Block.events == 0))
        connection.execute(insert(Block), rows)

    def _note_head(self, position: Position, head: Header) -> None:
        finalized = self._fetcher.finalized_number(head, MAX_REORG)
        with write_transaction(self._engine) as connection:
            connection.execute(
                update(Cursor)
                .where(Cursor.hash == position.hash)
                .values(head_number=head.number, finalized_number=finalized, updated_at=int(self._clock()))
            )

    def _create_cursor(self) -> None:
        deployment, fetcher = self._deployment, self._fetcher
        parent = fetcher.headers([max(0, deployment.block - 1)])[0]
        row = {
            "chain_id": deployment.chain_id,
            "settlement": deployment.addresses["Settlement"],
            "models": deployment.addresses["ModelRegistry"],
            "nodes": deployment.addresses["NodeRegistry"],
            "dispute_game": deployment.addresses.get("DisputeGame", ZERO_ADDRESS),
            "first_block": parent.number + 1,
            "number": parent.number,
            "hash": parent.hash,
            "timestamp": parent.timestamp,
            "head_number": parent.number,
            "finalized_number": 0,
            "journal_from": parent.number + 1,
            "next_seq": 1,
            "updated_at": 0,
            "dispute_window": fetcher.view(deployment, "Settlement", "dispute_window"),
            "min_stake": fetcher.view(deployment, "NodeRegistry", "min_stake"),
        }
        block = {
            "number": parent.number,
            "hash": parent.hash,
            "parent_hash": parent.parent_hash,
            "timestamp": parent.timestamp,
            "events": 0,
        }
        with write_transaction(self._engine) as connection:
            connection.execute(insert(Cursor).values(row))
            connection.execute(insert(Block).values(block))


def _events_per_block(events: Sequence[ChainEvent]) -> dict[int, int]:
    counts: dict[int, int] = {}
    for event in events:
        counts[event.number] = counts.get(event.number, 0) + 1
    return counts
