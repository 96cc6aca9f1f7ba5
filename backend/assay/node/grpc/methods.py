"""The methods of `inference.GRPCInferenceService`: messages in, messages out, errors as gRPC statuses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from assay.node.errors import InputError, PaymentError, Unavailable
from assay.node.grpc.inference import Inference, model_route
from assay.node.grpc.messages import Message, load_messages
from assay.node.grpc.metadata import (
    AUTHORIZATION,
    metadata_value,
    offer_metadata,
    payment_metadata,
    peer_host,
)
from assay.node.grpc.statuses import abort, details
from assay.node.grpc.tensors import read_parameters
from assay.node.models.catalog import Served
from assay.node.oip.extensions import described
from assay.node.oip.model_config import model_config
from assay.node.oip.repository import Repository
from assay.node.oip.statistics import model_statistics
from assay.node.operator_token import OperatorToken
from assay.node.payments.voucher_header import NAME as VOUCHER
from assay.node.payments.voucher_header import voucher_parameters
from assay.node.refusals import answer_error
from assay.node.service import Service

Method = Callable[[Any, Any], Awaitable[Message]]
_FINAL_ASKED: Final = "triton_enable_empty_final_response"
_FINAL: Final = "triton_final_response"


@dataclass(frozen=True, slots=True)
class Methods:
    """Belongs to the server's event loop. Each method is called with a message and grpc's context."""

    service: Service
    description: Mapping[str, Any]
    """What `GET /v2` answers."""
    inference: Inference
    repository: Repository
    token: OperatorToken
    check_ready: Callable[[], None]
    """Raises Unavailable while the node does not serve."""

    # Server

    async def server_live(self, request: Message, context: Any) -> Message:
        return load_messages().ServerLiveResponse(live=True)

    async def server_ready(self, request: Message, context: Any) -> Message:
        try:
            self.check_ready()
        except Unavailable:
            return load_messages().ServerReadyResponse(ready=False)
        return load_messages().ServerReadyResponse(ready=True)

    async def server_metadata(self, request: Message, context: Any) -> Message:
        return load_messages().ServerMetadataResponse(**self.description)

    # Models

    async def model_ready(self, request: Message, context: Any) -> Message:
        """A version that is known and not served is not ready; one that is not known is an error."""
        served = self._find(request)
        try:
            self.service.admit_version(served, asked=False)
        except Unavailable:
            return load_messages().ModelReadyResponse(ready=False)
        context.set_trailing_metadata(offer_metadata(self.service, served))
        return load_messages().ModelReadyResponse(ready=True)

    async def model_metadata(self, request: Message, context: Any) -> Message:
        served = described(self._find(request))
        numbers = sorted(self.service.catalog.versions(request.name))
        context.set_trailing_metadata(offer_metadata(self.service, served))
        found = served.metadata(request.name, [str(number) for number in numbers])
        names = ("name", "versions", "platform", "inputs", "outputs")
        return load_messages().ModelMetadataResponse(**{name: found[name] for name in names})

    async def model_config(self, request: Message, context: Any) -> Message:
        served = described(self._find(request))
        config = model_config(served, request.name, self.service.catalog.versions(request.name))
        return load_messages().ModelConfigResponse(config=config)

    async def model_statistics(self, request: Message, context: Any) -> Message:
        route = model_route(request.name, request.version) if request.name else None
        found = model_statistics(self.service.catalog, route)
        return load_messages().ModelStatisticsResponse(model_stats=found)

    def _find(self, request: Message) -> Served:
        return self.service.catalog.find(model_route(request.name, request.version))

    # Inference

    async def model_infer(self, request: Message, context: Any) -> Message:
        given = metadata_value(context.invocation_metadata(), VOUCHER)
        try:
            return await self.inference.infer(
                request, lambda: voucher_parameters(given), peer_host(context.peer())
            )
        except PaymentError as error:
            served = self.service.catalog.find(model_route(request.model_name, request.model_version))
            told = payment_metadata(self.service, served, error.consumer)
            answered = answer_error(error, "ModelInfer")
        del request  # as in `server._refusing`
        await abort(context, answered, told)

    async def model_stream_infer(
        self, requests: AsyncIterator[Message], context: Any
    ) -> AsyncIterator[Message]:
        """One response for each request, in their order; a refused request does not end the stream, but that
        none comes for long: a stream counts among all calls at once."""
        peer = peer_host(context.peer())
        given = metadata_value(context.invocation_metadata(), VOUCHER)
        async for request in _while_used(requests, self.inference.idle_seconds):
            response = load_messages().ModelStreamInferResponse()
            try:
                answer = await self.inference.infer(request, lambda: _no_voucher(given), peer)
                response.infer_response.CopyFrom(answer)
            except Exception as error:
                response.error_message = details(answer_error(error, "ModelStreamInfer"))
                response.infer_response.id = request.id
            if read_parameters(request.parameters).get(_FINAL_ASKED) is True:
                response.infer_response.parameters[_FINAL].bool_param = True
            yield response

    # Repository, for the operator

    async def repository_index(self, request: Message, context: Any) -> Message:
        self._check_operator(context, "the repository's index")
        models = self.repository.index(ready=request.ready, repository=request.repository_name)
        return load_messages().RepositoryIndexResponse(models=models)

    async def repository_model_load(self, request: Message, context: Any) -> Message:
        self._check_operator(context, "loading a model")
        await self.repository.load(request.model_name, read_parameters(request.parameters))
        return load_messages().RepositoryModelLoadResponse()

    async def repository_model_unload(self, request: Message, context: Any) -> Message:
        self._check_operator(context, "unloading a model")
        await self.repository.unload(request.model_name, read_parameters(request.parameters))
        return load_messages().RepositoryModelUnloadResponse()

    def _check_operator(self, context: Any, what: str) -> None:
        self.token.check(metadata_value(context.invocation_metadata(), AUTHORIZATION), what)


def _no_voucher(given: str | None) -> Mapping[str, Any]:
    """Of a stream's metadata. Raises InputError."""
    if given is not None:
        raise InputError(
            f"{VOUCHER} in metadata pays for one request; send each request of a stream with its own voucher "
            "in its parameters",
            code="input_voucher",
        )
    return {}


async def _while_used(requests: AsyncIterator[Message], idle_seconds: float) -> AsyncIterator[Message]:
    """The requests, until no other comes within `idle_seconds`."""
    waiting = aiter(requests)
    while True:
        try:
            async with asyncio.timeout(idle_seconds):
                request = await anext(waiting)
        except (StopAsyncIteration, TimeoutError):
            return
        yield request
