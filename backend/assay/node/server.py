"""The node as an application of `http`: which request is taken, what answers it, what it may hold."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace
from typing import Final

import orjson

from assay.errors import RequestError
from assay.node import views
from assay.node.endpoints import Endpoints
from assay.node.errors import PaymentError, TooLarge, Unavailable, WrongMethod
from assay.node.hot_path import HotPath
from assay.node.http.admission import Admission
from assay.node.http.exchange import Exchange, KnownHead, Limits, Peer, body_too_large
from assay.node.http.messages import BINARY, Headers, Reply, Request
from assay.node.http.routes import Handler, Routes
from assay.node.http.server import Connections
from assay.node.inference_head import InferenceHead
from assay.node.models.catalog import Route as ModelRoute
from assay.node.models.catalog import parse_model_path
from assay.node.oip.protocol import HEADER_LENGTH
from assay.node.payments.pricing import payment_document
from assay.node.refusals import Answered, answer_error
from assay.node.service import Service
from assay.node.x402.door import Door

REMEMBERED_PATHS: Final = 4096
REMEMBERED_LENGTH: Final = 512
"""Bytes of a path: no model's is longer, and anybody may send paths."""
FIRST_BYTES: Final = 65_536
"""Counted of a body in chunks before any of it came."""
METHOD_NOT_ALLOWED: Final = 405
_LENGTH_HEADER: Final = HEADER_LENGTH.encode()


