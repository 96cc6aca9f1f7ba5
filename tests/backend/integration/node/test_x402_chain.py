"""x402 where the chain takes blocks back, and where several processes of a node share one log."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from assay.node.config import LogConfig

from tests.support.nodes import NodeUnderTest
from tests.support.postgresql import Cluster
from tests.support.replicas import add_process
from tests.support.shop import PRICE, Shop, decoded, receipt_of, running_shop

pytestmark = pytest.mark.network
CONFIRMATIONS = 3


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("x402_chain")
    with running_shop(folder, confirmations=CONFIRMATIONS, settle_seconds=3.0) as running:
        yield running


@contextlib.contextmanager
def mining(shop: Shop) -> Iterator[None]:
    """A block now and then, as chains have them."""
    ended = threading.Event()

    def mine() -> None:
        while not ended.wait(0.3):
            shop.network.chain.mine()

    thread = threading.Thread(target=mine)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def buy_until_sold(shop: Shop, header: dict[str, str], seconds: float = 60) -> httpx.Response:
    """The same request again while its payment is on its way."""
    deadline = time.monotonic() + seconds
    while True:
        answer = shop.buy(header)
        if answer.status_code != 503:
            return answer
        assert answer.json()["code"] in ("payment_pending", "payment_unavailable"), answer.text
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.2)


def test_infer__payment_not_deep_enough__is_pending_until_it_is(shop: Shop) -> None:
    key, before = shop.payer(), shop.income
    header = shop.header(key)
    early = shop.buy(header)
    assert (early.status_code, early.json()["code"]) == (503, "payment_pending"), early.text
    assert "deep" in early.json()["error"]
    assert shop.income == before + PRICE
    shop.network.chain.mine(CONFIRMATIONS)
    assert receipt_of(shop.buy(header))["consumer"] == key.address
    assert shop.income == before + PRICE


@pytest.mark.parametrize("is_waited_for", [True, False])
def test_infer__reorg_takes_the_transfer_back__is_settled_again_and_sold_once(
    shop: Shop, is_waited_for: bool
) -> None:
    """While the node waits for depth, and between two requests."""
    key, before = shop.payer(), shop.income
    header, chain = shop.header(key), shop.network.chain
    height = chain.block_number()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(shop.buy, header)
        deadline = time.monotonic() + 20
        while shop.income == before and time.monotonic() < deadline:
            time.sleep(0.02)
        assert shop.income == before + PRICE
        if not is_waited_for:
            first.result()
        chain.reorg(chain.block_number() - height)
        assert shop.income == before
        early = first.result()
    assert (early.status_code, early.json()["code"]) == (503, "payment_pending"), early.text

    with mining(shop):
        sold = receipt_of(buy_until_sold(shop, header))
        again = shop.buy(header)
    assert sold == receipt_of(again)
    assert sold["sequence"] == 1
    assert shop.income == before + PRICE


def test_infer__reorg_in_which_the_payer_takes_it_back__sells_nothing(shop: Shop) -> None:
    key, before = shop.payer(), shop.income
    header = shop.header(key)
    with ThreadPoolExecutor(1) as pool, shop.blocks_held():
        first = pool.submit(shop.buy, header)
        time.sleep(0.5)
        shop.cancel_first(key)
        early = first.result()
    assert early.status_code in (402, 503), early.text
    with mining(shop):
        answer = buy_until_sold(shop, header)
    assert (answer.status_code, answer.json()["code"]) == (402, "payment_invalid"), answer.text
    assert shop.income == before


# --- several processes -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def processes(
    tmp_path_factory: pytest.TempPathFactory, postgresql: Cluster
) -> Iterator[tuple[Shop, list[NodeUnderTest]]]:
    """Two of one node, on one log."""
    url = postgresql.new_database()
    with running_shop(tmp_path_factory.mktemp("x402_shared"), log=LogConfig(url=url)) as shop:
        second = add_process(shop.node, 2)
        second.start(60)
        try:
            replace_node(shop, second).wait_until_sold()
            yield shop, [shop.node, second]
        finally:
            second.stop()
    postgresql.drop_database(url)


def replace_node(shop: Shop, node: NodeUnderTest) -> Shop:
    """The shop's door at another process."""
    return Shop(shop.network, node, shop.published, shop.facilitator)


