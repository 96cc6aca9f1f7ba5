"""Taking uploads: size cap, digest check, resuming. Async; file and store work runs in threads."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from weakref import WeakValueDictionary

from anyio import to_thread

from assay.errors import RequestError
from assay.hub.digests import ArtifactTooLargeError, DigestMismatchError, file_digest
from assay.hub.ranges import ContentRange
from assay.hub.spool import Spool, Upload
from assay.hub.store import ArtifactStore
from assay.types import Hash32

WRITE_BYTES = 1 << 20
SILENT_SECONDS = 60.0
"""After which a body is given up: nobody else can send chunks of an artifact while somebody does."""


class UploadSilentError(RequestError):
    """A body stopped coming; what was written of a chunk is kept."""

    def __init__(self) -> None:
        super().__init__(
            f"no byte of the body came for {SILENT_SECONDS:g} s", status=408, code="upload_silent"
        )


class OffsetConflictError(RequestError):
    """A chunk does not start where the upload stands. `offset` is where to go on."""

    def __init__(self, message: str, code: str, offset: int, status: int = 409) -> None:
        super().__init__(f"{message}; go on at byte {offset}", status=status, code=code)
        self.offset = offset


class Uploads:
    """One per process: chunks of one digest are taken one after another."""

    def __init__(self, store: ArtifactStore, spool: Spool, max_bytes: int) -> None:
        self._store = store
        self._spool = spool
        self._max_bytes = max_bytes
        self._locks: WeakValueDictionary[Hash32, asyncio.Lock] = WeakValueDictionary()

    async def compare(self, digest: Hash32, body: AsyncIterator[bytes]) -> None:
        """Read a body that is here already. Raises ArtifactTooLargeError, DigestMismatchError,
        UploadSilentError.
        """
        size, seen = 0, hashlib.sha256()
        async for data in _coming(body):
            size += len(data)
            if size > self._max_bytes:
                raise ArtifactTooLargeError(self._max_bytes)
            seen.update(data)
        if seen.digest() != digest:
            raise DigestMismatchError(digest, Hash32(seen.digest()))

    async def take_whole(self, digest: Hash32, body: AsyncIterator[bytes], length: int | None) -> None:
        """Store a whole body. Raises ArtifactTooLargeError, DigestMismatchError and leaves nothing then."""
        if length is not None and length > self._max_bytes:
            raise ArtifactTooLargeError(self._max_bytes)
        with self._spool.whole() as upload:
            await _receive(upload, body, ArtifactTooLargeError(self._max_bytes), self._max_bytes)
            await self._check_and_put(digest, upload)
        if digest not in self._locks:
            self._spool.discard(digest)

    async def take_chunk(self, digest: Hash32, body: AsyncIterator[bytes], chunk: ContentRange) -> bool:
        """Append a chunk; True when it completed the artifact and that is stored.

        Raises ArtifactTooLargeError, DigestMismatchError (the upload starts again from 0),
        OffsetConflictError (`offset_conflict`, `upload_busy`, `chunk_short`, `chunk_long`),
        UploadSilentError.
        """
        if chunk.total > self._max_bytes:
            raise ArtifactTooLargeError(self._max_bytes)
        if chunk.start == 0:
            self._spool.prune()
        lock = self._locks.setdefault(digest, asyncio.Lock())
        if lock.locked():
            offset = self._spool.offset(digest)
            raise OffsetConflictError("another upload of this artifact is running", "upload_busy", offset)
        async with lock:
            with self._spool.part(digest) as upload:
                return await self._append(digest, upload, body, chunk)

    async def _append(
        self, digest: Hash32, upload: Upload, body: AsyncIterator[bytes], chunk: ContentRange
    ) -> bool:
        if upload.size != chunk.start:
            raise OffsetConflictError(f"chunk starts at byte {chunk.start}", "offset_conflict", upload.size)
        too_long = OffsetConflictError("the chunk is longer than it said", "chunk_long", chunk.stop, 400)
        await _receive(upload, body, too_long, chunk.stop)
        if upload.size < chunk.stop:
            raise OffsetConflictError("the chunk is shorter than it said", "chunk_short", upload.size, 400)
        if chunk.stop < chunk.total:
            return False
        try:
            await self._check_and_put(digest, upload)
        except DigestMismatchError:
            self._spool.discard(digest)
            raise
        self._spool.discard(digest)
        return True

    async def _check_and_put(self, digest: Hash32, upload: Upload) -> None:
        upload.flush()
        actual = await to_thread.run_sync(file_digest, upload.path)
        if actual != digest:
            raise DigestMismatchError(digest, actual)
        await to_thread.run_sync(self._store.put, digest, upload.path)


async def _receive(upload: Upload, body: AsyncIterator[bytes], refusal: RequestError, limit: int) -> None:
    """Append the body in pieces of 1 MiB; raises `refusal` before the file would exceed `limit`."""
    buffer = bytearray()
    async for data in _coming(body):
        if upload.size + len(buffer) + len(data) > limit:
            raise refusal
        buffer += data
        if len(buffer) >= WRITE_BYTES:
            await to_thread.run_sync(upload.write, bytes(buffer))
            buffer.clear()
    upload.write(bytes(buffer))


async def _coming(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The body's pieces. Raises UploadSilentError."""
    while True:
        try:
            async with asyncio.timeout(SILENT_SECONDS):
                data = await anext(body)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise UploadSilentError from None
        yield data
