"""The gRPC front door: methods registered under their standard names, limits, start and stop."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final

import grpc

from assay.errors import ConfigurationError, RequestError
from assay.node.errors import Unavailable, Unsupported
from assay.node.grpc.inference import IN_PROGRESS, Inference
from assay.node.grpc.messages import PACKAGE, Message, load_messages
from assay.node.grpc.metadata import peer_host
from assay.node.grpc.methods import Method, Methods
from assay.node.grpc.parsing import parser_of
from assay.node.grpc.reading import Reader, ReadingRules
from assay.node.grpc.statuses import abort
from assay.node.http.exchange import Limits
from assay.node.oip.repository import Repository
from assay.node.operator_token import OperatorToken
from assay.node.places import Places
from assay.node.refusals import answer_error
from assay.node.server import Server
from assay.node.service import Service
from assay.node.views import server_metadata
from assay.types import Address

SERVICE: Final = f"{PACKAGE}.GRPCInferenceService"
Call = Callable[[AsyncIterator[Any], Any], Awaitable[Message]]
Read = Callable[[AsyncIterator[Message], str], Awaitable[Message]]
Stream = Callable[[AsyncIterator[Message], Any], AsyncIterator[Message]]
UNSUPPORTED: Final[Mapping[str, str]] = {
    **{f"SystemSharedMemory{what}": "shared memory" for what in ("Status", "Register", "Unregister")},
    **{f"CudaSharedMemory{what}": "shared memory" for what in ("Status", "Register", "Unregister")},
    "TraceSetting": "trace settings",
    "LogSettings": "log settings",
}
"""Methods of Triton's that this node refuses, by name, and what they are about."""
_ENVELOPE: Final = 65_536
"""Bytes of a message beside its tensors."""
_MAX_METADATA: Final = 16_384
_LOOKAHEAD: Final = 65_536
"""Bytes of a message that come before it is read."""
BUFFER_BYTES: Final = 512 << 20
_LAST_WORDS: Final = 0.2
"""Seconds in which clients that were just answered hear why nothing more is."""
_STREAMS: Final = 128
"""Calls at the same time on one connection, among them those that its client gave up a moment ago: so grpc
bounds what calls cost that are reset as soon as they are made. It resets others without a word."""
AGE_SECONDS: Final = 600.0
"""How old a connection gets: its client is told to make another, and calls on it may still end within the
grace; what then has not come or gone is cut off."""
AGE_GRACE_SECONDS: Final = 60.0


def build_server(
    service: Service,
    repository: Repository,
    token: OperatorToken,
    app: Server,
    *,
    max_elements: int,
    buffer_bytes: int = BUFFER_BYTES,
) -> GrpcServer:
    """The door beside the HTTP server `app`, with its limits; it stops serving when `app` does.
    `buffer_bytes`: of messages that are being received."""
    inference = Inference(service, app.limits, max_elements, lambda: app.stopping)
    methods = Methods(service, server_metadata(), inference, repository, token, app.endpoints.check_ready)
    return GrpcServer(methods, app.limits, buffer_bytes=buffer_bytes)


