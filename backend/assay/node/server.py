"""The node's HTTP interface as a bare ASGI application: Open Inference Protocol v2 and SPEC.md §7."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, Final

import orjson
import structlog

from assay.commitments.parsing import get_field, parse_address, parse_hash
from assay.errors import RequestError
from assay.node import views
from assay.node.catalog import Route, parse_model_path
from assay.node.entries import ChannelKey
from assay.node.errors import InputError, NotFound, TooLarge, Unavailable
from assay.node.oip import HEADER_LENGTH
from assay.node.refusals import answer_error
from assay.node.service import Service
from assay.node.terms import parse_voucher

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

JSON: Final = b"application/json"
BINARY: Final = b"application/octet-stream"
NDJSON: Final = b"application/x-ndjson"
METRICS: Final = b"text/plain; version=0.0.4; charset=utf-8"
_LENGTH_HEADER: Final = HEADER_LENGTH.encode()
_DIGITS: Final = re.compile(rb"[0-9]{1,12}")

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a server takes at most; sizes in bytes."""

    max_body: int = 16 << 20
    max_json: int = 4 << 20
    max_concurrent: int = 256
    max_bytes_in_progress: int = 256 << 20
    body_seconds: float = 20.0
    body_rate: int = 65_536
    """A body arrives within `body_seconds` and one second more for so many bytes of it."""


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    body: bytes
    content_type: bytes = JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Server:
    """`await server(scope, receive, send)` (ASGI 3, HTTP and lifespan-less). `ready` says whether requests
    are served."""

    def __init__(self, service: Service, info: views.NodeInfo, limits: Limits) -> None:
        self._service = service
        self._info = info
        self._limits = limits
        self._metrics = service.metrics
        self._running = 0
        self._bytes = 0
        self._routes: dict[bytes, Route] = {}
        self.stopping = False
        self._fixed: dict[bytes, Callable[[], Reply]] = {
            b"/v2": lambda: _json_reply(info.server()),
            b"/v2/health/live": lambda: _json_reply({"live": True}),
            b"/v2/health/ready": self._ready,
            b"/v1/node": lambda: _json_reply(info.node(service)),
            b"/metrics": lambda: Reply(200, info.metrics(service), METRICS),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise ValueError(f"this application serves HTTP, not {scope['type']}")
        path: bytes = scope["raw_path"]
        route = self._route(path)
        if route is not None and route.action == "infer":
            await self._infer(route, scope, receive, send)
            return
        try:
            if path.startswith(b"/v1/batches/"):
                await self._send_batch(path, scope, send)
                return
            reply = await self._answer(path, route, scope, receive)
        except Exception as error:
            reply = _error_reply(error, scope)
        await _send_reply(reply, send)

    def _route(self, path: bytes) -> Route | None:
        if not path.startswith(b"/v2/models/"):
            return None
        route = self._routes.get(path)
        if route is None:
            route = parse_model_path(path[11:])
            if route is not None and len(self._routes) < 4096:
                self._routes[path] = route
        return route

    # Inference

    async def _infer(self, route: Route, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        self._running += 1
        self._metrics.concurrent.inc()
        size = 0
        code = ""
        try:
            size = self._reserve(scope)
            reply = await self._run(route, scope, receive)
        except Exception as error:
            reply = _error_reply(error, scope)
            code = error.code if isinstance(error, RequestError) else "internal"
        finally:
            self._running -= 1
            self._bytes -= size
            self._metrics.concurrent.dec()
        await _send_reply(reply, send)
        self._metrics.record(reply.status, code, time.perf_counter() - started)

    def _reserve(self, scope: Scope) -> int:
        """Bytes that this request may hold. Raises Unavailable `busy`, TooLarge."""
        _check_method(scope, "POST")
        size = _content_length(scope)
        size = self._limits.max_body if size is None else size
        if size > self._limits.max_body:
            raise TooLarge(
                f"body has {size} bytes, this node takes {self._limits.max_body}; send fewer rows a request"
            )
        if self.stopping:
            raise Unavailable("this node is stopping; use another node")
        if (
            self._running > self._limits.max_concurrent
            or self._bytes + size > self._limits.max_bytes_in_progress
        ):
            raise Unavailable("this node is at its limit of requests in progress; try again", code="busy")
        self._bytes += size
        return size

    async def _run(self, route: Route, scope: Scope, receive: Receive) -> Reply:
        body = await self._body(receive, self._limits.max_body)
        json_length = _json_length(scope)
        if (json_length or len(body)) > self._limits.max_json:
            raise TooLarge(
                f"the JSON part has more than {self._limits.max_json} bytes; send tensors with the binary "
                f"extension"
            )
        served = self._service.catalog.find(route)
        response = await self._service.infer(served, route.name, body, json_length)
        if response.json_length is None:
            return Reply(200, response.body)
        return Reply(200, response.body, BINARY, ((_LENGTH_HEADER, b"%d" % response.json_length),))

    async def _body(self, receive: Receive, limit: int) -> bytes:
        started = time.monotonic()
        message = await self._receive(receive, self._limits.body_seconds)
        body: bytes = message.get("body", b"")
        if not message.get("more_body"):
            return _bounded(body, limit)
        parts = [body]
        total = len(body)
        while message.get("more_body"):
            allowed = self._limits.body_seconds + total / self._limits.body_rate
            message = await self._receive(receive, started + allowed - time.monotonic())
            part = message.get("body", b"")
            total += len(part)
            if total > limit:
                raise TooLarge(f"body has more than {limit} bytes; send fewer rows a request")
            parts.append(part)
        return b"".join(parts)

    async def _receive(self, receive: Receive, seconds: float) -> Message:
        try:
            async with asyncio.timeout(seconds):
                message = await receive()
        except TimeoutError:
            raise RequestError(
                f"the body arrived too slowly: {self._limits.body_seconds:g} s and one more for each "
                f"{self._limits.body_rate} bytes are allowed",
                status=408,
                code="input_body",
            ) from None
        if message["type"] == "http.disconnect":
            raise InputError("the client went away before its body was there", code="input_body")
        return message

    # Everything else

    async def _answer(self, path: bytes, route: Route | None, scope: Scope, receive: Receive) -> Reply:
        if path == b"/v1/vouchers":
            _check_method(scope, "POST")
            return await self._acknowledge(receive)
        _check_method(scope, "GET")
        if route is not None:
            return self._model(route)
        if path in self._fixed:
            return self._fixed[path]()
        if path.startswith(b"/v1/channels/"):
            version_id, consumer = _segments(path, 2)
            key = ChannelKey(parse_hash(version_id, "version_id"), parse_address(consumer, "consumer"))
            return _json_reply(self._service.channel(key))
        if path.startswith(b"/v1/receipts/"):
            return await self._receipt(path)
        raise NotFound(
            f"there is nothing at {path[:200].decode('ascii', 'replace')}; see GET /v1/node and GET /v2"
        )

    async def _receipt(self, path: bytes) -> Reply:
        if path.endswith(b"/data"):
            text, _ = _segments(path, 2)
            digest = parse_hash(text, "digest")
            body = await asyncio.to_thread(views.receipt_data, self._service.log.database, digest)
            return Reply(200, body)
        (text,) = _segments(path, 1)
        return _json_reply(views.receipt(self._service, parse_hash(text, "digest")))

    def _ready(self) -> Reply:
        if self.stopping:
            raise Unavailable("this node is stopping")
        view = self._service.follower.view
        if not view.active:
            raise Unavailable("this node is below the minimum stake")
        if loading := [served.full_name for served in self._service.catalog if served.is_loading]:
            raise Unavailable(f"still loading {', '.join(loading)}", retry_after=1)
        return _json_reply({"ready": True})

    def _model(self, route: Route) -> Reply:
        served = self._service.catalog.find(route)
        if route.action == "ready":
            self._service.admit_version(served)
            return _json_reply({"name": route.name, "ready": True})
        if served.model is None:
            raise Unavailable(f"{served.full_name} version {served.number} is not loaded: {served.problem}")
        numbers = sorted(self._service.catalog.versions(route.name))
        return _json_reply(served.metadata(route.name, [str(number) for number in numbers]))

    async def _acknowledge(self, receive: Receive) -> Reply:
        try:
            data = orjson.loads(await self._body(receive, 8192))
        except orjson.JSONDecodeError as error:
            raise InputError(f"the body's JSON does not parse: {error}", code="input_json") from None
        version_id = parse_hash(
            get_field(data, "version_id", code="input_voucher"), "version_id", code="input_voucher"
        )
        served = self._service.catalog.get(version_id)
        data = {**data, "count": str(data["count"]) if type(data.get("count")) is int else data.get("count")}
        terms = parse_voucher(
            data, ("consumer", "amount", "count", "signature"), self._service.node, served.version_id
        )
        return _json_reply({"accepted": await self._service.acknowledge(terms)})

    async def _send_batch(self, path: bytes, scope: Scope, send: Send) -> None:
        """The batch's receipts as they are read from the log, a page at a time."""
        _check_method(scope, "GET")
        (text,) = _segments(path, 1)
        lines = views.batch_lines(self._service.log.database, self._service.domain, parse_hash(text, "batch_id"))
        first = await asyncio.to_thread(next, lines, None)
        if first is None:
            raise NotFound(f"this node has no batch {text[:80]}")
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", NDJSON)]})
        while first is not None:
            await send({"type": "http.response.body", "body": first, "more_body": True})
            first = await asyncio.to_thread(next, lines, None)
        await send({"type": "http.response.body", "body": b""})


def _bounded(body: bytes, limit: int) -> bytes:
    if len(body) > limit:
        raise TooLarge(f"body has {len(body)} bytes, this node takes {limit}; send fewer rows a request")
    return body


def _header(scope: Scope, name: bytes) -> bytes | None:
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value)
    return None


def _content_length(scope: Scope) -> int | None:
    encoding = _header(scope, b"content-encoding")
    if encoding not in (None, b"", b"identity"):
        raise InputError("compressed bodies are not taken; send the body as it is", code="input_encoding")
    value = _header(scope, b"content-length")
    return int(value) if value is not None and _DIGITS.fullmatch(value) else None


def _json_length(scope: Scope) -> int | None:
    value = _header(scope, _LENGTH_HEADER)
    if value is None:
        return None
    if not _DIGITS.fullmatch(value):
        raise InputError(
            "Inference-Header-Content-Length must be a decimal number of bytes", code="input_header"
        )
    return int(value)


def _check_method(scope: Scope, method: str) -> None:
    if scope["method"] != method and not (method == "GET" and scope["method"] == "HEAD"):
        raise RequestError(f"use {method} here, not {scope['method']}", status=405, code="method")


def _segments(path: bytes, count: int) -> list[str]:
    """The segments after `/v1/<word>/`. Raises NotFound unless there are `count`."""
    parts = path.decode("ascii", "replace").split("/")[3:]
    if len(parts) != count:
        raise NotFound(f"there is nothing at {path[:200].decode('ascii', 'replace')}")
    return parts


def _json_reply(document: Any) -> Reply:
    return Reply(200, orjson.dumps(document))


def _error_reply(error: Exception, scope: Scope) -> Reply:
    """`{"error", "code", "cure"}` for any exception."""
    answered = answer_error(error, str(scope.get("path")))
    seconds = answered.retry_after
    headers = () if seconds is None else ((b"retry-after", b"%d" % seconds),)
    return Reply(answered.status, orjson.dumps(answered.to_json()), headers=headers)


async def _send_reply(reply: Reply, send: Send) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": reply.status,
            "headers": [
                (b"content-type", reply.content_type),
                (b"content-length", b"%d" % len(reply.body)),
                *reply.headers,
            ],
        }
    )
    await send({"type": "http.response.body", "body": reply.body})
