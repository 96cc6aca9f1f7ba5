"""Fail-over, health and retries over fake transports with a fake clock; no sockets."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
from assay.chain.client import ChainClient
from assay.chain.endpoint import redact_url
from assay.chain.errors import RpcError, RpcUnavailable
from assay.errors import ConfigurationError, ContractRevert, FatalError

URLS = ("https://alice:secret@one.example/v3/key", "https://two.example/v3/key", "https://three.example/")


class Node:
    """A scripted endpoint: `answers[method]` is a result, a callable, or an HTTP status to fail with."""

    def __init__(self, chain_id: int = 1, head: int = 100, **answers: Any) -> None:
        self.answers: dict[str, Any] = {"eth_chainId": hex(chain_id), **answers}
        self.head = head
        self.status = 200
        self.requests: list[str] = []

    def post(self, body: bytes, timeout: float) -> tuple[int, bytes]:
        """As `Transport.post`."""
        payload = json.loads(body)
        if self.status != 200:
            return self.status, b"no"
        items = payload if isinstance(payload, list) else [payload]
        replies = [{"jsonrpc": "2.0", "id": item["id"], **self.reply(item["method"])} for item in items]
        return 200, json.dumps(replies if isinstance(payload, list) else replies[0]).encode()

    def reply(self, method: str) -> dict[str, Any]:
        self.requests.append(method)
        answer = hex(self.head) if method == "eth_blockNumber" else self.answers.get(method, "0x")
        return answer if isinstance(answer, dict) else {"result": answer}


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


Connect = Callable[..., tuple[ChainClient, Clock]]


@pytest.fixture
def connect() -> Connect:
    def build(*nodes: Node, **options: Any) -> tuple[ChainClient, Clock]:
        clock = Clock()
        client = ChainClient(URLS[: len(nodes)], clock=clock, sleep=clock.sleep, **options)
        for endpoint, node in zip(client.endpoints, nodes, strict=True):
            endpoint.http.close()
            endpoint.http = node  # type: ignore[assignment]
        return client, clock

    return build


def test_redact_url__credentials_and_keys__hidden() -> None:
    assert (
        redact_url("https://alice:secret@host.example:8545/v3/key?token=x") == "https://host.example:8545/…"
    )


def test_request__any_failure__never_tells_the_url(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    node = Node()
    node.status = 500
    client, _ = connect(node, attempts=1)
    with caplog.at_level(logging.DEBUG), pytest.raises(RpcUnavailable) as caught:
        client.request("eth_gasPrice")
    told = str(caught.value) + caplog.text
    assert "secret" not in told and "key" not in told and "one.example" in told


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_request__first_endpoint_fails__second_answers(connect: Connect, status: int) -> None:
    bad, good = Node(), Node(eth_gasPrice="0x7")
    bad.status = status
    client, clock = connect(bad, good)
    assert client.request("eth_gasPrice") == "0x7"
    assert clock.slept == []


def test_request__all_fail__bounded_retries_with_growing_waits(connect: Connect) -> None:
    node = Node()
    node.status = 503
    client, clock = connect(node, attempts=4)
    with pytest.raises(RpcUnavailable):
        client.request("eth_gasPrice")
    assert len(clock.slept) == 3
    assert all(0.1 <= wait <= 3.0 for wait in clock.slept)
    assert clock.slept[2] > clock.slept[0]


def test_request__failed_endpoint__rests_then_returns(connect: Connect) -> None:
    first, second = Node(eth_gasPrice="0x1"), Node(eth_gasPrice="0x2")
    client, clock = connect(first, second)
    first.status = 500
    assert client.request("eth_gasPrice") == "0x2"
    first.status = 200
    assert client.request("eth_gasPrice") == "0x2"
    clock.now += 31
    assert client.request("eth_gasPrice") == "0x1"


def test_request__endpoint_lags__avoided_until_it_caught_up(connect: Connect) -> None:
    slow, fresh = Node(head=50, eth_gasPrice="0x1"), Node(head=100, eth_gasPrice="0x2")
    client, clock = connect(slow, fresh)
    assert client.request("eth_gasPrice") == "0x2"
    slow.head = 100
    clock.now += 16
    assert client.request("eth_gasPrice") == "0x1"


def test_block_number__endpoint_goes_back__another_answers(connect: Connect) -> None:
    first, second = Node(head=100), Node(head=100)
    client, _ = connect(first, second)
    assert client.block_number() == 100
    first.head, second.head = 98, 101
    assert client.block_number() == 101


def test_block_number__the_only_endpoint_goes_back__told(connect: Connect) -> None:
    node = Node(head=100)
    client, _ = connect(node)
    assert client.block_number() == 100
    node.head = 97
    assert client.block_number() == 97


def test_chain_id__differs_from_expected__fatal(connect: Connect) -> None:
    client, _ = connect(Node(chain_id=5), chain_id=1)
    with pytest.raises(FatalError, match="chain 5, expected 1"):
        client.block_number()


def test_chain_id__second_endpoint_on_another_chain__fatal(connect: Connect) -> None:
    first, second = Node(chain_id=1), Node(chain_id=5)
    client, _ = connect(first, second)
    client.request("eth_gasPrice")
    first.status = 500
    with pytest.raises(FatalError, match=r"two\.example"):
        client.request("eth_gasPrice")


def test_request__refused__not_retried(connect: Connect) -> None:
    node = Node(eth_nope={"error": {"code": -32601, "message": "Method not found"}})
    client, clock = connect(node)
    with pytest.raises(RpcError):
        client.request("eth_nope")
    assert node.requests.count("eth_nope") == 1 and clock.slept == []


def test_batch__one_reverts__raised_or_in_its_place(connect: Connect) -> None:
    node = Node(eth_gasPrice="0x1", eth_call={"error": {"code": 3, "message": "execution reverted: a: b"}})
    client, _ = connect(node)
    calls: list[tuple[str, list[Any]]] = [("eth_gasPrice", []), ("eth_call", [])]
    with pytest.raises(ContractRevert):
        client.batch(calls)
    first, second = client.batch(calls, return_errors=True)
    assert first == "0x1" and isinstance(second, ContractRevert) and second.reason == "b"


def test_batch__more_than_one_request_holds__in_order(connect: Connect) -> None:
    client, _ = connect(Node(eth_gasPrice="0x1"))
    assert client.batch([("eth_gasPrice", [])] * 250) == ["0x1"] * 250


@pytest.mark.parametrize(
    "body", ["<html>", "[]", '{"jsonrpc": "2.0", "id": 1}', "null", '{"id": 99, "result": 1}']
)
def test_request__malformed_answer__retryable(connect: Connect, body: str) -> None:
    node = Node()
    client, _ = connect(node, chain_id=1, attempts=1)
    client.endpoints[0].is_checked = True
    node.post = lambda *_: (200, body.encode())  # type: ignore[method-assign]
    with pytest.raises(RpcUnavailable):
        client.request("eth_gasPrice")


@pytest.mark.parametrize("status", [401, 403])
def test_request__key_refused__configuration_error(connect: Connect, status: int) -> None:
    node = Node()
    node.status = status
    client, _ = connect(node)
    with pytest.raises(ConfigurationError, match="check the RPC URL's key"):
        client.block_number()


@pytest.mark.parametrize("urls", [[], ["ws://node"], ["localhost:8545"], [""]])
def test_client__no_usable_url__configuration_error(urls: list[str]) -> None:
    with pytest.raises(ConfigurationError):
        ChainClient(urls)
