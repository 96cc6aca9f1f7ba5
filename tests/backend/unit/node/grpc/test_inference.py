"""The limits of ModelInfer, its drain, calls that are given up, over a service that answers when told to."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
import pytest
from assay.errors import FatalError, RetryableError
from assay.node.errors import NotFound, Unavailable
from assay.node.grpc.inference import Inference, model_route
from assay.node.grpc.messages import load_messages
from assay.node.grpc.metadata import peer_host
from assay.node.grpc.methods import Methods
from assay.node.grpc.server import SERVICE, GrpcServer
from assay.node.http.exchange import Limits
from assay.node.models.catalog import Catalog, Served
from assay.node.observability.metrics import Metrics
from assay.node.observability.request_log import RequestLog, Requests
from assay.node.refusals import describe_error
from assay.types import Address, Assurance, Domain, Hash32, TensorSpec
from structlog.testing import capture_logs

PUBLISHER = Address("0x00000000000000000000000000000000000000A1")
X = np.zeros((1, 2), np.float32)


@dataclass
class Engine:
    inputs: tuple[TensorSpec, ...] = (TensorSpec("x", "FP32", (-1, 2)),)
    outputs: tuple[TensorSpec, ...] = (TensorSpec("x", "FP32", (-1, 2)),)


@dataclass
class Receipt:
    def to_json(self, domain: Domain) -> dict[str, Any]:
        return {"sequence": 1}


@dataclass
class Admitted:
    engine: Engine = field(default_factory=Engine)
    price: int = 0


@dataclass
class Answer:
    outputs: tuple[Any, ...]
    receipt: Receipt = field(default_factory=Receipt)


@dataclass
class WaitingService:
    """Answers with its inputs once `go` is set."""

    catalog: Catalog
    metrics: Metrics = field(default_factory=lambda: Metrics(1.0))
    request_log: RequestLog = field(default_factory=lambda: RequestLog(Requests.REFUSED))
    domain: Domain = field(default_factory=lambda: Domain(1, PUBLISHER))
    go: asyncio.Event = field(default_factory=asyncio.Event)
    answered: int = 0
    error: Exception | None = None

    def admit_version(self, served: Served) -> Admitted:
        return Admitted()

    async def answer(self, served: Served, request: Any, *, peer: str) -> Answer:
        assert peer == "127.0.0.1"
        if self.error is not None:
            raise self.error
        await self.go.wait()
        self.answered += 1
        return Answer(request.inputs)


class World:
    def __init__(self, **limits: Any) -> None:
        served = Served(Hash32(bytes(32)), PUBLISHER, "m", 1, Assurance.SIGNED)
        self.served = served
        self.service = WaitingService(Catalog([served]))
        self.stopping = False
        self.inference = Inference(
            self.service,  # type: ignore[arg-type]
            Limits(**limits),
            1000,
            lambda: self.stopping,
        )

    @contextlib.asynccontextmanager
    async def door(self, **options: int) -> AsyncIterator[grpc.aio.Channel]:
        """A client's channel to it over a real server."""
        methods = Methods(self.service, {}, self.inference, None, None, None)  # type: ignore[arg-type]
        door = GrpcServer(methods, Limits(), **options)
        port = await door.start("127.0.0.1", 0)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
        await door.stop(1)

    def message(self, name: str = "m", **fields: str) -> Any:
        made = load_messages().ModelInferRequest(model_name=name, **fields, raw_input_contents=[X.tobytes()])
        made.inputs.add(name="x", datatype="FP32", shape=[1, 2])
        return made

    def ask(self, name: str = "m", voucher: Mapping[str, Any] | None = None) -> Any:
        return asyncio.ensure_future(
            self.inference.infer(self.message(name), lambda: voucher or {}, "127.0.0.1")
        )


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_infer__more_at_once_than_allowed__busy() -> None:
    async def run() -> None:
        world = World(max_concurrent=1)
        asked = [world.ask() for _ in range(3)]
        await settled()
        with pytest.raises(Unavailable) as caught:
            await asked[2]
        assert caught.value.code == "busy"
        assert world.served.requests.failed == 1
        world.service.go.set()
        replies = await asyncio.gather(*asked[:2])
        assert all(reply.raw_output_contents[0] == X.tobytes() for reply in replies)
        assert (await world.ask()).parameters["receipt"].string_param == '{"sequence":1}'

    asyncio.run(run())


