"""The client in front of a real chain through a proxy that misbehaves."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from assay.chain.client import ChainClient
from assay.chain.errors import BlockUnavailable, RpcUnavailable
from assay.chain.outbox import Outbox
from assay.chain.sender import Sender

from tests.backend.integration.chain.conftest import World
from tests.support.fault_proxy import Fault, FaultProxy, fault_proxy


@pytest.fixture
def proxy(world: World) -> Iterator[FaultProxy]:
    with fault_proxy(world.chain.url) as proxy:
        yield proxy


@pytest.mark.parametrize("fault", [Fault.RATE_LIMIT, Fault.SERVER_ERROR, Fault.DROP, Fault.MALFORMED])
def test_request__transient_fault__retried(world: World, proxy: FaultProxy, fault: Fault) -> None:
    with ChainClient(proxy.url) as client:
        proxy.inject(fault, "eth_blockNumber", times=2)
        assert client.block_number() == world.chain.block_number()
        assert proxy.seen.count("eth_blockNumber") == 3


def test_request__lasting_fault__bounded(world: World, proxy: FaultProxy) -> None:
    with ChainClient(proxy.url, attempts=2) as client:
        proxy.inject(Fault.RATE_LIMIT, times=None)
        with pytest.raises(RpcUnavailable):
            client.block_number()
        assert len(proxy.seen) == 2


def test_request__slow_answer__times_out_and_other_url_answers(world: World, proxy: FaultProxy) -> None:
    with ChainClient([proxy.url, world.chain.url], timeout=0.2) as client:
        assert client.chain_id == world.chain.chain_id
        proxy.inject(Fault.LATENCY, times=None, seconds=0.6)
        begun = time.monotonic()
        assert client.block_number() == world.chain.block_number()
        assert time.monotonic() - begun < 3


def test_request__stale_endpoint_first__fresh_one_answers(world: World, proxy: FaultProxy) -> None:
    world.chain.mine(20)
    proxy.inject(Fault.STALE_HEAD, times=None, blocks=15)
    with ChainClient([proxy.url, world.chain.url]) as client:
        assert client.block_number() == world.chain.block_number()
        assert client.get_block().number == world.chain.block_number()


def test_get_logs__endpoint_has_not_the_block__retryable_not_empty(world: World) -> None:
    ahead = world.chain.block_number() + 5
    with ChainClient(world.chain.url, attempts=1) as client, pytest.raises(BlockUnavailable):
        client.get_logs(0, ahead, [world.deployment.address("Token")])


def test_send__answer_lost_after_forward__sent_once(world: World, proxy: FaultProxy, tmp_path: Path) -> None:
    key = world.keys[6]
    with (
        ChainClient(proxy.url) as client,
        Outbox(tmp_path / "o.sqlite3") as outbox,
        Sender(client, key, outbox) as sender,
    ):
        proxy.inject(Fault.DROP_AFTER_FORWARD, "eth_sendRawTransaction", times=3)
        sender.send(world.token.mint(key.address, 5), key="mint")
    assert world.token.balance_of(key.address) == 5


def test_send__endpoint_away_while_waiting__goes_on(world: World, proxy: FaultProxy, tmp_path: Path) -> None:
    key = world.keys[6]
    with (
        ChainClient(proxy.url, attempts=1) as client,
        Outbox(tmp_path / "o.sqlite3") as outbox,
        Sender(client, key, outbox) as sender,
    ):
        proxy.inject(Fault.SERVER_ERROR, "eth_getTransactionReceipt", times=3)
        sender.send(world.token.mint(key.address, 5), key="mint")
    assert world.token.balance_of(key.address) == 5