def ask_all(shops: list[Shop], headers: list[dict[str, str]]) -> list[httpx.Response]:
    """Every header at every process, all at once."""

    async def ask() -> list[httpx.Response]:
        async with httpx.AsyncClient(timeout=60) as client:
            pairs = itertools.product(shops, headers)
            sending = [client.post(one.url, json=one.body(), headers=header) for one, header in pairs]
            return await asyncio.gather(*sending)

    return asyncio.run(ask())


def test_infer__one_payment_at_two_processes_at_once__buys_one_receipt(
    processes: tuple[Shop, list[NodeUnderTest]],
) -> None:
    shop, nodes = processes
    doors = [replace_node(shop, node) for node in nodes]
    for round_ in range(6):
        key, before = shop.payer(), shop.income
        header = shop.header(key)
        answers = ask_all(doors, [header] * (1 + round_ % 3))
        assert {answer.status_code for answer in answers} <= {200, 503}, [a.text for a in answers]
        sold = [receipt_of(buy_until_sold(door, header)) for door in doors]
        assert sold[0] == sold[1]
        assert all(receipt_of(answer) == sold[0] for answer in answers if answer.status_code == 200)
        payments = [json.loads(door.buy(header).json()["parameters"]["payment"]) for door in doors]
        assert payments[0] == payments[1]
        assert sold[0]["sequence"] == 1
        assert shop.income == before + PRICE


def test_infer__two_payments_of_one_identifier_at_two_processes_at_once__one_is_settled(
    processes: tuple[Shop, list[NodeUnderTest]],
) -> None:
    shop, nodes = processes
    doors = [replace_node(shop, node) for node in nodes]
    identifier = "pay_7d5d747be160e280504c099d984bcfe0"
    for _ in range(6):
        key, before = shop.payer(), shop.income
        headers = [shop.header(key, nonce=nonce, identifier=identifier) for nonce in (1, 2)]
        with ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(Shop.buy, doors, headers))
        assert {answer.status_code for answer in answers} <= {200, 503}, [a.text for a in answers]
        sold = [receipt_of(buy_until_sold(door, headers[n])) for n, door in enumerate(doors)]
        assert sold[0] == sold[1]
        assert shop.income == before + PRICE


def test_infer__process_killed_while_it_settles__the_other_gives_the_receipt(
    processes: tuple[Shop, list[NodeUnderTest]],
) -> None:
    shop, nodes = processes
    key, before = shop.payer(), shop.income
    header = shop.header(key)
    with shop.blocks_held():
        waiting = shop.buy(header)
        assert waiting.json()["code"] == "payment_pending", waiting.text
        nodes[0].kill()
    try:
        other = replace_node(shop, nodes[1])
        sold = receipt_of(buy_until_sold(other, header))
    finally:
        nodes[0].start(60)
    assert sold["consumer"] == key.address
    replace_node(shop, nodes[0]).wait_until_sold()
    again = buy_until_sold(shop, header)
    assert receipt_of(again) == sold
    assert decoded(again.headers["payment-response"])["payer"] == key.address
    assert shop.income == before + PRICE


def test_infer__database_restarts_while_payments_come__each_is_sold_once(
    processes: tuple[Shop, list[NodeUnderTest]], postgresql: Cluster
) -> None:
    shop, nodes = processes
    doors = [replace_node(shop, node) for node in nodes]
    key, before = shop.payer(), shop.income
    headers = [shop.header(key, nonce=nonce) for nonce in range(1, 5)]
    with ThreadPoolExecutor(len(headers)) as pool:
        sending = [pool.submit(door.buy, header) for door, header in zip(doors * 2, headers, strict=True)]
        postgresql.crash()
        postgresql.start()
        for one in sending:
            one.result()
    deadline = time.monotonic() + 60
    sold = []
    for header in headers:
        while (answer := doors[1].buy(header)).status_code != 200:
            assert time.monotonic() < deadline, answer.text
            time.sleep(0.2)
        sold.append(receipt_of(answer))
    assert sorted(one["sequence"] for one in sold) == [1, 2, 3, 4]
    assert shop.income == before + 4 * PRICE