def test_infer__more_bytes_than_allowed__busy() -> None:
    async def run() -> None:
        world = World(max_bytes_in_progress=45)
        first, second = world.ask(), world.ask()
        await settled()
        with pytest.raises(Unavailable):
            await second
        world.service.go.set()
        await first
        await world.ask()

    asyncio.run(run())


def test_infer__while_stopping__refused() -> None:
    async def run() -> None:
        world = World()
        world.stopping = True
        with pytest.raises(Unavailable) as caught:
            await world.ask()
        assert caught.value.code == "not_ready"

    asyncio.run(run())


def test_infer__given_up_by_its_client__finished_all_the_same() -> None:
    async def run() -> None:
        world = World()
        asked = world.ask()
        await settled()
        asked.cancel()
        await settled()
        assert asked.cancelled() and world.service.answered == 0
        drained = asyncio.ensure_future(world.inference.drain())
        await settled()
        assert not drained.done()
        world.service.go.set()
        await drained
        assert world.service.answered == 1 and world.served.requests.succeeded == 1

    asyncio.run(run())


def test_infer__refused_after_its_client_left__nobody_is_told() -> None:
    async def run() -> None:
        world = World()
        asked = world.ask("nobody")
        await asyncio.sleep(0)
        asked.cancel()
        await world.inference.drain()

    asyncio.run(run())


def test_infer__any_end__is_counted() -> None:
    async def run() -> None:
        world = World()
        world.service.go.set()
        await world.ask()
        with pytest.raises(NotFound):
            await world.ask("nobody")
        text = world.service.metrics.render().decode()
        assert 'assay_node_requests_total{status="200"} 1.0' in text
        assert 'assay_node_failures_total{code="model_unknown"} 1.0' in text

    asyncio.run(run())


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (FatalError("the receipts log is closed"), 503, "not_ready"),
        (RetryableError("the log's database is away"), 503, "not_ready"),
        (ZeroDivisionError("a flaw"), 500, "internal"),
    ],
)
def test_infer__error_that_is_no_refusal__is_counted_as_it_is_answered(
    error: Exception, status: int, code: str
) -> None:
    async def run() -> None:
        world = World()
        world.service.error = error
        with pytest.raises(type(error)):
            await world.ask()
        text = world.service.metrics.render().decode()
        assert f'assay_node_requests_total{{status="{status}"}} 1.0' in text
        assert f'assay_node_failures_total{{code="{code}"}} 1.0' in text
        answered = describe_error(error)
        assert (answered.status, answered.code) == (status, code)

    asyncio.run(run())


def unary(channel: grpc.aio.Channel) -> Any:
    kinds = load_messages()
    return channel.unary_unary(
        f"/{SERVICE}/ModelInfer",
        request_serializer=kinds.ModelInferRequest.SerializeToString,
        response_deserializer=kinds.ModelInferResponse.FromString,
    )


def stream(channel: grpc.aio.Channel) -> Any:
    kinds = load_messages()
    return channel.stream_stream(
        f"/{SERVICE}/ModelStreamInfer",
        request_serializer=kinds.ModelInferRequest.SerializeToString,
        response_deserializer=kinds.ModelStreamInferResponse.FromString,
    )


def told(lines: Sequence[Mapping[str, Any]]) -> list[tuple[Any, ...]]:
    return [tuple(line[name] for name in ("event", "request", "path", "status", "code")) for line in lines]


@pytest.mark.network
def test_refusals__of_a_real_client__are_in_the_request_log() -> None:
    async def run() -> None:
        world = World()
        async with world.door() as channel:
            infer = unary(channel)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await infer(world.message("nobody", id="seven", model_version="2"))
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND
            world.service.error = FatalError("the receipts log is closed")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await infer(world.message(id="eight"))
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            call = stream(channel)()
            await call.write(world.message("nobody", id="nine"))
            assert (await call.read()).error_message.startswith("model_unknown: ")
            await call.done_writing()

    with capture_logs() as lines:
        asyncio.run(run())
    assert told(lines) == [
        ("refused", "seven", "ModelInfer/nobody/2", 404, "model_unknown"),
        ("refused", "eight", "ModelInfer/m", 503, "not_ready"),
        ("refused", "nine", "ModelInfer/nobody", 404, "model_unknown"),
    ]
    assert lines[1]["reason"] == "the receipts log is closed"
    assert all(0 <= line["seconds"] < 10 for line in lines)


