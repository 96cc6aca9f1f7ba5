"""Accepts connections, keeps their deadlines, ends them in order."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import Callable
from operator import itemgetter
from typing import Final

import structlog

from assay.node.http.connection import Connection
from assay.node.http.exchange import Application, Loss, Peer

_log = structlog.get_logger(__name__)

SWEEP_SECONDS: Final = 0.2
"""How often deadlines are looked at: they are met as late as this."""
EXCESS: Final = 64
"""Connections above the limit that are told so; those above are ended without a word."""
ACCEPTED: Final = 64
"""Connections that are accepted at a time, between rounds of requests."""
REST_SECONDS: Final = 0.2
"""Without accepting any, after the system refused one: there are no file descriptors left."""


class Connections:
    """All that are open. `add` says whether one is within `limit`, or took the place of another."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: set[Peer] = set()
        self._of_host: Counter[str] = Counter()
        """How many; of no host that has none."""
        self._in_vain: set[str] = set()
        """Hosts whose newcomers found no place to take since the last sweep: a look takes a while."""
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        return len(self._open)

    def add(self, peer: Peer) -> bool:
        self._open.add(peer)
        self._of_host[peer.peer] += 1
        self._empty.clear()
        if len(self._open) <= self._limit or self._displace(peer.peer):
            return True
        if len(self._open) > self._limit + EXCESS:
            peer.abort()
        return False

    def remove(self, peer: Peer) -> None:
        if peer in self._open:
            self._open.remove(peer)
            self._of_host[peer.peer] -= 1
            if not self._of_host[peer.peer]:
                del self._of_host[peer.peer]
        if not self._open:
            self._empty.set()

    def _displace(self, newcomer: str) -> bool:
        """End a wait of the host that has most connections, if those are more than the newcomer's has: one
        host must not keep all others out. Or one of the newcomer's own that its client does not need: a pool
        keeps more than it uses."""
        if newcomer in self._in_vain:
            return False
        host, most = self._of_host.most_common(1)[0]
        other = host if most > self._of_host[newcomer] + 1 else newcomer
        waiting = [
            (loss, peer.deadline, peer)
            for peer in self._open
            if peer.peer in (other, newcomer)
            and (loss := peer.loss) is not None
            and (loss is Loss.NOTHING or peer.peer != newcomer)
        ]
        if not waiting:
            self._in_vain.add(newcomer)
            return False
        min(waiting, key=itemgetter(0, 1))[2].give_way()
        return True

    def sweep(self, now: float) -> None:
        """End the waits whose time is over."""
        self._in_vain.clear()
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


class Listener:
    """Accepts what waits at a listening socket, ACCEPTED in each round of the event loop.

    uvloop's own server accepts one a round: under load, when a round serves hundreds of requests, the last of
    many new connections would wait for minutes.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, protocol: Callable[[], asyncio.Protocol]
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._protocol = protocol
        self._opening: set[asyncio.Task[None]] = set()
        self._is_closed = False

    @property
    def address(self) -> tuple[str, int]:
        host, port = self._sock.getsockname()[:2]
        return host, port

    def start(self) -> None:
        self._sock.setblocking(False)
        self._sock.listen(1024)
        self._loop.add_reader(self._sock, self._accept)

    def close(self) -> None:
        """Connections that were accepted live on."""
        if not self._is_closed:
            self._is_closed = True
            self._loop.remove_reader(self._sock)
            self._sock.close()

    def _accept(self) -> None:
        for _ in range(ACCEPTED):
            try:
                accepted, _ = self._sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:
                _log.error("cannot accept connections; it is tried again", error=str(error))
                self._loop.remove_reader(self._sock)
                self._loop.call_later(REST_SECONDS, self._resume)
                return
            accepted.setblocking(False)
            task = self._loop.create_task(self._open(accepted))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    def _resume(self) -> None:
        if not self._is_closed:
            self._loop.add_reader(self._sock, self._accept)

    async def _open(self, accepted: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._protocol, accepted)
        except OSError:  # it is gone already
            accepted.close()


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
        listener = Listener(loop, sock, lambda: Connection(self._app, loop))
        listener.start()
        sweeping = asyncio.create_task(self._sweep(loop))
        try:
            await self._closed.wait()
        finally:
            listener.close()
            await self._connections.finish(self._grace)
            sweeping.cancel()

    async def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self._connections.sweep(loop.time())