class Server:
    """Belongs to one event loop. Other rooms add what they answer to `routes` before it serves."""

    def __init__(self, service: Service, info: views.NodeInfo, limits: Limits) -> None:
        self.limits = limits
        self.heads: dict[bytes, KnownHead] = {}
        self.connections = Connections(limits.max_connections)
        self.routes = Routes()
        self.stopping = False
        self._service = service
        self._hot_path = HotPath(service, service.max_elements, self._ended, self._refuse)
        self._metrics = service.metrics
        self._admission = Admission(limits.max_bytes_in_progress)
        self._paths: dict[bytes, ModelRoute] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.endpoints = Endpoints(service, info, lambda: self.stopping)
        self.endpoints.register(self.routes)
        self._door: Door | None = None

    def sell_by_x402(self, door: Door) -> None:
        """From now on."""
        self._door = door
        self.routes.add("GET", "/v1/receipts/{digest}/payment", door.receipt_payment)

    # Called by connections

    def opened(self, peer: Peer) -> bool:
        return self.connections.add(peer)

    def closed(self, peer: Peer) -> None:
        self.connections.remove(peer)

    def begin(self, exchange: Exchange, length: int | None) -> int:
        if type(exchange.target) is not InferenceHead:
            request = exchange.request
            model = self._model_path(request.path)
            if model is None:
                route, request.parts = self.routes.find(request.method, request.path)
                exchange.target = route.handler
                return route.max_body
            exchange.target = InferenceHead(model)
        try:
            self._reserve(exchange, length)
        except RequestError as error:
            self._failed(exchange, exchange.target.route, error.status, error.code, str(error))
            raise
        return self.limits.max_body if length is not None else exchange.reserved

    def grow(self, exchange: Exchange) -> int:
        """Of a body in chunks, room for twice as much as came: none tells how long it will be."""
        limit, size = self.limits.max_body, exchange.size
        if type(exchange.target) is not InferenceHead or size > limit:
            raise body_too_large(min(limit, exchange.max_body))
        wanted = min(2 * size, limit)
        self._admission.expect(exchange.request.peer, wanted, exchange.reserved)
        exchange.reserved = wanted
        return wanted

    def serve(self, exchange: Exchange) -> None:
        target = exchange.target
        if type(target) is InferenceHead:
            self._admission.start(exchange.request.peer, exchange.reserved)
            exchange.is_started = True
            self._metrics.concurrent.value += 1
            if self._serve_now(exchange, target):
                return
            work = self._infer(exchange, target)
        else:
            work = self._run(exchange, target)
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def end(self, exchange: Exchange) -> None:
        if type(exchange.target) is not InferenceHead:
            return
        if exchange.is_started:
            self._admission.finish(exchange.reserved)
            self._metrics.concurrent.value -= 1
            return
        self._admission.forget(exchange.request.peer, exchange.reserved)
        if exchange.refusal is not None:  # amid its body
            said = orjson.loads(exchange.refusal.body)
            status = exchange.refusal.status
            self._failed(exchange, exchange.target.route, status, said["code"], said["error"])

    def refuse(self, error: Exception, request: Request | None) -> Reply:
        return error_reply(answer_error(error, "" if request is None else _path(request)))

    # Everything but inference

    async def _run(self, exchange: Exchange, handler: Handler) -> None:
        try:
            reply = await handler(exchange.request)
        except Exception as error:
            reply = self.refuse(error, exchange.request)
        exchange.reply(reply)

    # Inference

    def _serve_now(self, exchange: Exchange, head: InferenceHead) -> bool:
        """By the hot path, if it is for there."""
        request = exchange.request
        try:
            if not head.is_read:
                head.read(request, sells_by_x402=self._door is not None)
            if (head.json_length or len(request.body)) > self.limits.max_json:
                raise TooLarge(
                    f"the JSON part has more than {self.limits.max_json} bytes; send tensors with the binary "
                    f"extension"
                )
            return not head.by_x402 and self._hot_path.take(exchange, head)
        except Exception as error:
            self._refuse(exchange, error)
            return True

    def _refuse(self, exchange: Exchange, error: Exception) -> None:
        request = exchange.request
        answered = answer_error(error, _path(request))
        reply = error_reply(answered)
        if reply.status == 402:
            route = exchange.target.route
            reply = self._tell_price(reply, error, route)
            if self._door is not None:
                told = self._door.told(error, request, route)
                reply = replace(reply, headers=reply.headers + told)
        exchange.reply(reply)
        self._failed(exchange, exchange.target.route, answered.status, answered.code, str(error))

    def _tell_price(self, reply: Reply, error: Exception, route: ModelRoute) -> Reply:
        """The refusal with what would pay for the request."""
        consumer = error.consumer if isinstance(error, PaymentError) else None
        found = None
        with contextlib.suppress(RequestError):  # what the name stands for has changed meanwhile
            found = payment_document(self._service, self._service.catalog.find(route), consumer)
        if found is None:
            return reply
        return replace(reply, body=orjson.dumps(orjson.loads(reply.body) | {"payment": found}))

    def _failed(self, exchange: Exchange, route: ModelRoute, status: int, code: str, reason: str) -> None:
        """A request was refused or failed, wherever: in the metrics, the log, and with its version."""
        seconds = time.perf_counter() - exchange.started
        self._metrics.record(status, code, seconds)
        self._log(exchange.request, status, code, reason, seconds)
        if status != METHOD_NOT_ALLOWED:  # else it asked for no inference
            self._note(route, seconds, ok=False)

    def _log(self, request: Request, status: int, code: str, reason: str, seconds: float) -> None:
        self._service.request_log.refused(
            None, _path(request), status=status, code=code, reason=reason, seconds=seconds
        )

    def _note(self, route: ModelRoute, seconds: float, *, ok: bool) -> None:
        """In the statistics of the version that was named, if there is one."""
        with contextlib.suppress(RequestError):
            self._service.catalog.find(route).requests.record(seconds, ok=ok)

    def _ended(self, exchange: Exchange, status: int, code: str) -> None:
        self._metrics.record(status, code, time.perf_counter() - exchange.started)

    def _model_path(self, path: bytes) -> ModelRoute | None:
        """What a path that ends in `/infer` names."""
        found = self._paths.get(path)
        if found is None:
            if not path.endswith(b"/infer") or not path.startswith(b"/v2/models/"):
                return None
            found = parse_model_path(path[11:])
            if found is None or found.action != "infer":
                return None
            if len(self._paths) < REMEMBERED_PATHS and len(path) <= REMEMBERED_LENGTH:
                self._paths[path] = found
        return found

    def _reserve(self, exchange: Exchange, length: int | None) -> None:
        """Count what this request may hold. Raises WrongMethod, Unavailable `busy`, TooLarge."""
        if exchange.request.method != "POST":
            raise WrongMethod(exchange.request.method, {"POST"})
        limits = self.limits
        if length is None:
            in_chunks = b"transfer-encoding" in exchange.request.headers
            length = min(FIRST_BYTES, limits.max_body) if in_chunks else 0
        if length > limits.max_body:
            raise body_too_large(limits.max_body, length)
        if self.stopping:
            raise Unavailable("this node is stopping; use another node")
        self._admission.expect(exchange.request.peer, length)
        exchange.reserved = length

    async def _infer(self, exchange: Exchange, head: InferenceHead) -> None:
        """What is not for the hot path."""
        route = head.route
        if self._door is not None and head.by_x402:
            reply = await self._sell(self._door, exchange, head)
            exchange.reply(reply)
            self._note(route, time.perf_counter() - exchange.started, ok=reply.status == 200)
            return
        try:
            reply = await self._inference(exchange.request, head)
        except Exception as error:
            self._refuse(exchange, error)
            return
        exchange.reply(reply)
        self._note(route, time.perf_counter() - exchange.started, ok=True)
        self._ended(exchange, reply.status, "")

    async def _sell(self, door: Door, exchange: Exchange, head: InferenceHead) -> Reply:
        """A request that is paid for by x402: it waits for the chain, and is not counted with the others."""
        request = exchange.request
        try:
            return await door.pay_and_answer(request, head.route, head.json_length)
        except Exception as error:
            answered = answer_error(error, _path(request))
            seconds = time.perf_counter() - exchange.started
            self._log(request, answered.status, answered.code, str(error), seconds)
            reply = error_reply(answered)
            return replace(reply, headers=reply.headers + door.told(error, request, head.route))

    async def _inference(self, request: Request, head: InferenceHead) -> Reply:
        served = self._service.catalog.find(head.route)
        response = await self._service.infer(
            served,
            head.route.name,
            request.body,
            head.json_length,
            voucher=head.voucher,
            peer=request.peer,
        )
        if response.json_length is None:
            return Reply(200, response.body)
        return Reply(200, response.body, BINARY, ((_LENGTH_HEADER, b"%d" % response.json_length),))


def _path(request: Request) -> str:
    return request.path.decode("ascii", "replace")


def error_reply(answered: Answered) -> Reply:
    """`{"error", "code", "cure"}`, and the headers that HTTP wants beside its status."""
    headers: Headers = ()
    if answered.retry_after is not None:
        headers = ((b"retry-after", b"%d" % answered.retry_after),)
    elif answered.allow:
        headers = ((b"allow", answered.allow.encode()),)
    elif answered.status == 401:
        headers = ((b"www-authenticate", b"Bearer"),)
    return Reply(answered.status, orjson.dumps(answered.to_json()), headers=headers)
