"""What connections and the application that serves them know of each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, Protocol

from assay.errors import RequestError
from assay.node.errors import InputError, TooLarge, Unavailable
from assay.node.http.messages import Reply, Request

MAX_HEAD: Final = 32_768
"""Bytes of request line and headers together; also of the trailers after a chunked body."""
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
DRAINED: Final = 1 << 20
"""A refused body of at most so many bytes is read to its end, and the connection lives on."""
WHOLE_PARTS: Final = 1024
"""Parts of a body that are kept as they came."""
LINGER_SECONDS: Final = 2.0
"""How long a larger one is read and dropped after the refusal, so that whoever is still sending sees it."""

SPARE_SECONDS: Final = 2.0
"""Without a request, a connection is one that its client does not need now."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a server takes at most; sizes in bytes."""

    max_body: int = 16 << 20
    max_json: int = 4 << 20
    max_concurrent: int = 256
    """Requests that have a place (`Places`, which refuses by consumer): others are read and looked at, one on
    each connection, until it is known whose they are."""
    max_bytes_in_progress: int = 256 << 20
    max_connections: int = 1024
    head_seconds: float = 20.0
    """From connecting, or from a request's first byte, to the end of its head."""
    body_seconds: float = 20.0
    body_rate: int = 65_536
    """A body arrives within `body_seconds` and one second more for so many bytes of it; an answer is taken
    likewise, within `write_seconds`."""
    write_seconds: float = 20.0
    idle_seconds: float = 75.0


class Way(Protocol):
    """The way back for replies."""

    def send(self, exchange: Exchange, reply: Reply) -> None: ...

    def send_raw(self, exchange: Exchange, head: bytes, body: bytes) -> None:
        """As `send`, for a head that is written already, but for how the connection goes on and its end."""


class Exchange:
    """A request and the way back. `reply` is called once, in the event loop; when the client is gone it does
    nothing."""

    __slots__ = (
        "close",
        "connection",
        "is_admitted",
        "is_http_1_0",
        "is_started",
        "max_body",
        "parts",
        "refusal",
        "request",
        "reserved",
        "size",
        "started",
        "target",
    )

    def __init__(self, request: Request, connection: Way, started: float, target: Any = None) -> None:
        self.request = request
        self.connection = connection
        self.started = started
        """`perf_counter` when the head was there."""
        self.parts: list[Any] = []
        """Of the body: bytes, and behind WHOLE_PARTS of them one bytearray."""
        self.size = 0
        self.max_body = 0
        self.refusal: Reply | None = None
        self.close = False
        self.is_admitted = False
        self.is_http_1_0 = False
        self.target = target
        """What the application keeps of it between `begin` and `end`; of a known head what it kept before."""
        self.reserved = 0
        self.is_started = False
        """The application counts it among those that are being answered: until its reply, also when the
        client is gone."""

    def take(self, part: bytes) -> None:
        """One more part of the body. Of crumbs all after the first are kept in one piece: each takes 60 bytes
        beside its own."""
        parts = self.parts
        if len(parts) < WHOLE_PARTS:
            parts.append(part)
        elif len(parts) == WHOLE_PARTS:
            parts.append(bytearray(part))
        else:
            parts[-1] += part

    def put_together(self) -> None:
        """It is whole."""
        parts, self.parts = self.parts, []
        self.request.body = parts[0] if len(parts) == 1 else b"".join(parts)

    @property
    def waits_for_continue(self) -> bool:
        """Before it sends its body; who speaks HTTP/1.0 does not know that (RFC 9110 §10.1.1)."""
        expected = self.request.headers.get(b"expect", b"").lower()
        return expected == b"100-continue" and not self.size and not self.is_http_1_0

    def reply(self, reply: Reply) -> None:
        self.connection.send(self, reply)


@dataclass(frozen=True, slots=True)
class KnownHead:
    """The head of a POST over HTTP/1.1 that keeps its connection and tells the `length` of its body."""

    path: bytes
    query: bytes
    headers: Mapping[bytes, bytes]
    length: int
    target: Any
    """What the application kept of the first request that had it."""


class Loss(IntEnum):
    """What the end of a connection that waits for its client costs that."""

    NOTHING = 0
    """It had no request for SPARE_SECONDS."""
    A_REQUEST = 1
    """One that may be on its way."""
    AN_EXCHANGE = 2
    """It is sending one, taking an answer, or has not begun."""


