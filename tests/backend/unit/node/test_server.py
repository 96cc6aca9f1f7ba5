"""Inference requests that fail: counted and logged as they are answered."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest
from assay.errors import FatalError, RequestError, RetryableError
from assay.node.errors import OperatorOnly, PaymentError, TooLarge, Unavailable
from assay.node.http.exchange import Exchange, Limits
from assay.node.http.messages import Reply, Request
from assay.node.models.catalog import Catalog, Served
from assay.node.observability.metrics import Metrics
from assay.node.observability.request_log import RequestLog, Requests
from assay.node.server import Server
from assay.node.views import NodeInfo
from assay.types import Address, Assurance, Hash32
from structlog.testing import capture_logs

PUBLISHER = Address("0x00000000000000000000000000000000000000A1")
PATH = "/v2/models/m/infer"


@dataclass
class FailingService:
    """Fails with `error` on every request."""

    error: Exception
    catalog: Catalog
    metrics: Metrics = field(default_factory=lambda: Metrics(1.0))
    request_log: RequestLog = field(default_factory=lambda: RequestLog(Requests.ALL))
    max_elements: int = 10

    def admit_version(self, served: Served) -> Any:
        raise self.error


@dataclass
class Caught:
    replies: list[Reply] = field(default_factory=list)

    def send(self, exchange: Exchange, reply: Reply) -> None:
        self.replies.append(reply)

    def send_raw(self, exchange: Exchange, head: bytes, body: bytes) -> None:
        raise AssertionError("nothing is answered here")


class World:
    def __init__(self, error: Exception) -> None:
        self.served = Served(Hash32(bytes(32)), PUBLISHER, "m", 1, Assurance.SIGNED)
        self.service = FailingService(error, Catalog([self.served]))
        service: Any = self.service
        self.server = Server(service, NodeInfo(PUBLISHER, ""), Limits())
        self.way = Caught()

    def exchange(self, method: str = "POST", headers: Mapping[bytes, bytes] | None = None) -> Exchange:
        request = Request(method, PATH.encode(), b"", headers or {}, "127.0.0.1", b"{}")
        return Exchange(request, self.way, time.perf_counter())

    def ask(self) -> Reply:
        exchange = self.exchange()
        self.server.begin(exchange, 2)
        self.server.serve(exchange)
        self.server.end(exchange)
        return self.way.replies.pop()


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (FatalError("the receipts log is closed"), 503, "not_ready"),
        (RetryableError("the log's database is away"), 503, "not_ready"),
        (Unavailable("not now", code="busy"), 503, "busy"),
        (ZeroDivisionError("a flaw"), 500, "internal"),
    ],
)
def test_infer__any_failure__counted_and_logged_as_it_is_answered(
    error: Exception, status: int, code: str
) -> None:
    world = World(error)
    with capture_logs() as lines:
        reply = world.ask()
    assert (reply.status, orjson.loads(reply.body)["code"]) == (status, code)
    text = world.service.metrics.render().decode()
    assert f'assay_node_requests_total{{status="{status}"}} 1.0' in text
    counted = [line for line in text.splitlines() if line.startswith("assay_node_failures_total")]
    assert [line for line in counted if not line.endswith(" 0.0")] == [
        f'assay_node_failures_total{{code="{code}"}} 1.0'
    ]
    (line,) = [line for line in lines if line["event"] in ("refused", "failed")]
    assert (line["status"], line["code"], line["reason"]) == (status, code, str(error))
    assert line["path"] == PATH and line["seconds"] >= 0
    assert world.served.requests.failed == 1


def test_infer__name_stands_for_several_models_meanwhile__is_answered_all_the_same() -> None:
    world = World(PaymentError("pay for it", code="voucher_missing"))
    refuse = world.service.admit_version

    def add_and_refuse(served: Served) -> Any:
        other = Address("0x00000000000000000000000000000000000000A2")
        world.service.catalog.add(Served(Hash32(b"\1" * 32), other, "m", 1, Assurance.SIGNED))
        return refuse(served)

    world.service.admit_version = add_and_refuse  # type: ignore[method-assign]
    assert world.ask().status == 402


def test_begin__long_paths__are_not_remembered() -> None:
    """Anybody may send them, none names a model, and thousands are remembered."""
    world = World(ZeroDivisionError("it does not come to that"))
    for path in (b"/v2/models/m/infer", b"/v2/models/" + b"m" * 30_000 + b"/infer"):
        exchange = world.exchange()
        exchange.request.path = path
        world.server.begin(exchange, 2)
        world.server.end(exchange)
    assert list(world.server._paths) == [b"/v2/models/m/infer"]


def test_begin__refused_before_its_body__has_a_line_as_well() -> None:
    world = World(ZeroDivisionError("it does not come to that"))
    with capture_logs() as lines, pytest.raises(RequestError):
        world.server.begin(world.exchange("GET"), 0)
    world.server.stopping = True
    with capture_logs() as more, pytest.raises(Unavailable):
        world.server.begin(world.exchange(), 2)
    assert [(line["event"], line["status"], line["code"]) for line in lines + more] == [
        ("refused", 405, "method"),
        ("refused", 503, "not_ready"),
    ]
    assert all(line["path"] == PATH and line["request"] for line in lines + more)


CHUNKED = {b"transfer-encoding": b"chunked"}


def test_begin__bodies_in_chunks__hold_what_came_of_them() -> None:
    """Nobody knows how long they will be: small ones of one host must not keep each other out."""
    world = World(ZeroDivisionError("it does not come to that"))
    exchanges = [world.exchange(headers=CHUNKED) for _ in range(1000)]
    for exchange in exchanges:
        exchange.max_body = world.server.begin(exchange, None)
    one = exchanges[0]
    while one.max_body < Limits().max_body:
        one.size = one.max_body + 1
        one.max_body = world.server.grow(one)
        assert one.max_body >= one.size
    one.size = one.max_body + 1
    with pytest.raises(TooLarge):
        world.server.grow(one)
    for exchange in exchanges:
        world.server.end(exchange)
    assert world.server._admission.bytes == 0


def test_grow__one_host_sends_many_long_bodies__leaves_room_for_another() -> None:
    world = World(ZeroDivisionError("it does not come to that"))
    taken = 0
    for _ in range(40):
        exchange = world.exchange(headers=CHUNKED)
        try:
            world.server.begin(exchange, None)
            exchange.size = Limits().max_body
            world.server.grow(exchange)
            taken += 1
        except Unavailable as error:
            assert error.code == "busy"
    assert taken == Limits().max_bytes_in_progress // Limits().max_body // 2
    other = world.exchange(headers=CHUNKED)
    other.request.peer = "other"
    world.server.begin(other, None)
    other.size = Limits().max_body
    assert world.server.grow(other) == Limits().max_body


def test_refuse__headers_that_http_wants__are_there() -> None:
    """RFC 9110 §15.5.2 and §15.5.6."""
    world = World(ZeroDivisionError("it does not come to that"))
    with pytest.raises(RequestError) as caught:
        world.server.begin(world.exchange("GET"), None)
    assert world.server.refuse(caught.value, None).headers == ((b"allow", b"POST"),)
    with pytest.raises(RequestError) as caught:
        world.server.routes.find("PUT", b"/v2/health/live")
    assert world.server.refuse(caught.value, None).headers == ((b"allow", b"GET, HEAD"),)
    for given, headers in ((False, ((b"www-authenticate", b"Bearer"),)), (True, ())):
        assert world.server.refuse(OperatorOnly("this", given=given), None).headers == headers
