"""Building the hub from plain arguments."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI

from assay.hub.app import create_app
from assay.hub.digests import MAX_ARTIFACT_BYTES
from assay.hub.store import open_store

DEFAULT_PORT = 8600


def build_app(location: str, *, data: Path, max_bytes: int = MAX_ARTIFACT_BYTES) -> FastAPI:
    """The app over a store location; uploads are spooled beside a folder store, else in `data`."""
    spool = data / "hub-spool" if "://" in location else Path(location).expanduser() / "spool"
    return create_app(open_store(location), spool, max_bytes=max_bytes)
