"""A node with more requests than it takes: who asks for much is refused, who asks for little is answered."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import repeat
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from assay.commitments.signing import SigningKey

from tests.support.nodes import Consumer
from tests.support.oip_world import PRICE, World, oip_world

ROOM: Final = 8
"""Requests in progress that this node has places for."""
FLOODERS: Final = 16
X: Final = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1.0, 2.0, 3.0, 4.0]}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder: Path = tmp_path_factory.mktemp("overload")
    with oip_world(folder, max_concurrent=ROOM, max_unacknowledged=1 << 20) as found:
        yield found


class Asker:
    """Asks for a model over one connection, time after time, from `host`. `answers`: how often each code
    came."""

    def __init__(self, world: World, host: str = "127.0.0.1", model: str = "paid") -> None:
        self._url = f"http://{world.http}/v2/models/{model}/infer"
        self._client = httpx.Client(timeout=20, transport=httpx.HTTPTransport(local_address=host))
        self.answers: Counter[str] = Counter()

    def close(self) -> None:
        self._client.close()

    def ask(self, voucher: dict[str, Any]) -> bool:
        """Whether it was answered; else it was refused as SPEC.md §7 says."""
        answer = self._client.post(self._url, json={"inputs": [X], "parameters": voucher})
        code = "" if answer.status_code == 200 else str(answer.json()["code"])
        self.answers[code] += 1
        if answer.status_code == 503:
            assert int(answer.headers["retry-after"]) >= 1
        return answer.status_code == 200


@contextmanager
def flooding(askers: list[Asker], vouchers: list[Iterator[dict[str, Any]]]) -> Iterator[None]:
    """Each asks without a pause, a refused voucher again, until the block ends."""
    stopped = threading.Event()

    def flood(asker: Asker, left: Iterator[dict[str, Any]]) -> None:
        for voucher in left:
            while not stopped.is_set() and not asker.ask(voucher):
                pass
            if stopped.is_set():
                return

    threads = [
        threading.Thread(target=flood, args=pair, daemon=True) for pair in zip(askers, vouchers, strict=True)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopped.set()
        for thread, asker in zip(threads, askers, strict=True):
            thread.join(30)
            asker.close()


def paying(world: World, consumer: Consumer, first: int, step: int) -> Iterator[dict[str, Any]]:
    """Every `step`-th voucher of a consumer, signed as it is asked for."""
    number = first
    while True:
        yield world.voucher(consumer, PRICE * number, 0)
        number += step


def test_infer__one_consumer_floods__others_are_answered_beside_it(world: World) -> None:
    greedy, modest = world.consumer(10**9), world.consumer(10**6)
    askers = [Asker(world) for _ in range(FLOODERS)]
    vouchers = [paying(world, greedy, FLOODERS * 1000 + 1 + i, FLOODERS) for i in range(FLOODERS)]
    with closing(Asker(world)) as other, flooding(askers, vouchers):
        for number in range(1, 31):
            other.ask(world.voucher(modest, PRICE * number, number - 1))
    every = sum((asker.answers for asker in askers), Counter[str]())
    assert every["busy"] > 0 < every[""], every  # it asked for more than its share, and got that
    assert other.answers == {"": 30}


def test_infer__strangers_name_a_consumer__its_requests_are_answered(world: World) -> None:
    """Vouchers with somebody's name and another's signature take none of its places, and what its own key
    signed is looked at however many of them there are."""
    victim, stranger = world.consumer(10**6), world.consumer()
    forged = world.voucher(victim, PRICE, 0) | {
        "voucher_signature": world.voucher(stranger, PRICE, 0)["voucher_signature"]
    }
    askers = [Asker(world) for _ in range(ROOM)]

    def again() -> Iterator[dict[str, Any]]:
        while True:
            yield forged

    # from the strangers' own host, as behind a proxy
    with closing(Asker(world)) as other, flooding(askers, [again() for _ in askers]):
        for number in range(1, 31):
            other.ask(world.voucher(victim, PRICE * number, number - 1))
    assert sum(asker.answers["voucher_signature"] for asker in askers) > 0
    assert other.answers == {"": 30}


def test_infer__many_names_that_cost_nothing__are_one_host(world: World) -> None:
    """Where nothing is to be paid anybody may sign by any number of names: they share their host's places."""
    version_id = world.free.version_id
    strangers = [Consumer(world.network, SigningKey.generate()) for _ in range(FLOODERS)]
    vouchers = [one.voucher(world.node.operator, version_id, 0, 0) for one in strangers]
    askers = [Asker(world, model="free") for _ in strangers]

    payer = world.consumer(10**6)
    with (
        closing(Asker(world, "127.0.0.2")) as other,
        flooding(askers, [repeat(voucher) for voucher in vouchers]),
    ):
        for number in range(1, 31):
            other.ask(world.voucher(payer, PRICE * number, number - 1))
    every = sum((asker.answers for asker in askers), Counter[str]())
    assert every["busy"] > 0 < every[""], every
    assert other.answers == {"": 30}