@pytest.mark.network
def test_refusals__of_calls_whose_message_is_not_read__are_logged_and_counted() -> None:
    async def run() -> str:
        world = World()
        async with world.door(buffer_bytes=1) as channel:  # a place for one stream
            first = stream(channel)()
            await first.write(world.message("nobody"))
            await first.read()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await anext(aiter(stream(channel)(iter(()))))
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert "streams" in (caught.value.details() or "")
            first.cancel()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.stream_unary(f"/{SERVICE}/ModelInfer")(iter(()))
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        return world.service.metrics.render().decode()

    with capture_logs() as lines:
        text = asyncio.run(run())
    assert [line[2:] for line in told(lines)] == [
        ("ModelInfer/nobody", 404, "model_unknown"),
        ("ModelStreamInfer", 503, "busy"),
        ("ModelInfer", 400, "input_http"),
    ]
    assert len({line["request"] for line in lines}) == 3
    for code in ("model_unknown", "busy", "input_http"):
        assert f'assay_node_failures_total{{code="{code}"}} 1.0' in text


@pytest.mark.network
@pytest.mark.parametrize(
    ("raw", "status", "code"),
    [
        (b"\xff\xff", grpc.StatusCode.INVALID_ARGUMENT, "input_json"),
        (b"\x2a\x00" * 5000, grpc.StatusCode.RESOURCE_EXHAUSTED, "too_large"),
    ],
)
@pytest.mark.parametrize("method", ["ModelInfer", "ModelStreamInfer", "ModelReady"])
def test_refusals__of_bytes_that_are_no_message__have_their_code(
    method: str, raw: bytes, status: grpc.StatusCode, code: str
) -> None:
    """And no traceback in the log: anybody can send them."""

    async def run() -> None:
        world = World()
        world.service.go.set()
        async with world.door() as channel:
            for _ in range(3):  # places are free again
                call = channel.stream_stream(f"/{SERVICE}/{method}")(iter([raw]))
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await anext(aiter(call))
                assert caught.value.code() is status
                assert dict(caught.value.trailing_metadata() or ())["assay-code"] == code
            assert (await unary(channel)(world.message())).model_name == "m"

    with capture_logs() as lines:
        asyncio.run(run())
    assert {line["event"] for line in lines} <= {"refused"}


@pytest.mark.network
def test_stream__no_request_for_long__is_ended() -> None:
    """Whoever opens streams and says nothing must not keep others out."""

    async def run() -> None:
        world = World(idle_seconds=0.5)
        world.service.go.set()
        async with world.door() as channel:
            call = stream(channel)()
            for _ in range(4):  # longer together than a stream may be idle
                await asyncio.sleep(0.2)
                await call.write(world.message())
                answer = await call.read()
                assert answer.infer_response.raw_output_contents[0] == X.tobytes(), answer.error_message
            async with asyncio.timeout(10):
                assert await call.read() is grpc.aio.EOF

    asyncio.run(run())


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:10.0.0.1:99", "10.0.0.1"),
        ("ipv6:%5B2001:db8::7%5D:99", "2001:db8::/64"),
        ("ipv6:%5B::1%5D:99", "::1"),
        ("unix:", "unix:"),
        ("what", "what"),
    ],
)
def test_peer_host__of_grpcs_forms__the_host_alone(peer: str, host: str) -> None:
    assert peer_host(peer) == host


@pytest.mark.parametrize("version", ["x", "-1", "1.0", "٣", "1" * 10])
def test_model_route__version_that_is_no_number__unknown(version: str) -> None:
    with pytest.raises(NotFound):
        model_route("m", version)


def test_model_route__no_version__the_newest() -> None:
    assert model_route("m", "").number is None and model_route("m", "7").number == 7
