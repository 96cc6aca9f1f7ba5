"""Getting artifacts from a hub and putting them there, always checked by digest. Sync."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self, TypeVar
from uuid import uuid4

import httpx
import stamina

from assay.disk import check_room, room_in
from assay.errors import RetryableError
from assay.hub.digests import (
    MAX_ARTIFACT_BYTES,
    ArtifactTooLargeError,
    ArtifactUnknownError,
    check_digest,
    file_digest,
)
from assay.hub.remote import Remote
from assay.hub.store import ArtifactStore, open_store
from assay.types import Hash32

T = TypeVar("T")
Progress = Callable[[int, int | None], None]
"""Called with (bytes so far, bytes in all if known)."""
READ_LIMIT = 16 << 20


class HubClient:
    """A hub by `http(s)://` URL, or a store by folder or object-store URL: what `open_store` takes.

    Raises ArtifactUnknownError, ArtifactTooLargeError, VerificationError (`artifact_digest`: the bytes are
    not the artifact) and, after `attempts` tries, RetryableError.
    """

    def __init__(
        self,
        location: str | Path,
        *,
        attempts: int = 5,
        max_bytes: int = MAX_ARTIFACT_BYTES,
        http: httpx.Client | None = None,
    ) -> None:
        remote = str(location).startswith(("http://", "https://"))
        self._hub: Remote | ArtifactStore = Remote(str(location), http) if remote else open_store(location)
        self._attempts = attempts
        self._max_bytes = max_bytes

    def size(self, digest: Hash32) -> int | None:
        """Bytes of an artifact; None if the hub has none of this digest."""
        return self._retried(lambda: self._hub.size(digest))

    def put(self, source: Path | bytes, progress: Progress | None = None) -> Hash32:
        """Store a file or bytes unless the hub has them; returns the digest. A broken upload goes on."""
        with contextlib.ExitStack() as stack:
            file: BinaryIO = (
                io.BytesIO(source) if isinstance(source, bytes) else stack.enter_context(source.open("rb"))
            )
            digest = file_digest(file)
            total = file.tell()
            if self.size(digest) is None:
                self._retried(lambda: self._upload(digest, file, progress))
        if progress:
            progress(total, total)
        return digest

    def _upload(self, digest: Hash32, file: BinaryIO, progress: Progress | None) -> None:
        file.seek(0)
        if isinstance(self._hub, Remote):
            self._hub.upload(digest, file, progress)
        else:
            self._hub.put(digest, file)

    def read(self, digest: Hash32, max_bytes: int = READ_LIMIT) -> bytes:
        """A small artifact (manifest, model card) whole in memory, checked."""
        return self._retried(lambda: self._read(digest, min(max_bytes, self._max_bytes)))

    def _read(self, digest: Hash32, limit: int) -> bytes:
        content = bytearray()
        for piece in self._hub.stream(digest):
            content += piece
            if len(content) > limit:
                raise ArtifactTooLargeError(limit)
        check_digest(digest, Hash32(hashlib.sha256(content).digest()), self._hub.name)
        return bytes(content)

    def fetch(self, digest: Hash32, to: Path, progress: Progress | None = None) -> Path:
        """Write an artifact to `to`, which appears only whole and checked; returns `to`.

        What an earlier call left in `<name>.part` is gone on from. A file that is `to` already and has the
        digest is kept; one that has another is replaced. Raises DiskFullError, too.
        """
        if to.is_file() and file_digest(to) == digest:
            return to
        with room_in(to.parent):
            to.parent.mkdir(parents=True, exist_ok=True)
            with _part_file(to) as (file, part):
                self._retried(lambda: self._download(digest, file, part, progress))
                part.replace(to)
        return to

    def _download(self, digest: Hash32, file: BinaryIO, part: Path, progress: Progress | None) -> None:
        total = self._hub.size(digest)
        if total is None:
            part.unlink(missing_ok=True)
            raise ArtifactUnknownError(digest, self._hub.name)
        if total > self._max_bytes:
            raise ArtifactTooLargeError(self._max_bytes)
        start = file.seek(0, os.SEEK_END)
        if start > total:
            start = _start_over(file)
        while True:
            self._append(digest, file, start, total, progress)
            file.seek(0)
            actual = file_digest(file)
            if actual == digest:
                os.fsync(file.fileno())
                return
            resumed, start = start > 0, _start_over(file)
            if not resumed:
                check_digest(digest, actual, self._hub.name)

    def _append(
        self, digest: Hash32, file: BinaryIO, start: int, total: int, progress: Progress | None
    ) -> None:
        at = start
        for piece in self._hub.stream(digest, start):
            at += len(piece)
            if at > total:
                raise ArtifactTooLargeError(total)
            file.write(piece)
            check_room(file)
            if progress:
                progress(at, total)
        file.flush()
        if at < total:
            raise RetryableError(f"{self._hub.name} sent {at} of {total} bytes of artifact {digest.hex()}")

    def _retried(self, call: Callable[[], T]) -> T:
        for attempt in stamina.retry_context(
            on=RetryableError, attempts=self._attempts, timeout=None, wait_initial=0.2, wait_max=5.0
        ):
            with attempt:
                return call()
        raise AssertionError("retry_context ends with a result or an error")

    def close(self) -> None:
        if isinstance(self._hub, Remote):
            self._hub.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _start_over(file: BinaryIO) -> int:
    file.seek(0)
    file.truncate()
    return 0


@contextlib.contextmanager
def _part_file(to: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """`<name>.part`, locked; while another process has it, a file of this call's own, removed if it stays."""
    part = to.with_name(to.name + ".part")
    with part.open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = os.path.samestat(os.fstat(file.fileno()), part.stat())
        except (BlockingIOError, FileNotFoundError):
            ours = False
        if ours:
            yield file, part
            return
    own = to.with_name(f"{to.name}.{uuid4().hex}.part")
    try:
        with own.open("x+b") as file:
            yield file, own
    finally:
        own.unlink(missing_ok=True)
