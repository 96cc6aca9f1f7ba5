"""One keep-alive HTTP/1.1 connection to a server of the operator's own network."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import Any, Final, cast

import httptools
import orjson

from assay.errors import RetryableError

MAX_HEADERS: Final = 100
MAX_HEAD_BYTES: Final = 65_536
CLOSED: Final = "the connection was closed; an executor must keep it alive"


class ConnectionFailed(RetryableError):  # noqa: N818 - named after what happened, as in assay.errors
    """The connection was refused or lost, or its answer did not come in time, or not as HTTP."""


@dataclass(slots=True)
class Answer:
    """`headers` by lower-case name."""

    status: int = 0
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""

    def json(self) -> dict[str, Any]:
        """Raises ConnectionFailed if the body is no JSON object."""
        with contextlib.suppress(orjson.JSONDecodeError):
            document = orjson.loads(self.body)
            if isinstance(document, dict):
                return document
        raise ConnectionFailed(f"status {self.status} came with a body that is no JSON object")


class Connection(asyncio.Protocol):
    """Takes one request after another; belongs to one event loop. `max_body` in bytes, of an answer."""

    def __init__(self, host: str, max_body: int) -> None:
        self._host = host.encode()
        self._max_body = max_body
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[Answer] | None = None
        self._parser: httptools.HttpResponseParser
        self._answer = Answer()
        self._parts: list[bytes] = []
        self._size = 0

    @classmethod
    async def open(cls, host: str, port: int, *, max_body: int, seconds: float) -> Connection:
        """Raises ConnectionFailed."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(seconds):
                _, made = await loop.create_connection(lambda: cls(f"{host}:{port}", max_body), host, port)
        except (OSError, TimeoutError) as error:
            raise ConnectionFailed(f"cannot connect to {host}:{port}: {_reason(error)}") from None
        return made

    @property
    def is_open(self) -> bool:
        return self._transport is not None

    async def request(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: tuple[tuple[bytes, bytes], ...] = (),
        *,
        seconds: float,
    ) -> Answer:
        """Raises ConnectionFailed; the connection is closed then."""
        if self._transport is None:
            raise ConnectionFailed(CLOSED)
        self._begin()
        waiter = self._waiter = asyncio.get_running_loop().create_future()
        self._transport.write(self._head(method, path, len(body), headers) + body)
        try:
            async with asyncio.timeout(seconds):
                answer: Answer = await waiter
                return answer
        except TimeoutError:
            raise ConnectionFailed(f"no answer within {seconds:g} s") from None
        finally:
            self._waiter = None
            if not waiter.done() or waiter.cancelled() or waiter.exception() is not None:
                self.close()

    def _begin(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._answer, self._parts, self._size = Answer(), [], 0

    def _head(self, method: str, path: str, size: int, headers: tuple[tuple[bytes, bytes], ...]) -> bytes:
        lines = [f"{method} {path} HTTP/1.1".encode(), b"host: " + self._host]
        lines += [name + b": " + value for name, value in headers]
        if method == "POST":
            lines.append(b"content-length: %d" % size)
        return b"\r\n".join((*lines, b"", b""))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._waiter is None or self._waiter.done():  # nobody asked: whatever it is, it is no answer
            self.close()
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(f"the answer is not HTTP/1.1, or too large: {error.__context__ or error}")

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._fail(f"the connection was lost: {_reason(exc)}" if exc else CLOSED)

    def _fail(self, reason: str) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(ConnectionFailed(reason))
        self.close()

    # httptools

    def on_message_begin(self) -> None:
        if self._waiter is None or self._waiter.done():
            raise ValueError("a second answer follows the one that was asked for")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._size += len(name) + len(value)
        if len(self._answer.headers) >= MAX_HEADERS or self._size > MAX_HEAD_BYTES:
            raise ValueError("too many headers")
        self._answer.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self._size = 0

    def on_body(self, body: bytes) -> None:
        self._size += len(body)
        if self._size > self._max_body:
            raise ValueError(f"more than {self._max_body} bytes")
        self._parts.append(body)

    def on_message_complete(self) -> None:
        self._answer.status = self._parser.get_status_code()
        self._answer.body = b"".join(self._parts)
        keep = self._parser.should_keep_alive()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(self._answer)
        if not keep:
            self.close()


def _reason(error: Exception | None) -> str:
    return str(error) or type(error).__name__
