"""The disputes of a node in its log: what the defender follows, what `status`, `doctor` and metrics show."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from assay.chain.disputes import DisputeRecord
from assay.exact.game import Phase, Side
from assay.node.receipts.database import Connection, Database
from assay.node.receipts.schema import to_blob
from assay.types import Hash32

_CURSOR: Final = "disputes"
_ROW: Final = "dispute_id, digest, opened_block, phase, deadline, is_ours, problem, attempt, outcome"


class Outcome(StrEnum):
    WON = "won"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class DisputeRow:
    """A dispute as the log has it. `deadline` in chain time; `is_ours`: the node owes the next move.

    `problem` says why the node cannot answer; `attempt` counts its moves that were mined and reverted.
    """

    dispute_id: int
    digest: Hash32
    opened_block: int
    phase: Phase
    deadline: int
    is_ours: bool
    problem: str | None
    attempt: int
    outcome: Outcome | None

    def to_json(self) -> dict[str, Any]:
        return {
            "dispute_id": self.dispute_id,
            "receipt": "0x" + self.digest.hex(),
            "phase": self.phase.name.lower(),
            "move_by": "node" if self.is_ours else "challenger",
            "deadline": self.deadline,
            "problem": self.problem,
        }


def _row(row: Sequence[Any]) -> DisputeRow:
    number, digest, opened, phase, deadline, ours, problem, attempt, outcome = row
    return DisputeRow(
        number,
        Hash32(digest),
        opened,
        Phase(phase),
        deadline,
        bool(ours),
        problem,
        attempt,
        Outcome(outcome) if outcome else None,
    )


def open_disputes(connection: Connection) -> list[DisputeRow]:
    """Those that are not closed, the most urgent first; none in a log that no newer node has opened."""
    if not connection.has_table("disputes"):
        return []
    rows = connection.execute(f"SELECT {_ROW} FROM disputes WHERE outcome IS NULL ORDER BY deadline")  # noqa: S608
    return [_row(row) for row in rows]


def read_disputes(database: Database) -> list[DisputeRow]:
    """`open_disputes` of the log; none before the node first ran."""
    if not database.exists():
        return []
    with database.session() as connection:
        return open_disputes(connection)


class DisputeLog:
    """The defender's memory, through a connection of its own; used by one thread."""

    def __init__(self, database: Database) -> None:
        self._db = database.connect()

    @property
    def connection(self) -> Connection:
        return self._db

    def close(self) -> None:
        self._db.close()

    def cursor(self) -> tuple[int, int] | None:
        """(block, its time) up to which every dispute is known for good."""
        row = self._db.execute("SELECT block, timestamp FROM cursors WHERE name = ?", (_CURSOR,)).fetchone()
        return (row[0], row[1]) if row else None

    def set_cursor(self, block: int, timestamp: int) -> None:
        self._db.execute(
            "INSERT INTO cursors VALUES (?, ?, ?) ON CONFLICT (name) DO UPDATE SET block = excluded.block,"
            " timestamp = excluded.timestamp",
            (_CURSOR, block, timestamp),
        )

    def unsettled(self, block: int) -> list[DisputeRow]:
        """Open ones, and those whose closing is after `block` and may yet be undone."""
        rows = self._db.execute(
            f"SELECT {_ROW} FROM disputes WHERE outcome IS NULL OR closed_block > ? ORDER BY dispute_id",  # noqa: S608
            (block,),
        )
        return [_row(row) for row in rows]

    def save(self, record: DisputeRecord) -> None:
        """As the chain has it now."""
        state, closing = record.state, record.closing
        outcome = None if closing is None else Outcome.WON if closing.node_won else Outcome.LOST
        self._db.execute(
            "INSERT INTO disputes (dispute_id, digest, opened_block, phase, deadline, is_ours, outcome,"
            " closed_block, slashed) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (dispute_id) DO UPDATE SET"
            " digest = excluded.digest, opened_block = excluded.opened_block, phase = excluded.phase,"
            " deadline = excluded.deadline, is_ours = excluded.is_ours, outcome = excluded.outcome,"
            " closed_block = excluded.closed_block,"
            " slashed = excluded.slashed",
            (
                record.dispute_id,
                state.digest,
                record.block_number,
                int(state.phase),
                state.deadline,
                record.side is Side.NODE,
                outcome,
                closing.block_number if closing else None,
                to_blob(closing.slashed) if closing and not closing.node_won else None,
            ),
        )

    def forget(self, ids: Iterable[int]) -> None:
        """A reorg undid their opening."""
        self._db.executemany("DELETE FROM disputes WHERE dispute_id = ?", [(number,) for number in ids])

    def version_of(self, dispute_id: int) -> Hash32 | None:
        """Of the disputed receipt, while it is kept."""
        row = self._db.execute(
            "SELECT r.version_id FROM disputes d JOIN receipts r ON r.digest = d.digest"
            " WHERE d.dispute_id = ?",
            (dispute_id,),
        ).fetchone()
        return Hash32(row[0]) if row else None

    def attempt(self, dispute_id: int) -> int:
        row = self._db.execute("SELECT attempt FROM disputes WHERE dispute_id = ?", (dispute_id,)).fetchone()
        return int(row[0]) if row else 0

    def note_revert(self, dispute_id: int) -> None:
        """The next try of the same move is a new transaction."""
        self._db.execute("UPDATE disputes SET attempt = attempt + 1 WHERE dispute_id = ?", (dispute_id,))

    def note_problem(self, dispute_id: int, problem: str | None) -> None:
        self._db.execute(
            "UPDATE disputes SET problem = ? WHERE dispute_id = ? AND problem IS DISTINCT FROM ?",
            (problem and problem[:500], dispute_id, problem and problem[:500]),
        )
