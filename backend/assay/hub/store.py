"""Content-addressed store: objects `sha256/<hex>` in a folder, S3, GCS, Azure or memory, through obstore.

A key that can be seen holds whole content: object stores put atomically; a folder gets a file under
`incoming/`, forced to disk, then renamed. The caller checks the digest before it puts.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

import obstore
from obstore import exceptions
from obstore.store import LocalStore, MemoryStore, ObjectStore, from_url

from assay.disk import sync_path
from assay.errors import ConfigurationError, RetryableError
from assay.hub.digests import ArtifactUnknownError
from assay.types import Hash32

CHUNK_BYTES = 1 << 20
REQUEST_TIMEOUT = "600s"
STALE_SECONDS = 24 * 3600


class ArtifactStore:
    """Sync. Raises ArtifactUnknownError without such a digest, RetryableError when the backend fails."""

    def __init__(self, store: ObjectStore, name: str = "the store", folder: Path | None = None) -> None:
        self._store = store
        self._folder = folder
        self.name = name

    def size(self, digest: Hash32) -> int | None:
        """Bytes of the artifact; None if it is not there."""
        try:
            return int(obstore.head(self._store, _key(digest))["size"])
        except FileNotFoundError:
            return None
        except exceptions.BaseError as error:
            raise self._failed("look up", digest, error) from error

    def put(self, digest: Hash32, file: BinaryIO | Path | bytes) -> None:
        """Store content whose sha256 the caller has checked; visible all at once or not at all."""
        try:
            if self._folder is None:
                obstore.put(self._store, _key(digest), file)
            else:
                self._put_local(self._folder, digest, file)
        except (exceptions.BaseError, OSError) as error:
            raise self._failed("write", digest, error) from error

    def _put_local(self, folder: Path, digest: Hash32, file: BinaryIO | Path | bytes) -> None:
        incoming = f"incoming/{uuid4().hex}"
        try:
            obstore.put(self._store, incoming, file)
            sync_path(folder / incoming)
            obstore.rename(self._store, incoming, _key(digest))
        except BaseException:
            (folder / incoming).unlink(missing_ok=True)
            raise
        sync_path((folder / _key(digest)).parent)

    def stream(self, digest: Hash32, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """The bytes from `start` up to `stop`, in pieces of about 1 MiB."""
        size = self.size(digest)
        if size is None:
            raise ArtifactUnknownError(digest, self.name)
        stop = size if stop is None else min(stop, size)
        return self._stream(digest, start, stop) if start < stop else iter(())

    def _stream(self, digest: Hash32, start: int, stop: int) -> Iterator[bytes]:
        try:
            found = obstore.get(self._store, _key(digest), options={"range": (start, stop)})
            yield from found.stream(min_chunk_size=CHUNK_BYTES)
        except FileNotFoundError:
            raise ArtifactUnknownError(digest, self.name) from None
        except exceptions.BaseError as error:
            raise self._failed("read", digest, error) from error

    def _failed(self, action: str, digest: Hash32, error: Exception) -> RetryableError:
        return RetryableError(f"cannot {action} artifact {digest.hex()} in {self.name}: {_first_line(error)}")


def _key(digest: Hash32) -> str:
    return f"sha256/{digest.hex()}"


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:300]


def open_store(location: str | Path) -> ArtifactStore:
    """A store by folder, `memory://`, or object-store URL (`s3://bucket/prefix`, `gs://`, `az://`).

    Credentials and endpoints come from the backend's usual environment variables, for S3 `AWS_ACCESS_KEY_ID`,
    `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`, `AWS_ENDPOINT`, `AWS_ALLOW_HTTP`. Raises ConfigurationError.
    """
    text = str(location)
    scheme, separator, _ = text.partition("://")
    try:
        if not separator:
            return _open_folder(Path(text).expanduser().absolute())
        if scheme == "memory":
            return ArtifactStore(MemoryStore(), "memory")
        # Options given here replace those of the environment as a whole, so the one it may have is repeated.
        plain = os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true")
        return ArtifactStore(
            from_url(text, client_options={"timeout": REQUEST_TIMEOUT, "allow_http": plain}), text
        )
    except (exceptions.BaseError, ValueError, OSError) as error:
        raise ConfigurationError(
            f"cannot open artifact store {text}: {_first_line(error)}; give a folder or s3://bucket/prefix"
        ) from error


def _open_folder(folder: Path) -> ArtifactStore:
    """A folder's store; what interrupted writers left in `incoming/` a day ago is removed."""
    store = LocalStore(folder, mkdir=True)
    for left in (folder / "incoming").glob("*"):
        if left.stat().st_mtime < time.time() - STALE_SECONDS:
            left.unlink(missing_ok=True)
    return ArtifactStore(store, f"folder {folder}", folder)
