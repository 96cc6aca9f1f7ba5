"""Running the hub: `build_app` from plain arguments, `serve` on a socket of its own."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from assay.errors import ConfigurationError
from assay.hub.app import create_app
from assay.hub.digests import MAX_ARTIFACT_BYTES
from assay.hub.store import open_store

DEFAULT_PORT = 8600
BACKLOG = 2048


def build_app(location: str, *, data: Path, max_bytes: int = MAX_ARTIFACT_BYTES) -> FastAPI:
    """The app over a store location; uploads are spooled beside a folder store, else in `data`."""
    spool = data / "hub-spool" if "://" in location else Path(location).expanduser() / "spool"
    return create_app(open_store(location), spool, max_bytes=max_bytes)


def serve(app: FastAPI, host: str, port: int, announce: Callable[[str], None]) -> None:
    """Serve until a signal; `announce` gets the URL once the port is held.

    Raises ConfigurationError if the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigurationError(
            f"cannot listen on {host}:{port}: {error.strerror}; choose --port"
        ) from error
    bound = listener.getsockname()[1]
    announce(f"http://{f'[{host}]' if ':' in host else host}:{bound}")
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=10)
    try:
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        listener.close()
