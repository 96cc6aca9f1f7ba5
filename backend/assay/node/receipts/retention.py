"""How long receipts and their tensors are kept: tensors until no dispute can be opened and none is open.

A receipt in a batch can be disputed until its batch's window has passed; one that is in none, until the
window after its execution. Receipts of channels that never paid are in no batch, unless the node is told to
post them: they go with their tensors, for a batch that took them later would open them to a dispute that
nobody could answer. Receipts of collected batches are kept for `keep_seconds` after their posting: for ever,
unless the operator says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from assay.errors import RetryableError
from assay.node.receipts.database import Connection, Row
from assay.node.receipts.unbatched import Range
from assay.node.settlement.closing import advance, ranges_of

ROWS_A_STEP: Final = 1_000
PRUNE_SECONDS: Final = 60.0
PRUNE_BUDGET_SECONDS: Final = 10.0
"""How often, and for how long at most: several thousand receipts a second can be dropped."""
BATCHES_A_STEP: Final = 64
ALL, RECEIPTS, GOING, GONE = 3, 2, 1, 0
_ZERO: Final = "x'00000000000000000000000000000000'"
_STATED: Final = (
    "NOT EXISTS (SELECT 1 FROM payments p WHERE p.payment = receipts.voucher AND p.statement IS NULL)"
)
"""A payment that is not known to have bought a receipt could buy another one when the first has gone."""
_UNDISPUTED: Final = "NOT EXISTS (SELECT 1 FROM disputes x WHERE x.digest = r.digest AND x.outcome IS NULL)"


class PaymentRule(Protocol):
    """`x402.pruning.PaymentPruner`."""

    def prune(self, connection: Connection, chain_time: int) -> int:
        """The number dropped. Raises RetryableError."""


@dataclass(frozen=True, slots=True)
class Retention:
    """`window`: Settlement's dispute window in seconds. `free_receipts`: whether unpaid ones get batched.
    `keep_seconds` None: batches' receipts are kept for ever. `payments`: forgets those by x402 that can never
    become good again."""

    window: int
    free_receipts: bool
    keep_seconds: int | None = None
    payments: PaymentRule | None = None

    def prune(self, connection: Connection, chain_time: int) -> int:
        """Drop what no dispute can need, given that all disputes opened until `chain_time` are known.

        About `ROWS_A_STEP` receipts a call; the number dropped.
        """
        dropped = self._drop_tensors(connection, chain_time)
        if not self.free_receipts and dropped < ROWS_A_STEP:
            dropped += self._retire(connection, chain_time)
        if self.keep_seconds is not None and dropped < ROWS_A_STEP:
            dropped += self._drop_receipts(connection, chain_time)
        if self.payments is not None and dropped < ROWS_A_STEP:
            dropped += self.payments.prune(connection, chain_time)
        return dropped

    def prune_for(
        self,
        connection: Connection,
        chain_time: int,
        seconds: float = PRUNE_BUDGET_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> int:
        """`prune` until nothing is left to drop, or for so long."""
        started, total = clock(), 0
        while dropped := self.prune(connection, chain_time):
            total += dropped
            if dropped < ROWS_A_STEP or clock() - started >= seconds:
                break
        return total

    def _drop_tensors(self, connection: Connection, chain_time: int) -> int:
        """Of collected batches: a batch that is held is not. Beside its batch a receipt can be disputed
        until the window after its execution, which a clock that ran ahead puts later."""
        dropped = 0
        for batch in _collected(connection, ALL, chain_time - self.window):
            ranges = ranges_of(connection, batch)
            rows = self._tensors(connection, ranges, chain_time, ROWS_A_STEP - dropped)
            connection.executemany("DELETE FROM receipt_data WHERE receipt = ?", rows)
            dropped += len(rows)
            if dropped >= ROWS_A_STEP:
                break
            if not _has_tensors(connection, ranges):
                connection.execute("UPDATE batches SET kept = ? WHERE id = ?", (RECEIPTS, batch))
        return dropped

    def _tensors(
        self, connection: Connection, ranges: Sequence[Range], chain_time: int, limit: int
    ) -> list[Row]:
        found: list[Row] = []
        for taken in ranges:
            found += connection.execute(
                "SELECT d.receipt FROM receipt_data d JOIN receipts r ON r.id = d.receipt"  # noqa: S608
                f" WHERE {_WITHIN} AND r.executed_at + ? < ? AND {_UNDISPUTED} LIMIT ?",
                (*_within(taken), self.window, chain_time, limit - len(found)),
            ).fetchall()
            if len(found) >= limit:
                break
        return found

    def _retire(self, connection: Connection, chain_time: int) -> int:
        """Receipts of channels that never paid, oldest first; a disputed one stays until that has ended."""
        channels = connection.execute(
            "SELECT c.id, c.closed FROM channels c"  # noqa: S608
            " JOIN receipts r ON r.channel = c.id AND r.sequence = c.closed + 1"
            f" WHERE c.sequence > c.closed AND c.charged = {_ZERO} AND c.prepaid = {_ZERO}"
            " AND r.executed_at + ? < ? ORDER BY r.executed_at LIMIT ?",
            (self.window, chain_time, BATCHES_A_STEP),
        ).fetchall()
        dropped = self._drop_left(connection)
        for channel, closed in channels:
            rows = connection.execute(
                f"SELECT r.id, r.executed_at + ? < ?, {_UNDISPUTED} FROM receipts r"  # noqa: S608
                " WHERE r.channel = ? AND r.sequence > ? ORDER BY r.sequence LIMIT ?",
                (self.window, chain_time, channel, closed, ROWS_A_STEP - dropped),
            ).fetchall()
            ripe = next((place for place, (_, is_old, _) in enumerate(rows) if not is_old), len(rows))
            free = [(number,) for number, _, is_free in rows[:ripe] if is_free]
            if ripe and self._forget(connection, Range(channel, closed + 1, closed + ripe), free):
                dropped += len(free)
            if dropped >= ROWS_A_STEP:
                break
        return dropped

    @staticmethod
    def _forget(connection: Connection, taken: Range, rows: Sequence[Row]) -> bool:
        """Whether no batch took them meanwhile."""
        try:
            with connection.transaction():
                advance(connection, taken, 0)
                _delete(connection, rows)
        except RetryableError:
            return False
        return True

    @staticmethod
    def _drop_left(connection: Connection) -> int:
        """Those that were disputed when others of their channel went, once that has ended."""
        rows = connection.execute(
            "SELECT DISTINCT r.id FROM disputes d JOIN receipts r ON r.digest = d.digest"  # noqa: S608
            " JOIN channels c ON c.id = r.channel WHERE d.outcome IS NOT NULL AND r.sequence <= c.closed"
            f" AND {_UNDISPUTED} AND NOT EXISTS (SELECT 1 FROM batch_ranges g WHERE g.channel = r.channel"
            " AND g.last_sequence >= r.sequence AND g.first_sequence <= r.sequence)"
        ).fetchall()
        if rows:
            with connection.transaction():
                _delete(connection, rows)
        return len(rows)

    def _drop_receipts(self, connection: Connection, chain_time: int) -> int:
        """Of batches that are old; they are not served from before the first receipt is dropped."""
        assert self.keep_seconds is not None
        old = chain_time - max(self.keep_seconds, self.window)
        for batch in _collected(connection, RECEIPTS, old):
            connection.execute("UPDATE batches SET kept = ? WHERE id = ?", (GOING, batch))
        dropped = 0
        for batch in _collected(connection, GOING, old):
            for taken in ranges_of(connection, batch):
                dropped += connection.execute(
                    "DELETE FROM receipts WHERE id IN (SELECT id FROM receipts WHERE channel = ?"  # noqa: S608
                    f" AND sequence BETWEEN ? AND ? AND {_STATED} LIMIT ?)",
                    (taken.channel, taken.first, taken.last, ROWS_A_STEP - dropped),
                ).rowcount
                if dropped >= ROWS_A_STEP:
                    return dropped
            connection.execute("UPDATE batches SET kept = ? WHERE id = ?", (GONE, batch))
        return dropped


def _delete(connection: Connection, rows: Sequence[Row]) -> None:
    for table, column in (("receipt_data", "receipt"), ("receipts", "id")):
        connection.executemany(f"DELETE FROM {table} WHERE {column} = ?", rows)  # noqa: S608


_WITHIN: Final = (
    "d.receipt BETWEEN (SELECT id FROM receipts WHERE channel = ? AND sequence = ?)"
    " AND (SELECT id FROM receipts WHERE channel = ? AND sequence = ?) AND r.channel = ?"
)
"""Row ids of a channel rise with its sequence."""


def _within(taken: Range) -> tuple[int, ...]:
    return taken.channel, taken.first, taken.channel, taken.last, taken.channel


def _has_tensors(connection: Connection, ranges: Sequence[Range]) -> bool:
    query = f"SELECT 1 FROM receipt_data d JOIN receipts r ON r.id = d.receipt WHERE {_WITHIN} LIMIT 1"  # noqa: S608
    return any(connection.execute(query, _within(taken)).fetchone() for taken in ranges)


def _collected(connection: Connection, kept: int, posted_before: int) -> list[int]:
    """Batches collected for good of which that much is kept, the oldest first. A reorg that takes the
    collecting away may bring a dispute instead."""
    rows = connection.execute(
        "SELECT id FROM batches WHERE state = 'collected' AND collected_block IS NULL AND kept = ?"
        " AND posted_at < ? ORDER BY id LIMIT ?",
        (kept, posted_before, BATCHES_A_STEP),
    )
    return [number for (number,) in rows.fetchall()]
