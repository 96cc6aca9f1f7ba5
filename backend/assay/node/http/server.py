"""Accepts connections, keeps their deadlines, ends them in order."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Final

from assay.node.http.connection import Connection
from assay.node.http.exchange import Application, Peer

SWEEP_SECONDS: Final = 0.2
"""How often deadlines are looked at: they are met as late as this."""
EXCESS: Final = 64
"""Connections above the limit that are told so; those above are ended without a word."""


class Connections:
    """All that are open. `add` says whether one is within `limit`."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: set[Peer] = set()
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        return len(self._open)

    def add(self, peer: Peer) -> bool:
        self._open.add(peer)
        self._empty.clear()
        if len(self._open) > self._limit + EXCESS:
            peer.abort()
        return len(self._open) <= self._limit

    def remove(self, peer: Peer) -> None:
        self._open.discard(peer)
        if not self._open:
            self._empty.set()

    def sweep(self, now: float) -> None:
        """End the waits whose time is over."""
        for peer in [peer for peer in self._open if peer.deadline <= now]:
            peer.expire()

    async def finish(self, seconds: float) -> None:
        """Let every request that is whole be answered, for `seconds` at most; then end all."""
        for peer in tuple(self._open):
            peer.finish()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._empty.wait()
        for peer in tuple(self._open):
            peer.abort()


class HttpServer:
    """`serve` until `close`; then requests in progress have `grace_seconds`."""

    def __init__(self, app: Application, connections: Connections, grace_seconds: float) -> None:
        self._app = app
        self._connections = connections
        self._grace = grace_seconds
        self._closed = asyncio.Event()

    def close(self) -> None:
        """Belongs to the event loop."""
        self._closed.set()

    async def serve(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Connection(self._app, loop), sock=sock, backlog=1024)
        sweeping = asyncio.create_task(self._sweep(loop))
        try:
            await self._closed.wait()
        finally:
            server.close()
            await self._connections.finish(self._grace)
            sweeping.cancel()

    async def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self._connections.sweep(loop.time())
