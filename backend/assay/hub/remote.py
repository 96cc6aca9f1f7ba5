"""A hub over HTTP, one try a call: network failures are RetryableErrors, refusals RequestErrors."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import BinaryIO

import httpx

from assay.errors import RequestError, RetryableError
from assay.hub.digests import ArtifactUnknownError
from assay.types import Hash32

CHUNK_BYTES = 8 << 20
"""Larger uploads go in chunks of this size, so that a broken one goes on."""
TIMEOUT = httpx.Timeout(60.0, connect=5.0)


class Remote:
    """`http` is closed by `close`; one is made by default."""

    def __init__(self, url: str, http: httpx.Client | None = None) -> None:
        self.name = f"hub {httpx.URL(url).copy_with(username=None, password=None)}"
        self._url = url.rstrip("/")
        self._http = http or httpx.Client(timeout=TIMEOUT, headers={"Accept-Encoding": "identity"})

    def close(self) -> None:
        self._http.close()

    def size(self, digest: Hash32) -> int | None:
        size, _ = self._head(digest)
        return size

    def _head(self, digest: Hash32) -> tuple[int | None, int]:
        """(size if the hub has it, where its chunked upload stands)."""
        with self._errors():
            response = self._http.head(self._path(digest))
        if response.status_code == 404:
            return None, _number(response, "upload-offset")
        self._check(response)
        return _number(response, "content-length"), 0

    def stream(self, digest: Hash32, start: int = 0) -> Iterator[bytes]:
        """The bytes from `start` on; a hub that ignores the range is skipped through to there."""
        headers = {"Range": f"bytes={start}-", "If-Range": f'"{digest.hex()}"'} if start else {}
        with self._errors(), self._http.stream("GET", self._path(digest), headers=headers) as response:
            if response.status_code == 416:
                return
            if response.status_code == 404:
                raise ArtifactUnknownError(digest, self.name)
            if response.status_code not in (200, 206):
                response.read()
                self._check(response)
            skip = start if response.status_code == 200 else 0
            for piece in response.iter_bytes():
                yield piece[skip:]
                skip = max(skip - len(piece), 0)

    def upload(
        self, digest: Hash32, file: BinaryIO, progress: Callable[[int, int | None], None] | None
    ) -> None:
        """Send an open file, in chunks if it is large, from where an earlier upload stands."""
        total = file.seek(0, os.SEEK_END)
        size, at = (None, 0) if total <= CHUNK_BYTES else self._head(digest)
        if size is not None:
            return
        if total <= CHUNK_BYTES or at >= total:
            # Small; or the hub has this many bytes yet never finished them: it died, or they are wrong.
            file.seek(0)
            self._put(digest, file, {"Content-Length": str(total)})
            return
        resumed = at
        while at < total:
            file.seek(at)
            data = file.read(CHUNK_BYTES)
            headers = {"Content-Range": f"bytes {at}-{at + len(data) - 1}/{total}"}
            try:
                self._put(digest, data, headers)
            except RequestError as error:
                if error.code != "digest_mismatch" or not resumed:
                    raise
                # What the hub held was not this artifact's beginning; it has dropped it.
                at = resumed = 0
                continue
            at += len(data)
            if progress:
                progress(at, total)

    def _put(self, digest: Hash32, data: bytes | BinaryIO, headers: dict[str, str]) -> None:
        with self._errors():
            response = self._http.put(self._path(digest), content=data, headers=headers)
        self._check(response)

    def _path(self, digest: Hash32) -> str:
        return f"{self._url}/v1/artifacts/{digest.hex()}"

    def _check(self, response: httpx.Response) -> None:
        """Raises RequestError with the hub's own words, RetryableError where another try may do."""
        status = response.status_code
        if status < 300:
            return
        message, code = _error_of(response)
        text = f"{self.name} answered {status}: {message}"
        if status in (408, 409, 425, 429) or status >= 500 or code == "chunk_short":
            raise RetryableError(text)
        raise RequestError(text, status=status, code=code)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise RetryableError(f"cannot reach {self.name}: {reason}; is it running?") from error


def _error_of(response: httpx.Response) -> tuple[str, str]:
    """(message, code) of the body, whatever it is."""
    try:
        body = response.json()
        return str(body["error"])[:500], str(body["code"])
    except (ValueError, KeyError, TypeError):
        return response.reason_phrase or "no reason given", "hub_refused"


def _number(response: httpx.Response, header: str) -> int:
    value = response.headers.get(header, "")
    return int(value) if value.isascii() and value.isdigit() else 0
