"""A request that fails, wherever it does, leaves nothing charged and holds no place, on both ways."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from assay.commitments.tensors import commit_tensors
from assay.errors import FatalError
from assay.node.engines.engine import EngineStatistics, Job, Result
from assay.node.errors import RunFailed, Unavailable
from assay.node.hot_path import HotPath
from assay.node.http.exchange import Exchange
from assay.node.http.messages import Reply, Request
from assay.node.inference_head import InferenceHead
from assay.node.models.catalog import Catalog, Route, Served
from assay.node.observability.metrics import Metrics
from assay.node.payments.suspicion import BURST
from assay.node.receipts.entries import Issue, LoggedReceipt
from assay.node.receipts.writer import Done
from assay.node.service import Service
from assay.types import Assurance, TensorSpec

from tests.backend.unit.node.payments.test_gate import (
    CONSUMER,
    DOMAIN,
    NODE,
    PRICE,
    SIGNER,
    VERSION,
    CountedCover,
    Desk,
)

pytestmark = pytest.mark.network  # an event loop needs a socket pair

PEER = "127.0.0.1"
BUSY = Unavailable("full", code="busy")
FAULTS = {
    "submit": BUSY,
    "run": RunFailed("it failed"),
    "put": FatalError("closed"),
    "write": FatalError("no disk"),
}


@dataclass
class FaultyEngine:
    """Fails at `fault`, or answers one row."""

    fault: str = ""
    memory_bytes: int = 0
    waiting: int = 0
    inputs: Any = (TensorSpec("x", "FP32", (-1, 2)),)
    outputs: Any = (TensorSpec("y", "FP32", (-1, 1)),)
    statistics: EngineStatistics = field(default_factory=EngineStatistics)

    def submit(self, job: Job) -> None:
        if self.fault == "submit":
            raise FAULTS["submit"]
        outputs = (np.zeros((1, 1), np.float32),)
        result = FAULTS["run"] if self.fault == "run" else Result(outputs, commit_tensors(outputs))
        asyncio.get_running_loop().call_soon(job.done, result)

    async def close(self) -> None: ...


class FaultyWriter:
    """Into the desk's log, or fails at `fault`."""

    def __init__(self, desk: Desk, fault: str) -> None:
        self._desk, self._fault = desk, fault

    def put(self, item: Issue, done: Done) -> None:
        if self._fault == "put":
            raise FAULTS["put"]
        asyncio.get_running_loop().call_soon(done, self._write(item))

    def _write(self, item: Issue) -> LoggedReceipt | Exception | None:
        return FAULTS["write"] if self._fault == "write" else self._desk.log.write([item], SIGNER)[0]

    def submit(self, item: Issue) -> asyncio.Future[Any]:
        future = asyncio.get_running_loop().create_future()

        def done(outcome: Any) -> None:
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

        self.put(item, done)
        return future


class Room:
    """A service with one version, and what came back from it."""

    def __init__(self, folder: Path) -> None:
        self.desk = Desk(folder)
        self.desk.gate.cover = self.cover = CountedCover()
        self.engine = FaultyEngine()
        self.served = Served(VERSION, NODE, "m", 1, Assurance.SIGNED)
        self.served.engine = self.engine
        self.ended: asyncio.Future[Any]

    def service(self, fault: str) -> Service:
        self.engine.fault = fault
        return Service(
            domain=DOMAIN,
            node=NODE,
            signer=SIGNER.address,
            catalog=Catalog([self.served]),
            follower=self.desk.follower,
            gate=self.desk.gate,
            log=self.desk.log,
            writer=FaultyWriter(self.desk, fault),  # type: ignore[arg-type]
            pool=None,  # type: ignore[arg-type]
            metrics=Metrics(1.0),
            max_elements=100,
        )

    async def ask(self, service: Service, way: str, json: bytes) -> Any:
        body = json + np.ones(2, np.float32).tobytes()
        if way == "waiting":
            try:
                return await service.infer(self.served, "m", body, len(json), peer=PEER)
            except Exception as error:
                return error
        loop = asyncio.get_running_loop()
        self.ended = loop.create_future()
        path = HotPath(service, 100, lambda *_: None, lambda _, error: self.ended.set_result(error))
        headers = {b"inference-header-content-length": b"%d" % len(json)}
        request = Request("POST", b"/v2/models/m/infer", b"", headers, PEER, body)
        head = InferenceHead(Route("m", None, "infer"))
        head.read(request, sells_by_x402=False)
        try:
            assert path.take(Exchange(request, self, time.perf_counter()), head)
        except Unavailable as error:
            return error
        return await self.ended

    def send(self, exchange: Exchange, reply: Reply) -> None:
        raise AssertionError("nothing is answered here")

    def send_raw(self, exchange: Exchange, head: bytes, body: bytes) -> None:
        self.ended.set_result(body)


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    made = Room(tmp_path)
    yield made
    made.desk.log.close()


def request(room: Room, amount: int, count: int) -> bytes:
    """The JSON before the tensor's bytes."""
    terms = room.desk.terms(amount, count)
    tensor: dict[str, Any] = {"name": "x", "datatype": "FP32", "shape": [1, 2]}
    tensor["parameters"] = {"binary_data_size": 8}
    parameters = {
        "voucher_consumer": CONSUMER.address,
        "voucher_amount": str(amount),
        "voucher_count": str(count),
        "voucher_signature": "0x" + terms.signature.hex(),
    }
    return orjson.dumps({"inputs": [tensor], "parameters": parameters})


@pytest.mark.parametrize("way", ["hot", "waiting"])
@pytest.mark.parametrize("fault", FAULTS)
def test_infer__fails_somewhere__leaves_nothing_charged_and_no_place(
    room: Room, way: str, fault: str
) -> None:
    async def scenario() -> None:
        await room.desk.follower.poll()
        await room.desk.serve(PRICE)
        service, channel = room.service(fault), room.desk.account.channels[VERSION]
        before = channel.issued, channel.charged, channel.durable
        room.cover.events.clear()
        assert await room.ask(service, way, request(room, 2 * PRICE, 1)) is FAULTS[fault]
        assert room.cover.events == [("admit", PRICE), ("give_up", PRICE)]
        assert (channel.issued, channel.charged, channel.durable) == before
        assert (channel.pending, channel.in_flight, service.places.taken) == (0, {}, 0)
        good = room.service("")
        assert not isinstance(await room.ask(good, way, request(room, 2 * PRICE, 1)), Exception)
        assert (channel.issued, channel.charged, channel.pending) == (2, 2 * PRICE, 0)
        assert (channel.in_flight, good.places.taken) == ({}, 0)
        assert room.cover.events[2:] == [("admit", PRICE), ("finish", PRICE)]

    asyncio.run(scenario())


@pytest.mark.parametrize("way", ["hot", "waiting"])
def test_infer__host_of_bad_signatures__is_answered_what_the_account_itself_signed(
    room: Room, way: str
) -> None:
    """Behind a proxy all are one host."""

    async def scenario() -> None:
        await room.desk.follower.poll()
        await room.desk.serve(PRICE)
        service = room.service("")
        for _ in range(BURST + 10):
            service.suspicion.note(PEER)
        good = request(room, 2 * PRICE, 1)
        at = good.index(b'"0x', good.index(b"voucher_signature")) + 20
        forged = good[:at] + (b"1" if good[at : at + 1] != b"1" else b"2") + good[at + 1 :]
        refused = await room.ask(service, way, forged)
        assert isinstance(refused, Unavailable) and refused.code == "busy"
        assert not isinstance(await room.ask(service, way, good), Exception)

    asyncio.run(scenario())