class Peer(Protocol):
    """A connection, as the application sees it. `deadline` (loop time): when its wait for its client ends,
    infinite while it waits for none; `peer`: the remote host."""

    deadline: float
    peer: str

    @property
    def loss(self) -> Loss | None:
        """Its client's, if it ended now; None: its request is in work, or it ends already."""

    def expire(self) -> None:
        """The deadline passed."""

    def give_way(self) -> None:
        """To a connection that has more right to the place."""

    def finish(self) -> None:
        """Take no more; close when what is whole is answered."""

    def abort(self) -> None: ...


class Application(Protocol):
    """Serves the requests of all connections, in the event loop."""

    limits: Limits
    heads: dict[bytes, KnownHead]
    """Heads that connections have read, by their bytes: clients send the same one again and again."""

    def begin(self, exchange: Exchange, length: int | None) -> int:
        """The head is there, and `length` if it tells one: bytes of body that are taken before `grow` is
        asked. Raises RequestError to refuse it unread."""

    def grow(self, exchange: Exchange) -> int:
        """More of its body came than `begin` took: bytes that are taken now. Raises RequestError to refuse
        it."""

    def serve(self, exchange: Exchange) -> None:
        """The request is whole: `exchange.reply` is due."""

    def end(self, exchange: Exchange) -> None:
        """Called once for every exchange that `begin` took, however it ended; it has a `refusal` if that came
        amid its body."""

    def refuse(self, error: Exception, request: Request | None) -> Reply:
        """The reply that an error becomes."""

    def opened(self, peer: Peer) -> bool:
        """False: one connection too many."""

    def closed(self, peer: Peer) -> None: ...


def origin_form(target: bytes) -> bytes:
    """A request's target without scheme and host, which clients may send as to a proxy (RFC 9112 §3.2.2)."""
    if target.startswith(b"/") or not target.lower().startswith((b"http://", b"https://")):
        return target
    _, slash, rest = target.partition(b"//")[2].partition(b"/")
    return slash + rest or b"/"


def check_head(exchange: Exchange) -> None:
    """What the parser lets through. Raises InputError `input_http`, `input_encoding`."""
    headers = exchange.request.headers
    host = headers.get(b"host")
    if host is None and not exchange.is_http_1_0:
        raise InputError("the request has no Host; send one", code="input_http")
    if host is not None and (b"," in host or b" " in host):  # RFC 9112 §3.2
        raise InputError(f"Host is {host[:80].decode('latin-1')!r}; send one host", code="input_http")
    if (coding := headers.get(b"transfer-encoding", b"chunked")).lower() != b"chunked":
        raise InputError(
            f"Transfer-Encoding is {coding[:40].decode('latin-1')!r}; send the body in plain chunks, or with "
            "Content-Length",
            code="input_encoding",
        )


def content_length(request: Request) -> int | None:
    """None: in chunks, or no body. Raises InputError `input_encoding`, `input_http`."""
    if request.headers.get(b"content-encoding", b"identity") not in (b"", b"identity"):
        raise InputError("compressed bodies are not taken; send the body as it is", code="input_encoding")
    value = request.headers.get(b"content-length")
    if value is None:
        return None
    digits = value.strip(b" \t").lstrip(b"0") or b"0"
    if not digits.isdigit() or len(digits) > 15:
        raise InputError("Content-Length must be a decimal number of bytes", code="input_http")
    return int(digits)


def body_too_large(limit: int, size: int | None = None) -> TooLarge:
    has = f"has {size} bytes" if size is not None else "is larger"
    return TooLarge(f"the body {has}, at most {limit} are taken here; send fewer rows a request")


def body_too_slow(limits: Limits) -> RequestError:
    return RequestError(
        f"the body arrived too slowly: {limits.body_seconds:g} s and one more for each {limits.body_rate} "
        "bytes are allowed",
        status=408,
        code="input_body",
    )


def head_too_large() -> RequestError:
    return RequestError(
        f"request line and headers have more than {MAX_HEAD} bytes", status=431, code="headers_too_large"
    )


def not_http(error: Exception) -> RequestError:
    return RequestError(f"this is no HTTP/1.1 request: {str(error)[:200]}", status=400, code="input_http")


def too_many_connections(limit: int) -> Unavailable:
    return Unavailable(f"this node has {limit} connections open already; try again", code="busy")
