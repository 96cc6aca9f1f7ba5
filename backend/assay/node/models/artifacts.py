"""Fetches artifacts by digest into the node's folder; nothing parses a file before its digest was checked."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

import httpx

from assay.disk import room_in
from assay.errors import ConfigurationError, RetryableError
from assay.node.errors import ArtifactRefused
from assay.types import Hash32

BLOCK: Final = 1 << 20
ATTEMPTS: Final = 4
MAX_MANIFEST: Final = 1 << 20
MIN_RATE: Final = 256 << 10
"""Bytes a second that a hub must give on the average, beyond the time-out for the first of them."""


class ArtifactCache:
    """Files named by the hexadecimal sha256 of their content, from a hub (`http…`) or a folder (`file://…`)."""

    def __init__(self, folder: Path, hub_url: str, *, timeout: float = 30.0) -> None:
        self._folder = folder
        self._hub = hub_url.rstrip("/")
        self._timeout = timeout
        if urlsplit(self._hub).scheme not in ("http", "https", "file"):
            raise ConfigurationError(
                f"hub_url {hub_url!r} is not an http(s):// or file:// URL; correct it in node.toml"
            )

    def path(self, digest: Hash32) -> Path:
        return self._folder / digest.hex()

    def fetch(self, digest: Hash32, max_bytes: int) -> Path:
        """The file with this sha256, fetched unless it is here and intact; a broken download is resumed. Of
        several that ask for it at once, also from several processes, one fetches it.

        SYNC: in a thread without an event loop. Raises RetryableError if the hub cannot be reached, is too
        slow or lacks it, or the disk is full, ArtifactRefused `digest` or `too_large`.
        """
        path = self.path(digest)
        if _is_intact(path, digest):
            return path
        part = path.with_suffix(".part")
        with room_in(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            self._fetch_alone(digest, path, part, max_bytes)
        return path

    def _fetch_alone(self, digest: Hash32, path: Path, part: Path, max_bytes: int) -> None:
        with _alone(part):
            if not _is_intact(path, digest):
                path.unlink(missing_ok=True)
                self._fetch(digest, part, max_bytes)
                part.replace(path)

    def _fetch(self, digest: Hash32, part: Path, max_bytes: int) -> None:
        """Into `part`, which is held."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                self._download(digest, part, max_bytes)
                break
            except httpx.HTTPError as error:
                if attempt == ATTEMPTS:
                    raise RetryableError(
                        f"hub {self._hub} did not give artifact {digest.hex()}: {type(error).__name__} "
                        f"{error}"
                    ) from None
        if _digest(part) != digest:
            part.unlink()
            raise ArtifactRefused(
                f"hub {self._hub} gave other bytes than artifact {digest.hex()}; use another hub",
                code="digest",
            )

    def _download(self, digest: Hash32, part: Path, max_bytes: int) -> None:
        if self._hub.startswith("file:"):
            source = Path(unquote(urlsplit(self._hub).path)) / digest.hex()
            if not source.exists():
                raise RetryableError(f"artifact {digest.hex()} is not in {source.parent}; push it there")
            with _writing(part, 0, max_bytes) as write:
                for block in _blocks(source):
                    write(block)
            return
        asyncio.run(self._get(digest, part, part.stat().st_size, max_bytes))

    async def _get(self, digest: Hash32, part: Path, have: int, max_bytes: int) -> None:
        try:
            async with (
                asyncio.timeout(self._timeout) as limit,
                httpx.AsyncClient(timeout=self._timeout) as client,
            ):
                await self._stream(client, limit, digest, part, have=have, max_bytes=max_bytes)
        except TimeoutError:
            raise httpx.ReadTimeout(f"gave less than {MIN_RATE} bytes a second") from None

    async def _stream(
        self,
        client: httpx.AsyncClient,
        limit: asyncio.Timeout,
        digest: Hash32,
        part: Path,
        *,
        have: int,
        max_bytes: int,
    ) -> None:
        """Each byte that comes moves the limit on."""
        deadline = limit.when()
        assert deadline is not None
        headers = {"range": f"bytes={have}-"} if have else {}
        url = f"{self._hub}/v1/artifacts/{digest.hex()}"
        async with client.stream("GET", url, headers=headers) as reply:
            if reply.status_code == 416:
                return
            if reply.status_code == 404:
                raise RetryableError(
                    f"hub {self._hub} has no artifact {digest.hex()}; its publisher must push it"
                )
            reply.raise_for_status()
            is_resumed = reply.status_code == 206
            with _writing(part, have if is_resumed else 0, max_bytes) as write:
                async for block in reply.aiter_bytes():
                    write(block)
                    deadline += len(block) / MIN_RATE
                    limit.reschedule(deadline)


@contextlib.contextmanager
def _alone(part: Path) -> Iterator[None]:
    """Holds the file, made empty where there is none, against threads and processes; leaves no empty one."""
    while True:
        handle = os.open(part, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if not _is_at(handle, part):  # whoever held it before has renamed or removed it
                continue
            try:
                yield
            finally:
                if _is_at(handle, part) and not os.fstat(handle).st_size:
                    part.unlink()
            return
        finally:
            os.close(handle)


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _writing(part: Path, size: int, max_bytes: int) -> Iterator[Callable[[bytes], None]]:
    """To append after the first `size` bytes, or begin anew where that is 0."""
    with part.open("ab" if size else "wb") as file:

        def write(block: bytes) -> None:
            nonlocal size
            size += len(block)
            if size > max_bytes:
                part.unlink()
                raise ArtifactRefused(
                    f"artifact {part.stem} has more than the {max_bytes} bytes that this node takes",
                    code="too_large",
                )
            file.write(block)

        yield write
        file.flush()
        os.fsync(file.fileno())


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            yield block


def _is_intact(path: Path, digest: Hash32) -> bool:
    try:
        return _digest(path) == digest
    except FileNotFoundError:
        return False


def _digest(path: Path) -> Hash32:
    with path.open("rb") as file:
        return Hash32(hashlib.file_digest(file, "sha256").digest())
