"""Payments by x402 at once: who fills a host's or a payer's places leaves those of others."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, closing, contextmanager
from itertools import islice

import httpx
import pytest
from assay.commitments.signing import SigningKey

from tests.support.shop import PRICE, Shop, receipt_of, running_shop

pytestmark = pytest.mark.network
LIMIT = 4
FLOODERS = 8


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with running_shop(
        tmp_path_factory.mktemp("x402_places"), max_waiting=LIMIT, verify_seconds=8.0
    ) as running:
        yield running


def client_from(host: str) -> httpx.Client:
    return httpx.Client(timeout=60, transport=httpx.HTTPTransport(local_address=host))


@contextmanager
def flooded(shop: Shop) -> Iterator[Counter[str]]:
    """From one host, payments of ever new keys, which are rightly signed and have nothing to pay with. Gives
    how often each code came."""
    stopped, codes = threading.Event(), Counter[str]()

    def flood() -> None:
        with closing(client_from("127.0.0.1")) as client:
            while not stopped.is_set():
                header = shop.header(SigningKey.generate())
                answer = client.post(shop.url, json=shop.body(), headers=header)
                codes[answer.json().get("code", "")] += 1

    with ThreadPoolExecutor(FLOODERS) as pool:
        floods = [pool.submit(flood) for _ in range(FLOODERS)]
        try:
            yield codes
        finally:
            stopped.set()
    for one in floods:
        one.result()


def test_infer__one_host_floods_by_keys_without_money__others_are_sold_to(shop: Shop) -> None:
    key, before = shop.payer(), shop.income
    paid = shop.header(key, nonce=100)
    bought = receipt_of(shop.buy(paid))
    with flooded(shop) as codes, closing(client_from("127.0.0.2")) as other:
        for nonce in range(5):
            receipt_of(other.post(shop.url, json=shop.body(), headers=shop.header(key, nonce=nonce)))
        for _ in range(5):  # what was paid, at the host that floods
            assert receipt_of(shop.buy(paid)) == bought
    assert codes["payment_invalid"] > 0 < codes["busy"], codes
    assert not codes[""]
    receipt_of(shop.buy(shop.header(shop.payer())))
    assert shop.income == before + 7 * PRICE


def test_infer__one_payer_waits_for_the_chain__others_are_taken(shop: Shop) -> None:
    greedy, modest, before = shop.payer(), shop.payer(), shop.income
    headers = [shop.header(greedy, nonce=nonce) for nonce in range(LIMIT + 2)]
    with ExitStack() as stack:
        stack.enter_context(shop.blocks_held())
        client = stack.enter_context(closing(client_from("127.0.0.1")))
        other = stack.enter_context(closing(client_from("127.0.0.2")))
        pool = stack.enter_context(ThreadPoolExecutor(len(headers)))
        asked = [pool.submit(client.post, shop.url, json=shop.body(), headers=header) for header in headers]
        early = islice(as_completed(asked, timeout=60), len(headers) - LIMIT // 2)
        assert {one.result().json()["code"] for one in early} == {"busy"}
        # while the payer's other two wait for a block, or are being verified
        answer = other.post(shop.url, json=shop.body(), headers=shop.header(modest))
        assert (answer.status_code, answer.json()["code"]) == (503, "payment_pending"), answer.text
    receipt_of(shop.buy(shop.header(modest)))
    digests = {receipt_of(shop.buy(header))["digest"] for header in headers}
    assert len(digests) == len(headers)
    assert shop.income == before + (1 + len(headers)) * PRICE
