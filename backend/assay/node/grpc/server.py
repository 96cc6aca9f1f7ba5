"""The gRPC front door: methods registered under their standard names, limits, start and stop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Any, Final

import grpc

from assay.errors import ConfigurationError
from assay.node.errors import Unsupported
from assay.node.grpc.inference import IN_PROGRESS, Inference
from assay.node.grpc.messages import PACKAGE, Message, load_messages
from assay.node.grpc.methods import Method, Methods
from assay.node.grpc.statuses import abort
from assay.node.http.exchange import Limits
from assay.node.oip.repository import Repository
from assay.node.operator_token import OperatorToken
from assay.node.refusals import answer_error
from assay.node.server import Server
from assay.node.service import Service
from assay.node.views import server_metadata

SERVICE: Final = f"{PACKAGE}.GRPCInferenceService"
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
_LAST_WORDS: Final = 0.2
"""Seconds in which clients that were just answered hear why nothing more is."""
_STREAMS: Final = 128
"""Calls at the same time on one connection."""
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
) -> GrpcServer:
    """The door beside the HTTP server `app`, with its limits; it stops serving when `app` does."""
    inference = Inference(service, app.limits, max_elements, lambda: app.stopping)
    methods = Methods(service, server_metadata(), inference, repository, token, app.endpoints.check_ready)
    return GrpcServer(methods, app.limits)


class GrpcServer:
    """Belongs to the node's event loop. Plain text: TLS is a proxy's affair, as it is for HTTP."""

    def __init__(
        self,
        methods: Methods,
        limits: Limits,
        *,
        age_seconds: float = AGE_SECONDS,
        age_grace_seconds: float = AGE_GRACE_SECONDS,
    ) -> None:
        self._methods = methods
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
            (grpc.method_handlers_generic_handler(SERVICE, _handlers(methods)),)
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


def _options(limits: Limits) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", limits.max_body + _ENVELOPE),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", _MAX_METADATA),
        ("grpc.absolute_max_metadata_size", 2 * _MAX_METADATA),
        ("grpc.max_concurrent_streams", _STREAMS),
        ("grpc.so_reuseport", 0),
        ("grpc.max_connection_idle_ms", 300_000),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ]


def _handlers(methods: Methods) -> dict[str, grpc.RpcMethodHandler]:
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
        name: _handler(_refusing(method, name), kind.FromString) for name, (method, kind) in unary.items()
    }
    found |= {name: _handler(_unsupported(what), bytes) for name, what in UNSUPPORTED.items()}
    found["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(
        methods.model_stream_infer,
        request_deserializer=kinds.ModelInferRequest.FromString,
        response_serializer=_to_bytes,
    )
    return found


def _handler(method: Method, deserialize: Callable[[bytes], Any]) -> grpc.RpcMethodHandler:
    return grpc.unary_unary_rpc_method_handler(
        method, request_deserializer=deserialize, response_serializer=_to_bytes
    )


def _to_bytes(message: Message) -> bytes:
    return bytes(message.SerializeToString())


def _refusing(method: Method, name: str) -> Method:
    """The method with its errors as gRPC statuses."""

    async def call(request: Any, context: Any) -> Message:
        try:
            return await method(request, context)
        except Exception as error:
            await abort(context, answer_error(error, name))

    return call


def _unsupported(what: str) -> Method:
    async def refuse(request: Any, context: Any) -> Message:
        await abort(context, answer_error(Unsupported(what), what))

    return refuse
