"""The exact program of a version: artifact by digest, lowered here, its root held to the registry.

A version whose root cannot be reproduced is nobody's to judge: it is reported and left alone.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from assay.chain.contracts import ModelRegistry
from assay.chain.views import Version
from assay.disk import room_in
from assay.errors import RequestError, RetryableError, VerificationError
from assay.exact.lowering import lower
from assay.exact.program import Program
from assay.hub.client import HubClient
from assay.hub.digests import ArtifactUnknownError
from assay.programs.bounded import lower_bounded
from assay.types import ZERO_HASH, Hash32, ProgramOutcome

KEEP_PROGRAMS: Final = 4
RETRY_SECONDS: Final = 15.0

log = structlog.get_logger(__name__)


class NoProgramError(RequestError):
    """The version's receipts cannot be judged here; the message says why."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="no_program")


class Programs:
    """`folder` keeps artifacts by digest; a few programs stay in memory."""

    def __init__(
        self,
        models: ModelRegistry,
        hub: HubClient,
        folder: Path,
        *,
        clock: Callable[[], float] = time.monotonic,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._lock, self._should_stop = threading.Lock(), should_stop
        self._models, self._hub, self._folder, self._clock = models, hub, folder, clock
        self._programs: OrderedDict[Hash32, Program] = OrderedDict()
        self._refused: dict[Hash32, str] = {}
        self._retry_at: dict[Hash32, tuple[float, str]] = {}

    @property
    def refused(self) -> dict[Hash32, str]:
        """Versions that are left alone, and why."""
        return dict(self._refused)

    def get(self, version_id: Hash32) -> Program:
        """Raises NoProgramError for good, RetryableError while the hub or the chain does not answer."""
        with self._lock:
            return self._get(version_id)

    def _get(self, version_id: Hash32) -> Program:
        if version_id in self._programs:
            self._programs.move_to_end(version_id)
            return self._programs[version_id]
        if version_id in self._refused:
            raise NoProgramError(self._refused[version_id])
        at, why = self._retry_at.get(version_id, (0.0, ""))
        if self._clock() < at:
            raise RetryableError(why)
        try:
            program = self._build(version_id)
        except NoProgramError as error:
            self._refused[version_id] = str(error)
            log.error("version left alone", version="0x" + version_id.hex(), reason=str(error))
            raise
        except RetryableError as error:
            self._retry_at[version_id] = (self._clock() + RETRY_SECONDS, str(error))
            raise
        self._programs[version_id] = program
        while len(self._programs) > KEEP_PROGRAMS:
            self._programs.popitem(last=False)
        return program

    def _build(self, version_id: Hash32) -> Program:
        version = self._models.version(version_id)
        name = f"version 0x{version_id.hex()}"
        if not version.exists or version.program_root == ZERO_HASH:
            raise NoProgramError(f"{name} has no program: its receipts are worth the node's signature")
        try:
            return self._lower(version)
        except ArtifactUnknownError as error:
            raise RetryableError(f"{name}: {error}") from error
        except (RequestError, VerificationError) as error:
            raise NoProgramError(f"{name}: {error}") from error

    def _lower(self, version: Version) -> Program:
        """In a child with limits first, once: a file whose root is another's is not even looked at here."""
        path = self._hub.fetch(version.artifact, self._folder / version.artifact.hex())
        note = path.with_suffix(".root")
        if note.is_file() and note.read_text() == version.program_root.hex():
            return lower(path.read_bytes())
        tried = lower_bounded(path, should_stop=self._should_stop)
        if tried.outcome is ProgramOutcome.FAILED and not self._should_stop():
            raise NoProgramError(f"artifact 0x{version.artifact.hex()}: {tried.reason}")
        if tried.root is None:
            raise (
                RetryableError(tried.reason)
                if self._should_stop()
                else NoProgramError(
                    f"artifact 0x{version.artifact.hex()} is outside the exact profile: {tried.reason}"
                )
            )
        if tried.root != version.program_root:
            raise NoProgramError(
                f"it was registered with program root 0x{version.program_root.hex()}, its artifact "
                f"0x{version.artifact.hex()} lowers to 0x{tried.root.hex()}: it is not what it claims to be"
            )
        program = lower(path.read_bytes())
        with room_in(self._folder):
            note.write_text(version.program_root.hex())
        return program
