"""A small application behind the node's real HTTP server, and raw sockets to talk to it.

`POST /echo` answers with its body, upside down, after `delay` seconds; `GET /stream/{n}` streams n pieces.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from threading import Thread
from typing import Any

import orjson
import uvloop
from assay.errors import RequestError
from assay.node.errors import Unavailable
from assay.node.http.exchange import Exchange, KnownHead, Limits, Peer, body_too_large
from assay.node.http.messages import Reply, Request
from assay.node.http.routes import Handler, Routes
from assay.node.http.server import Connections, HttpServer


class EchoApp:
    """Handlers run as tasks; with `delay` None `POST /echo` is answered at once."""

    def __init__(self, limits: Limits, delay: float | None = 0.0) -> None:
        self.limits = limits
        self.heads: dict[bytes, KnownHead] = {}
        self.connections = Connections(limits.max_connections)
        self.routes = Routes()
        self.routes.add("POST", "/echo", self._echo, max_body=limits.max_body)
        self.routes.add("GET", "/stream/{count}", self._stream)
        self.routes.add("GET", "/drip/{count}", self._drip)
        self.routes.add("GET", "/busy", self._busy)
        self.open = 0
        self.served: list[bytes] = []
        self.sent = 0
        self._delay = delay
        self._tasks: set[asyncio.Task[None]] = set()

    def opened(self, peer: Peer) -> bool:
        return self.connections.add(peer)

    def closed(self, peer: Peer) -> None:
        self.connections.remove(peer)

    def begin(self, exchange: Exchange, length: int | None) -> int:
        route, exchange.request.parts = self.routes.find(exchange.request.method, exchange.request.path)
        exchange.target = route.handler
        self.open += 1
        return route.max_body

    def grow(self, exchange: Exchange) -> int:
        raise body_too_large(exchange.max_body)

    def serve(self, exchange: Exchange) -> None:
        self.served.append(exchange.request.body)
        exchange.is_started = b"started" in exchange.request.headers
        if self._delay is None and exchange.request.path == b"/echo":
            exchange.reply(Reply(200, exchange.request.body[::-1]))
            return
        task = asyncio.get_running_loop().create_task(self._run(exchange, exchange.target))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def end(self, exchange: Exchange) -> None:
        self.open -= 1

    def refuse(self, error: Exception, request: Request | None) -> Reply:
        assert isinstance(error, RequestError), error
        headers = ((b"retry-after", b"1"),) if isinstance(error, Unavailable) else ()
        return Reply(error.status, orjson.dumps({"error": str(error), "code": error.code}), headers=headers)

    async def _run(self, exchange: Exchange, handler: Handler) -> None:
        exchange.reply(await handler(exchange.request))

    async def _echo(self, request: Request) -> Reply:
        await asyncio.sleep(self._delay or 0)
        return Reply(200, request.body[::-1])

    async def _busy(self, request: Request) -> Reply:
        raise AssertionError("it is refused before")

    async def _stream(self, request: Request) -> Reply:
        return Reply(200, stream=self._pieces(int(request.parts["count"])))

    async def _drip(self, request: Request) -> Reply:
        return Reply(200, stream=self._drops(int(request.parts["count"])))

    async def _drops(self, count: int) -> AsyncIterator[bytes]:
        """A burst that no socket takes at once, then a little every 0.1 s."""
        yield b"x" * 20_000_000
        for _ in range(count):
            await asyncio.sleep(0.1)
            yield b"."

    async def _pieces(self, count: int) -> AsyncIterator[bytes]:
        for n in range(count):
            self.sent += 1
            yield b"%06d," % n + b"x" * 10_000


class RunningApp:
    """The app in a thread with a loop of its own."""

    def __init__(self, app: EchoApp, grace_seconds: float) -> None:
        self.app = app
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.address = self.sock.getsockname()
        self._grace = grace_seconds
        self.thread = Thread(target=self._run)
        self._loop: Any = None
        self._server: HttpServer | None = None

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            self._loop = runner.get_loop()
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._server = HttpServer(self.app, self.app.connections, self._grace)
        await self._server.serve(self.sock)

    def close(self) -> None:
        with contextlib.suppress(RuntimeError):  # it has ended already
            self._loop.call_soon_threadsafe(lambda: self._server and self._server.close())

    def connect(self, timeout: float = 10.0) -> socket.socket:
        return socket.create_connection(self.address, timeout=timeout)


@contextlib.contextmanager
def running_app(
    limits: Limits | None = None, *, delay: float | None = 0.0, grace_seconds: float = 5.0
) -> Iterator[RunningApp]:
    running = RunningApp(EchoApp(limits or Limits(), delay), grace_seconds)
    running.thread.start()
    try:
        with running.connect() as sock:  # it runs
            sock.sendall(b"HEAD /stream/0 HTTP/1.1\r\nhost: x\r\n\r\n")
            sock.recv(1000)
        running.app.served.clear()
        yield running
    finally:
        running.close()
        running.thread.join(20)
        assert not running.thread.is_alive()
        running.sock.close()


def post(body: bytes, path: str = "/echo", *lines: str) -> bytes:
    head = [f"POST {path} HTTP/1.1", "host: x", f"content-length: {len(body)}", *lines]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def post_chunked(parts: list[bytes], path: str = "/echo") -> bytes:
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts if part)
    return (
        f"POST {path} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".encode()
        + chunks
        + b"0\r\n\r\n"
    )


def read_answer(sock: socket.socket, buffered: bytearray | None = None) -> tuple[int, bytes, bytes]:
    """(status, head, body) of the next answer; what follows it stays in `buffered`."""
    data = bytearray() if buffered is None else buffered
    while b"\r\n\r\n" not in data:
        _fill(sock, data)
    head = bytes(data[: data.index(b"\r\n\r\n")])
    del data[: len(head) + 4]
    if b"transfer-encoding: chunked" in head:
        return int(head[9:12]), head, _chunks(sock, data)
    at = head.index(b"content-length: ") + 16
    length = int(head[at:].split(b"\r")[0])
    while len(data) < length:
        _fill(sock, data)
    body = bytes(data[:length])
    del data[:length]
    return int(head[9:12]), head, body


def _chunks(sock: socket.socket, data: bytearray) -> bytes:
    body = b""
    while True:
        while b"\r\n" not in data:
            _fill(sock, data)
        line = bytes(data[: data.index(b"\r\n")])
        size = int(line, 16)
        while len(data) < len(line) + 2 + size + 2:
            _fill(sock, data)
        body += bytes(data[len(line) + 2 : len(line) + 2 + size])
        del data[: len(line) + 2 + size + 2]
        if not size:
            return body


def _fill(sock: socket.socket, data: bytearray) -> None:
    part = sock.recv(65_536)
    if not part:
        raise ConnectionError(f"the server closed the connection after {bytes(data[:200])!r}")
    data += part
