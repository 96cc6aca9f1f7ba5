"""Uploads on their way in: local files that nobody can see until their digest is checked.

A whole upload has a file of its own and leaves nothing behind when it breaks. A chunked one lives in
`<hex>.part`, so that it can go on after either side died; parts untouched for a day are removed.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from assay.disk import check_room, room_in
from assay.types import Hash32

PART_SECONDS = 24 * 3600


class Upload:
    """An open spool file at its end; `size` counts what it holds."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file = file
        self.path = path
        self.size = file.seek(0, os.SEEK_END)

    def write(self, data: bytes) -> None:
        """Raises OSError where the disk has no room but for databases."""
        check_room(self._file)
        self._file.write(data)
        self.size += len(data)

    def flush(self) -> None:
        self._file.flush()


class Spool:
    """A folder for one hub process; whole uploads of a killed one are removed when it opens."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        for left in folder.glob("*.whole"):
            left.unlink(missing_ok=True)
        self.prune()

    def offset(self, digest: Hash32) -> int:
        """Bytes that a chunked upload of `digest` has so far."""
        try:
            return self._part(digest).stat().st_size
        except FileNotFoundError:
            return 0

    @contextlib.contextmanager
    def whole(self) -> Iterator[Upload]:
        """A file of its own, removed at the end whatever happens. Raises DiskFullError."""
        with room_in(self._folder):
            handle, name = tempfile.mkstemp(suffix=".whole", dir=self._folder)
            path = Path(name)
            try:
                with os.fdopen(handle, "wb") as file:
                    yield Upload(file, path)
            finally:
                path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def part(self, digest: Hash32) -> Iterator[Upload]:
        """The chunked upload of `digest`, kept at the end. Raises DiskFullError."""
        path = self._part(digest)
        with room_in(self._folder), path.open("ab") as file:
            yield Upload(file, path)

    def discard(self, digest: Hash32) -> None:
        self._part(digest).unlink(missing_ok=True)

    def prune(self) -> None:
        """Remove chunked uploads that nobody touched for a day."""
        for part in self._folder.glob("*.part"):
            if part.stat().st_mtime < time.time() - PART_SECONDS:
                part.unlink(missing_ok=True)

    def _part(self, digest: Hash32) -> Path:
        return self._folder / f"{digest.hex()}.part"
