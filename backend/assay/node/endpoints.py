"""The node's HTTP interface beside inference: health, metadata, receipts, channels, batches (SPEC.md §7)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, TypeVar

import orjson

from assay.commitments.parsing import get_field, parse_address, parse_hash
from assay.node import views
from assay.node.errors import InputError, NotFound, Unavailable
from assay.node.http.messages import NDJSON, Headers, Reply, Request, json_reply
from assay.node.http.routes import Routes
from assay.node.models.catalog import Route, Served
from assay.node.payments.pricing import offer_document
from assay.node.payments.terms import parse_voucher
from assay.node.receipts.entries import ChannelKey
from assay.node.service import Service

METRICS = b"text/plain; version=0.0.4; charset=utf-8"

A = TypeVar("A")


class Endpoints:
    """Handlers; `is_stopping` says whether the node has begun to stop."""

    def __init__(self, service: Service, info: views.NodeInfo, is_stopping: Callable[[], bool]) -> None:
        self._service = service
        self._info = info
        self._is_stopping = is_stopping

    def register(self, routes: Routes) -> None:
        routes.add("GET", "/v2", self.server)
        routes.add("GET", "/v2/health/live", self.live)
        routes.add("GET", "/v2/health/ready", self.ready)
        for base in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            routes.add("GET", base, self.model)
            routes.add("GET", base + "/ready", self.model_ready)
        routes.add("GET", "/v1/node", self.node)
        routes.add("GET", "/v1/channels/{version_id}/{consumer}", self.channel)
        routes.add("GET", "/v1/receipts/{digest}", self.receipt)
        routes.add("GET", "/v1/receipts/{digest}/data", self.receipt_data)
        routes.add("GET", "/v1/batches/{batch_id}", self.batch)
        routes.add("POST", "/v1/vouchers", self.acknowledge, max_body=8192)
        routes.add("GET", "/metrics", self.metrics)

    async def server(self, request: Request) -> Reply:
        return json_reply(self._info.server())

    async def live(self, request: Request) -> Reply:
        return json_reply({"live": True})

    async def ready(self, request: Request) -> Reply:
        self.check_ready()
        return json_reply({"ready": True})

    def check_ready(self) -> None:
        """Raises Unavailable with what the node waits for."""
        if self._is_stopping():
            raise Unavailable("this node is stopping")
        view = self._service.follower.view
        if not view.active:
            raise Unavailable("this node is below the minimum stake")
        if loading := [served.full_name for served in self._service.catalog if served.is_loading]:
            raise Unavailable(f"still loading {', '.join(loading)}", retry_after=1)

    async def model(self, request: Request) -> Reply:
        served = self.find(request)
        if not served.inputs and not served.outputs:
            raise served.refusal(asked=False)
        name = request.parts["model"]
        numbers = sorted(self._service.catalog.versions(name))
        document = served.metadata(name, [str(number) for number in numbers])
        return json_reply(document, headers=self._offer(served))

    async def model_ready(self, request: Request) -> Reply:
        served = self.find(request)
        self._service.admit_version(served, asked=False)
        return json_reply({"name": request.parts["model"], "ready": True}, headers=self._offer(served))

    def _offer(self, served: Served) -> Headers:
        """`Assay-Offer`: the price before paying, as over gRPC."""
        offer = offer_document(self._service, served)
        return () if offer is None else ((b"assay-offer", orjson.dumps(offer)),)

    def find(self, request: Request) -> Served:
        """The version that `{model}` and `{version}` of a path name. Raises NotFound `model_unknown`."""
        return self._service.catalog.find(model_route(request))

    async def node(self, request: Request) -> Reply:
        return json_reply(self._info.node(self._service))

    async def metrics(self, request: Request) -> Reply:
        body = await asyncio.to_thread(self._info.metrics, self._service)
        return Reply(200, body, METRICS)

    async def channel(self, request: Request) -> Reply:
        version_id = parse_hash(request.parts["version_id"], "version_id")
        key = ChannelKey(version_id, parse_address(request.parts["consumer"], "consumer"))
        return json_reply(await self._read(self._service.channel, key))

    async def receipt(self, request: Request) -> Reply:
        digest = parse_hash(request.parts["digest"], "digest")
        return json_reply(await self._read(lambda wanted: views.receipt(self._service, wanted), digest))

    async def _read(self, question: Callable[[A], dict[str, Any]], about: A) -> dict[str, Any]:
        """What the log answers: a SQLite one at once."""
        if self._service.log.is_shared:
            return await asyncio.to_thread(question, about)
        return question(about)

    async def receipt_data(self, request: Request) -> Reply:
        digest = parse_hash(request.parts["digest"], "digest")
        return Reply(200, await asyncio.to_thread(views.receipt_data, self._service.log, digest))

    async def batch(self, request: Request) -> Reply:
        """The batch's receipts as they are read from the log, a page at a time."""
        batch_id = parse_hash(request.parts["batch_id"], "batch_id")
        lines = views.batch_lines(self._service.log.database, self._service.domain, batch_id)
        first = await asyncio.to_thread(next, lines, None)
        if first is None:
            raise NotFound(f"this node has no batch 0x{batch_id.hex()}")
        return Reply(200, content_type=NDJSON, stream=_pages(first, lines))

    async def acknowledge(self, request: Request) -> Reply:
        try:
            data = orjson.loads(request.body)
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
        return json_reply({"accepted": await self._service.acknowledge(terms, peer=request.peer)})


def model_route(request: Request) -> Route:
    """What `{model}` and `{version}` of a path say. Raises NotFound."""
    number = request.parts.get("version")
    if number is not None and not (number.isascii() and number.isdecimal() and len(number) <= 9):
        raise NotFound(f"version {number[:40]!r} is not a number", code="model_unknown")
    return Route(request.parts["model"], None if number is None else int(number), "")


async def _pages(first: bytes, lines: Iterator[bytes]) -> AsyncIterator[bytes]:
    page: bytes | None = first
    while page is not None:
        yield page
        page = await asyncio.to_thread(next, lines, None)
