"""ModelInfer: one gRPC request through `Service.answer`, within the node's limits."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import orjson

from assay.errors import RequestError
from assay.node.engines.engine import Engine
from assay.node.errors import NotFound, Unavailable
from assay.node.grpc.messages import Message
from assay.node.grpc.tensors import build_response, is_typed, read_request
from assay.node.http.exchange import Limits
from assay.node.models.catalog import Route, Served
from assay.node.oip import protocol as oip
from assay.node.refusals import describe_error
from assay.node.service import Service

ReadVoucher = Callable[[], Mapping[str, Any]]
"""What a call's metadata says of its voucher. Raises RequestError."""
SMALL_MESSAGE: Final = 65_536
"""Requests up to this many bytes are decoded in the event loop."""
IN_PROGRESS: Final = 2
"""Times `max_concurrent`: half are left to requests whose consumer is not known, which hold no place yet."""


def model_route(name: str, version: str) -> Route:
    """`version` empty: the newest one. Raises NotFound."""
    if version and not (version.isascii() and version.isdecimal() and len(version) <= 9):
        raise NotFound(f"version {version[:40]!r} is not a number", code="model_unknown")
    return Route(name, int(version) if version else None, "")


class Inference:
    """Belongs to the server's event loop. A call that its client gives up is finished all the same: its
    receipt may be on disk already."""

    def __init__(
        self, service: Service, limits: Limits, max_elements: int, is_stopping: Callable[[], bool]
    ) -> None:
        self._service = service
        self._limits = limits
        self._max_elements = max_elements
        self._is_stopping = is_stopping
        self._tasks: set[asyncio.Task[Message]] = set()
        self._running = 0
        self._bytes = 0

    @property
    def idle_seconds(self) -> float:
        """How long a stream may wait for its next request."""
        return self._limits.idle_seconds

    async def infer(self, request: Message, read_voucher: ReadVoucher, peer: str) -> Message:
        """A ModelInferResponse; `peer` is the remote host. Raises RequestError of every kind in `errors`."""
        task = asyncio.create_task(self._run(request, read_voucher, peer))
        self._tasks.add(task)
        task.add_done_callback(self._done)
        try:
            return await asyncio.shield(task)
        finally:
            del task  # its error has this frame, and the request: a circle until the next full collection

    async def _run(self, request: Message, read_voucher: ReadVoucher, peer: str) -> Message:
        started = time.perf_counter()
        status, code = 200, ""
        try:
            with self._held(request.ByteSize()):
                return await self._answer(request, read_voucher(), peer)
        except BaseException as error:
            where = f"ModelInfer/{request.model_name}"
            if request.model_version:
                where += f"/{request.model_version}"
            status, code = self._log(error, request.id or None, where, started)
            raise
        finally:
            seconds = time.perf_counter() - started
            self._service.metrics.record(status, code, seconds)
            with contextlib.suppress(RequestError):
                self._find(request).requests.record(seconds, ok=status == 200)

    def unread(self, error: Exception, method: str, started: float) -> None:
        """Note a call that is refused before its request was there; `started`: its `perf_counter`."""
        status, code = self._log(error, None, method, started)
        self._service.metrics.record(status, code, time.perf_counter() - started)

    def _log(
        self, error: BaseException, request_id: str | None, where: str, started: float
    ) -> tuple[int, str]:
        """The status, as HTTP has it, and the code that it is answered with."""
        answered = describe_error(error)
        self._service.request_log.refused(
            request_id,
            where,
            status=answered.status,
            code=answered.code,
            reason=str(error),
            seconds=time.perf_counter() - started,
        )
        return answered.status, answered.code

    async def drain(self) -> None:
        """Until every request in progress is answered."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _done(self, task: asyncio.Task[Message]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever gave up does not ask for it

    @contextlib.contextmanager
    def _held(self, size: int) -> Iterator[None]:
        """Count what a request holds. Raises Unavailable."""
        if self._is_stopping():
            raise Unavailable("this node is stopping; use another node")
        limits = self._limits
        if (
            self._running >= IN_PROGRESS * limits.max_concurrent
            or self._bytes + size > limits.max_bytes_in_progress
        ):
            raise Unavailable("this node is at its limit of requests in progress; try again", code="busy")
        self._running += 1
        self._bytes += size
        try:
            yield
        finally:
            self._running -= 1
            self._bytes -= size

    def _find(self, message: Message) -> Served:
        """Raises NotFound."""
        return self._service.catalog.find(model_route(message.model_name, message.model_version))

    async def _answer(self, message: Message, voucher: Mapping[str, Any], peer: str) -> Message:
        served = self._find(message)
        engine = self._service.admit_version(served).engine
        request = await self._read(message, voucher, engine)
        answer = await self._service.answer(served, request, peer=peer)
        wanted = oip.requested_outputs(request, engine.outputs, answer.outputs)
        receipt = orjson.dumps(answer.receipt.to_json(self._service.domain)).decode()
        name = message.model_name
        return build_response(request, name, str(served.number), wanted, receipt, typed=is_typed(message))

    async def _read(self, message: Message, voucher: Mapping[str, Any], engine: Engine) -> oip.InferRequest:
        def read() -> oip.InferRequest:
            return read_request(
                message, voucher, engine.inputs, engine.outputs, max_elements=self._max_elements
            )

        return read() if message.ByteSize() <= SMALL_MESSAGE else await asyncio.to_thread(read)
