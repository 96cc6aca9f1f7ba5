"""Requests as they came over HTTP, replies as they go back: values, no I/O."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

import orjson

JSON: Final = b"application/json"
BINARY: Final = b"application/octet-stream"
NDJSON: Final = b"application/x-ndjson"
TEXT: Final = b"text/plain; charset=utf-8"
CLOSE: Final = b"connection: close\r\n"
KEEP_ALIVE: Final = b"connection: keep-alive\r\n"
Headers = tuple[tuple[bytes, bytes], ...]


@dataclass(slots=True, eq=False)
class Request:
    """One request. Header names are lower-case; of a repeated one the first is kept. `path` is raw, without
    the query; `parts` are what a route's `{name}` segments matched, unquoted; `peer` is the remote host."""

    method: str
    path: bytes
    query: bytes
    headers: Mapping[bytes, bytes]
    peer: str
    body: bytes = b""
    parts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reply:
    """`stream` gives the body piece by piece instead of `body`; it is closed whatever happens."""

    status: int
    body: bytes = b""
    content_type: bytes = JSON
    headers: Headers = ()
    stream: AsyncIterator[bytes] | None = None


def json_reply(document: Any, status: int = 200, headers: Headers = ()) -> Reply:
    return Reply(status, orjson.dumps(document), headers=headers)


STATUS_LINES: Final = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}


def render_head(reply: Reply, *, keep_alive: bool, http_1_0: bool = False) -> bytes:
    """Status line and headers. A streamed body goes in chunks, to HTTP/1.0 until the connection ends."""
    lines = [STATUS_LINES[reply.status], b"content-type: ", reply.content_type, b"\r\n"]
    if reply.stream is None:
        lines.append(b"content-length: %d\r\n" % len(reply.body))
    elif not http_1_0:
        lines.append(b"transfer-encoding: chunked\r\n")
    lines += [b"%b: %b\r\n" % header for header in reply.headers]
    if not keep_alive:
        lines.append(CLOSE)
    elif http_1_0:
        lines.append(KEEP_ALIVE)
    lines.append(b"\r\n")
    return b"".join(lines)


Respond = Callable[[Reply], None]
