"""Serves an ASGI app until a signal, on a socket that is held before anybody is told of it."""

from __future__ import annotations

import socket
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI

from assay.errors import ConfigurationError

BACKLOG = 2048


def serve(
    app: FastAPI, host: str, port: int, announce: Callable[[str], None], *, grace_seconds: int = 10
) -> None:
    """Serve until a signal; `announce` gets the URL once the port (0: any free one) is held.

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
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, timeout_graceful_shutdown=grace_seconds
    )
    try:
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        listener.close()
