"""Fetches artifacts by digest into the node's folder; nothing parses a file before its digest was checked."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

import httpx

from assay.errors import ConfigurationError, RetryableError
from assay.node.errors import ArtifactRefused
from assay.types import Hash32

BLOCK: Final = 1 << 20
ATTEMPTS: Final = 4
MAX_MANIFEST: Final = 1 << 20


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
        """The file with this sha256, fetched unless it is here and intact; a broken download is resumed.

        Raises RetryableError if the hub cannot be reached or lacks it, ArtifactRefused `digest` or
        `too_large`.
        """
        path = self.path(digest)
        if path.exists():
            if _digest(path) == digest:
                return path
            path.unlink()
        self._folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
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
        part.replace(path)
        return path

    def _download(self, digest: Hash32, part: Path, max_bytes: int) -> None:
        have = part.stat().st_size if part.exists() else 0
        if self._hub.startswith("file:"):
            source = Path(unquote(urlsplit(self._hub).path)) / digest.hex()
            if not source.exists():
                raise RetryableError(f"artifact {digest.hex()} is not in {source.parent}; push it there")
            _write(part, _blocks(source), 0, max_bytes)
            return
        headers = {"range": f"bytes={have}-"} if have else {}
        url = f"{self._hub}/v1/artifacts/{digest.hex()}"
        with httpx.stream("GET", url, headers=headers, timeout=self._timeout) as reply:
            if reply.status_code == 416:
                return
            if reply.status_code == 404:
                raise RetryableError(
                    f"hub {self._hub} has no artifact {digest.hex()}; its publisher must push it"
                )
            reply.raise_for_status()
            is_resumed = reply.status_code == 206
            _write(part, reply.iter_bytes(BLOCK), have if is_resumed else 0, max_bytes)


def _write(part: Path, blocks: Iterator[bytes], size: int, max_bytes: int) -> None:
    """Append after the first `size` bytes, or begin anew where that is 0."""
    with part.open("ab" if size else "wb") as file:
        for block in blocks:
            size += len(block)
            if size > max_bytes:
                file.close()
                part.unlink()
                raise ArtifactRefused(
                    f"artifact {part.stem} has more than the {max_bytes} bytes that this node takes",
                    code="too_large",
                )
            file.write(block)
        file.flush()
        os.fsync(file.fileno())


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            yield block


def _digest(path: Path) -> Hash32:
    with path.open("rb") as file:
        return Hash32(hashlib.file_digest(file, "sha256").digest())
