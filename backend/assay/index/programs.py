"""Recomputes the programs that versions claim, from the hub's artifacts (SPEC.md §8, §10).

What an artifact lowers to is a function of its bytes, so a root is kept for good, whatever the chain does. A
refusal is looked at again daily, since a later release may lower more; what could not be had or finished is
tried again with growing waits.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import structlog
from sqlalchemy import Engine

from assay.db.engine import read_session, write_transaction
from assay.db.repositories.programs import PendingProgram, ProgramResult, ProgramStore
from assay.disk import DiskFullError, room_in
from assay.errors import AssayError, RetryableError, VerificationError
from assay.hub.client import HubClient
from assay.hub.digests import ArtifactTooLargeError, ArtifactUnknownError
from assay.programs.bounded import DEFAULT_LIMITS, LoweringLimits, lower_bounded
from assay.programs.lowering import Lowering
from assay.types import Hash32, ProgramOutcome

log = structlog.get_logger(__name__)

FIRST_WAIT, MAX_WAIT = 5, 6 * 3600
"""Seconds between attempts: doubled each time."""
DAY = 86_400
NEVER = 2**62
MAX_ARTIFACT = 512 << 20
"""As much as nodes take."""


class ProgramChecker:
    """`step` lowers the artifacts that are due and says how many it finished. `hub`: what HubClient takes."""

    def __init__(
        self,
        engine: Engine,
        hub: str | Path,
        limits: LoweringLimits = DEFAULT_LIMITS,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._engine, self._limits, self._clock = engine, limits, clock
        self._hub = HubClient(hub, attempts=1, max_bytes=MAX_ARTIFACT)

    def step(self, limit: int = 20, should_stop: Callable[[], bool] = lambda: False) -> int:
        with read_session(self._engine) as session:
            due = ProgramStore(session.connection()).due(int(self._clock()), limit)
        done = 0
        for program in due:
            if should_stop():
                break
            lowering = self._lower(program, should_stop)
            if should_stop():
                break
            self._record(program, lowering)
            done += 1
        return done

    def _lower(self, program: PendingProgram, should_stop: Callable[[], bool]) -> Lowering:
        """Raises DiskFullError if there is not even room for a folder."""
        digest = Hash32(bytes.fromhex(program.artifact[2:]))
        place = Path(tempfile.gettempdir())
        with room_in(place), tempfile.TemporaryDirectory(prefix="assay-program-", dir=place) as folder:
            try:
                path = self._hub.fetch(digest, Path(folder, "model.onnx"))
            except AssayError as error:
                if isinstance(error, DiskFullError):
                    log.error("program not lowered", artifact=program.artifact, error=str(error))
                return Lowering(ProgramOutcome.UNAVAILABLE, reason=_why(error))
            return lower_bounded(path, self._limits, should_stop)

    def _record(self, program: PendingProgram, lowering: Lowering) -> None:
        now, attempts = int(self._clock()), program.attempts + 1
        waits = {ProgramOutcome.LOWERED: NEVER, ProgramOutcome.OUTSIDE: DAY}
        wait = waits.get(lowering.outcome, min(MAX_WAIT, FIRST_WAIT * 2 ** min(attempts - 1, 16)))
        result = ProgramResult(
            outcome=str(lowering.outcome),
            program_root=None if lowering.root is None else "0x" + lowering.root.hex(),
            reason=lowering.reason,
            attempts=attempts,
            checked_at=now,
            next_attempt_at=min(NEVER, now + wait),
        )
        with write_transaction(self._engine) as connection:
            ProgramStore(connection).save(program.artifact, result)
        log.info("program lowered", artifact=program.artifact, outcome=result.outcome, reason=result.reason)


def _why(error: AssayError) -> str:
    """For the public: without the hub's address, which may carry credentials."""
    match error:
        case DiskFullError():
            return "the index's disk has no room for it"
        case ArtifactUnknownError():
            return "the index's hub does not have it"
        case ArtifactTooLargeError():
            return f"it is larger than {MAX_ARTIFACT >> 20} MiB"
        case VerificationError():
            return "the index's hub gave other bytes"
        case RetryableError():
            return "the index's hub did not give it"
    return "it could not be fetched"