class GrpcServer:
    """Belongs to the node's event loop. Plain text: TLS is a proxy's affair, as it is for HTTP."""

    def __init__(
        self,
        methods: Methods,
        limits: Limits,
        *,
        buffer_bytes: int = BUFFER_BYTES,
        age_seconds: float = AGE_SECONDS,
        age_grace_seconds: float = AGE_GRACE_SECONDS,
    ) -> None:
        self._methods = methods
        places = places_of(buffer_bytes, limits.max_body)
        reader, streams = Reader(ReadingRules(places)), Places(places)
        self._server = grpc.aio.server(
            options=[
                *_options(limits),
                ("grpc.max_connection_age_ms", round(age_seconds * 1000)),
                ("grpc.max_connection_age_grace_ms", round(age_grace_seconds * 1000)),
            ],
            # of all methods; ModelInfer itself answers `busy` before that
            maximum_concurrent_rpcs=2 * IN_PROGRESS * limits.max_concurrent + _STREAMS,
        )
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, _handlers(methods, reader, streams)),)
        )

    async def start(self, host: str, port: int) -> int:
        """Listen; the port, which `port` 0 leaves to the system. Raises ConfigurationError."""
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            bound = self._server.add_insecure_port(address)
        except RuntimeError:
            bound = 0
        if not bound:
            raise ConfigurationError(
                f"cannot listen on {address} for gRPC; stop what listens there, or change port in [grpc] of "
                f"node.toml"
            )
        await self._server.start()
        return int(bound)

    async def stop(self, grace_seconds: float) -> None:
        """Finish the calls in progress, refuse new ones, then go away; what lasts longer than the grace is
        cut off.

        The node refuses new calls by name from when it stops; grpc would only say that they are cancelled.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_seconds):
                await self._methods.inference.drain()
                await asyncio.sleep(_LAST_WORDS)
        await self._server.stop(grace_seconds)


def places_of(buffer_bytes: int, max_body: int) -> int:
    """Messages that are received at the same time, of calls, and of open streams as many: together they take
    at most `buffer_bytes`, but for one place of each at least."""
    return max(1, buffer_bytes // 2 // (max_body + _ENVELOPE))


def _options(limits: Limits) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", limits.max_body + _ENVELOPE),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", _MAX_METADATA),
        ("grpc.absolute_max_metadata_size", 2 * _MAX_METADATA),
        ("grpc.max_concurrent_streams", _STREAMS),
        ("grpc.max_allowed_incoming_connections", limits.max_connections),
        ("grpc.http2.lookahead_bytes", _LOOKAHEAD),
        ("grpc.http2.bdp_probe", 0),  # it would let that grow
        ("grpc.so_reuseport", 0),
        ("grpc.max_connection_idle_ms", 300_000),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ]


def _handlers(methods: Methods, reader: Reader, streams: Places) -> dict[str, grpc.RpcMethodHandler]:
    kinds = load_messages()
    unary: dict[str, tuple[Method, Any]] = {
        "ServerLive": (methods.server_live, kinds.ServerLiveRequest),
        "ServerReady": (methods.server_ready, kinds.ServerReadyRequest),
        "ServerMetadata": (methods.server_metadata, kinds.ServerMetadataRequest),
        "ModelReady": (methods.model_ready, kinds.ModelReadyRequest),
        "ModelMetadata": (methods.model_metadata, kinds.ModelMetadataRequest),
        "ModelInfer": (methods.model_infer, kinds.ModelInferRequest),
        "ModelConfig": (methods.model_config, kinds.ModelConfigRequest),
        "ModelStatistics": (methods.model_statistics, kinds.ModelStatisticsRequest),
        "RepositoryIndex": (methods.repository_index, kinds.RepositoryIndexRequest),
        "RepositoryModelLoad": (methods.repository_model_load, kinds.RepositoryModelLoadRequest),
        "RepositoryModelUnload": (methods.repository_model_unload, kinds.RepositoryModelUnloadRequest),
    }
    found = {
        name: _handler(_refusing(method, name, _reading(methods, name, reader)), parser_of(kind))
        for name, (method, kind) in unary.items()
    }
    found |= {name: _handler(_unsupported(what), bytes) for name, what in UNSUPPORTED.items()}
    found["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(
        _in_place(methods, streams),
        request_deserializer=parser_of(kinds.ModelInferRequest),
        response_serializer=_to_bytes,
    )
    return found


def _handler(call: Call, deserialize: Callable[[bytes], Any]) -> grpc.RpcMethodHandler:
    """Of a method with one request: on the wire the same as one whose requests may be many, which alone lets
    the call be taken before its message is read."""
    return grpc.stream_unary_rpc_method_handler(
        call, request_deserializer=deserialize, response_serializer=_to_bytes
    )


def _to_bytes(message: Message) -> bytes:
    return bytes(message.SerializeToString())


def _reading(methods: Methods, name: str, reader: Reader) -> Read:
    """Reads a call's message; an inference whose message is refused is noted."""

    async def read(requests: AsyncIterator[Message], host: str) -> Message:
        started = time.perf_counter()
        try:
            return await reader.read(requests, host)
        except RequestError as error:
            methods.inference.unread(error, name, started)
            raise

    return read if name == "ModelInfer" else reader.read


def _refusing(method: Method, name: str, read: Read) -> Call:
    """The method, its request read in its turn, its errors as gRPC statuses.

    grpc keeps what ends a call, with all that its traceback's frames hold, until the next full collection:
    so no frame there may hold the request.
    """

    async def call(requests: AsyncIterator[Message], context: Any) -> Message:
        try:
            return await method(await read(requests, peer_host(context.peer())), context)
        except grpc.aio.AbortError:
            raise
        except Exception as error:
            answered = answer_error(error, name)
        await abort(context, answered)

    return call


def _in_place(methods: Methods, streams: Places) -> Stream:
    """ModelStreamInfer while there is a place for its stream."""

    async def call(requests: AsyncIterator[Message], context: Any) -> AsyncIterator[Message]:
        host, started = Address(f"ip:{peer_host(context.peer())}"), time.perf_counter()
        try:
            streams.take(host)
        except Unavailable:
            error = Unavailable(
                "too many streams are open here, or of this host; send requests one by one (ModelInfer), or "
                "ask another node",
                code="busy",
            )
            methods.inference.unread(error, "ModelStreamInfer", started)
            await abort(context, answer_error(error, "ModelStreamInfer"))
        try:
            async for answer in methods.model_stream_infer(requests, context):
                yield answer
        except RequestError as error:  # of a message that is none; requests that are refused end no stream
            methods.inference.unread(error, "ModelStreamInfer", started)
            await abort(context, answer_error(error, "ModelStreamInfer"))
        finally:
            streams.free(host)

    return call


def _unsupported(what: str) -> Call:
    async def refuse(requests: AsyncIterator[bytes], context: Any) -> Message:
        await abort(context, answer_error(Unsupported(what), what))

    return refuse
