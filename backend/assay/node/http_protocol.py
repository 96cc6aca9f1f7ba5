"""uvicorn's HTTP protocol with a bound on request heads, and a server that leaves signals to its caller."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD: Final = 32_768
"""Bytes of request line and headers together; also of the trailers after a chunked body."""
HEAD_SECONDS: Final = 20.0
"""From connecting, or from a request's first byte, to the end of its head."""
_BODY: Final = b'{"error":"request line and headers have more than 32768 bytes","code":"headers_too_large"}'
_TOO_LARGE: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\nconnection: close\r\n\r\n%s" % (len(_BODY), _BODY)
)


class BoundedProtocol(HttpToolsProtocol):
    """Ends connections whose request head does not end within `MAX_HEAD` bytes and `HEAD_SECONDS`."""

    _in_head = True
    _head_bytes = 0
    _trailer_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        self._stop_waiting()
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def data_received(self, data: bytes) -> None:
        self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > MAX_HEAD and not self.transport.is_closing():
            self.send_400_response("")

    def on_message_begin(self) -> None:
        self._in_head = True
        self._head_bytes = 0  # what came before belongs to the body of the last request
        self._trailer_bytes = 0
        if self._head_timer is None:
            self._await_head()
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            self._trailer_bytes += len(name) + len(value) + 4
            if self._trailer_bytes > MAX_HEAD:
                raise ValueError("the request's trailers are too large")
            return
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > MAX_HEAD:
            self._head_bytes = size
            raise ValueError("the request's head is too large")  # the parser ends with send_400_response
        self._in_head = False
        self._head_bytes = 0
        self._stop_waiting()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        if self._head_bytes > MAX_HEAD:
            self.transport.write(_TOO_LARGE)
            self.transport.close()
        else:
            super().send_400_response(msg)


class Server(uvicorn.Server):
    """Does not install signal handlers; `should_exit` ends it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def build_server(app: Any, *, max_connections: int, grace_seconds: int) -> Server:
    """A server for an ASGI app on uvloop and httptools, without access log or lifespan."""
    config = uvicorn.Config(
        app,
        http=BoundedProtocol,
        ws="none",
        interface="asgi3",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        limit_concurrency=max_connections,
        backlog=1024,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=grace_seconds,
    )
    return Server(config)
