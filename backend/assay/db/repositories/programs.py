"""What the program checker reads and writes."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from sqlalchemy import Connection, delete, func, insert, or_, select

from assay.db.columns import clean_text
from assay.db.tables import ProgramCheck, Version
from assay.types import Assurance


@dataclass(frozen=True, slots=True)
class PendingProgram:
    """An artifact that a version claims a program of."""

    artifact: str
    attempts: int


@dataclass(frozen=True, slots=True)
class ProgramResult:
    outcome: str
    program_root: str | None
    reason: str
    attempts: int
    checked_at: int
    next_attempt_at: int


class ProgramStore:
    """Queries on one connection, inside the caller's transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def due(self, now: int, limit: int) -> list[PendingProgram]:
        """Artifacts never lowered, or due again; oldest version first."""
        query = (
            select(Version.artifact, func.coalesce(func.max(ProgramCheck.attempts), 0))
            .outerjoin(ProgramCheck, ProgramCheck.artifact == Version.artifact)
            .where(Version.assurance != Assurance.SIGNED.value)
            .where(or_(ProgramCheck.artifact.is_(None), ProgramCheck.next_attempt_at <= now))
            .group_by(Version.artifact)
            .order_by(func.min(Version.block_number), Version.artifact)
            .limit(limit)
        )
        return [PendingProgram(artifact, attempts) for artifact, attempts in self._connection.execute(query)]

    def save(self, artifact: str, result: ProgramResult) -> None:
        row = asdict(result) | {"reason": clean_text(result.reason)}
        self._connection.execute(delete(ProgramCheck).where(ProgramCheck.artifact == artifact))
        self._connection.execute(insert(ProgramCheck).values(artifact=artifact, **row))
