"""A version is sold once its unpaid requests were seen refused; one that answers is closed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from assay.node.observability.metrics import Metrics
from assay.node.service import Service
from assay.node.x402.counting import PaymentCounters
from assay.node.x402.door import Door
from assay.node.x402.probing import Prober, unpaid_request
from assay.types import Hash32, TensorSpec

VERSION = Hash32(b"\x01" * 32)
SPECS = (
    TensorSpec("x", "FP32", (-1, 2)),
    TensorSpec("mask", "BOOL", (3,)),
    TensorSpec("words", "BYTES", (-1,)),
)


class World:
    """A catalog of one version; `prices` and `answers` are what is found, one look after the other."""

    def __init__(self, prices: Iterable[int], answers: Iterable[httpx.Response | Exception]) -> None:
        self.prices, self.answers = list(prices), list(answers)
        self.asked: list[httpx.Request] = []
        self.proven: set[Hash32] = set()
        self.unguarded: dict[Hash32, str] = {}
        engine = SimpleNamespace(inputs=SPECS)
        self.served = SimpleNamespace(version_id=VERSION, full_name="0xab/m", number=2, engine=engine)
        self.metrics = Metrics(1.0)
        self.catalog = [self.served]

    def price(self, served: Any) -> int:
        assert served is self.served
        return self.prices.pop(0) if len(self.prices) > 1 else self.prices[0]

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        found = self.answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    def look(self, times: int) -> None:
        async def run() -> None:
            counters = PaymentCounters(self.metrics)
            prober = Prober(cast(Service, self), cast(Door, self), counters, "http://node")
            await prober._http.aclose()
            prober._http = httpx.AsyncClient(
                base_url="http://node", transport=httpx.MockTransport(self.answer)
            )
            for _ in range(times):
                await prober.probe_all()
            await prober.stop()

        asyncio.run(run())

    def gauge(self, name: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"assay_node_x402_versions_{name}")


def refusal(*, how: bool = True) -> httpx.Response:
    return httpx.Response(402, headers={"payment-required": "e30="} if how else {}, json={})


def test_probe_all__refused_with_how_to_pay__is_proven_and_not_asked_again() -> None:
    world = World([5], [refusal()])
    world.look(3)
    assert (world.proven, world.unguarded) == ({VERSION}, {})
    assert (world.gauge("proven"), world.gauge("unguarded")) == (1, 0)
    (request,) = world.asked
    assert request.url.raw_path == b"/v2/models/0xab%2Fm/versions/2/infer"
    assert not any(name.startswith(("payment", "assay")) for name in request.headers)


def test_probe_all__answered__is_closed() -> None:
    world = World([5], [httpx.Response(200)])
    world.look(1)
    assert (world.proven, list(world.unguarded)) == (set(), [VERSION])
    assert (world.gauge("proven"), world.gauge("unguarded")) == (0, 1)


def test_probe_all__answered_because_it_costs_nothing_now__stays_open() -> None:
    world = World([5, 0], [httpx.Response(200)])
    world.look(2)
    assert (world.proven, world.unguarded) == (set(), {})


def test_probe_all__price_falls_to_nothing__opens_and_must_be_proven_again() -> None:
    world = World([5, 0, 5], [refusal(), refusal()])
    world.look(3)
    assert world.proven == {VERSION}
    assert len(world.asked) == 2


@pytest.mark.parametrize(
    "answer",
    [refusal(how=False), httpx.Response(503), httpx.Response(400), httpx.ConnectError("refused")],
)
def test_probe_all__anything_else__is_asked_again(answer: httpx.Response | Exception) -> None:
    world = World([5], [answer, refusal()])
    world.look(1)
    assert (world.proven, world.unguarded) == (set(), {})
    again = World([5], [answer, refusal()])
    again.look(2)
    assert again.proven == {VERSION}


def test_unpaid_request__every_kind_of_input__has_values_of_its_shape() -> None:
    tensors = unpaid_request(cast(Any, SimpleNamespace(inputs=SPECS)))["inputs"]
    assert [(t["shape"], t["data"]) for t in tensors] == [
        ([1, 2], [0.0, 0.0]),
        ([3], [False, False, False]),
        ([1], [""]),
    ]
