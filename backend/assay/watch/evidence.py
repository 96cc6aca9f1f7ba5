"""Inputs and outputs of receipts under dispute, kept: a node that is disputed may stop giving them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from assay.disk import room_in
from assay.errors import RetryableError
from assay.index.download import Limits, ShouldStop, Unreachable, download, go_on
from assay.types import Hash32


class Evidence:
    """Files named by the receipt's digest, as the node gave them: checked whenever they are used."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self._folder, self._limits = folder, limits

    @property
    def patience(self) -> float:
        """Seconds that a node has to give a receipt's data."""
        return self._limits.seconds

    def path(self, digest: Hash32) -> Path:
        return self._folder / f"{digest.hex()}.json"

    def keep(self, digest: Hash32, body: bytes) -> None:
        """Durable and whole, or not there. Raises DiskFullError."""
        with room_in(self._folder):
            self._keep(digest, body)

    def _keep(self, digest: Hash32, body: bytes) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self._folder, prefix=".")
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path(digest))
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def kept(self, digest: Hash32) -> bytes | None:
        try:
            return self.path(digest).read_bytes()
        except FileNotFoundError:
            return None

    def fetch(self, endpoint: str, digest: Hash32, should_stop: ShouldStop = go_on) -> bytes:
        """From the node, as public data. Raises Unreachable, Interrupted."""
        url = f"{endpoint.rstrip('/')}/v1/receipts/0x{digest.hex()}/data"
        return download(url, self._limits, should_stop)

    def get(self, endpoint: str, digest: Hash32) -> bytes:
        """What was kept, else what the node gives. Raises RetryableError."""
        if (body := self.kept(digest)) is not None:
            return body
        try:
            return self.fetch(endpoint, digest)
        except Unreachable as error:
            raise RetryableError(f"data of receipt 0x{digest.hex()} is not here, and {error}") from error
