"""How long receipts' tensors are kept: until no dispute can be opened and none is open.

A receipt in a batch can be disputed until its batch's window has passed; one that is in none, until the
window after its execution. Free receipts that are never batched are retired with their tensors: a batch that
took them later would open them to a dispute that nobody could answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from assay.node.database import Connection, Row

ROWS_A_STEP: Final = 1_000
_UNDISPUTED: Final = "NOT EXISTS (SELECT 1 FROM disputes x WHERE x.digest = r.digest AND x.outcome IS NULL)"


@dataclass(frozen=True, slots=True)
class Retention:
    """`window`: Settlement's dispute window in seconds. `free_receipts`: whether unpaid ones get batched."""

    window: int
    free_receipts: bool

    def prune(self, connection: Connection, chain_time: int) -> int:
        """Drop what no dispute can need, given that all disputes opened until `chain_time` are known.

        At most `ROWS_A_STEP` receipts a call; the number dropped.
        """
        rows = self._batched(connection, chain_time)
        retired: list[Row] = []
        if not self.free_receipts and len(rows) < ROWS_A_STEP:
            retired = self._unbatched(connection, chain_time)
        if not rows and not retired:
            return 0
        with connection.transaction():
            # a receipt that a batch took meanwhile stays
            connection.executemany("UPDATE receipts SET retired = 1 WHERE id = ? AND batch IS NULL", retired)
            connection.executemany("DELETE FROM receipt_data WHERE receipt = ?", rows)
            connection.executemany(
                "DELETE FROM receipt_data WHERE receipt = ? AND EXISTS"
                " (SELECT 1 FROM receipts r WHERE r.id = receipt AND r.retired = 1)",
                retired,
            )
        return len(rows) + len(retired)

    def _batched(self, connection: Connection, chain_time: int) -> list[Row]:
        """Of collected batches: a batch that is held is not. Beside its batch a receipt can be disputed
        until the window after its execution, which a clock that ran ahead puts later."""
        return connection.execute(
            "SELECT d.receipt FROM receipt_data d JOIN receipts r ON r.id = d.receipt"  # noqa: S608
            " JOIN batches b ON b.id = r.batch WHERE b.state = 'collected' AND b.posted_at + ? < ?"
            f" AND r.executed_at + ? < ? AND {_UNDISPUTED} LIMIT ?",
            (self.window, chain_time, self.window, chain_time, ROWS_A_STEP),
        ).fetchall()

    def _unbatched(self, connection: Connection, chain_time: int) -> list[Row]:
        return connection.execute(
            "SELECT d.receipt FROM receipt_data d JOIN receipts r ON r.id = d.receipt"  # noqa: S608
            " JOIN channels c ON c.id = r.channel WHERE r.batch IS NULL AND r.executed_at + ? < ?"
            " AND c.charged = x'00000000000000000000000000000000'"
            f" AND {_UNDISPUTED} LIMIT ?",
            (self.window, chain_time, ROWS_A_STEP),
        ).fetchall()
