"""How often a node asks its chain, for what, and that asking less hides nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from assay.commitments.signing import SigningKey
from assay.node.models.offers import OfferScan
from assay.node.payments.chain_ledger import ChainLedger
from assay.node.payments.follower import Follower
from assay.node.receipts.database import SqliteDatabase
from assay.node.receipts.log import ReceiptLog

from tests.support.chain_requests import chain_requests
from tests.support.nodes import Network, NodeUnderTest, local_network
from tests.support.onnx_models import linear_manifest, linear_model

CONSUMERS = 30


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    with local_network(tmp_path) as made:
        yield made


@pytest.fixture
def node(network: Network) -> NodeUnderTest:
    return network.add_node()


def ledger_of(network: Network, node: NodeUnderTest) -> ChainLedger:
    return ChainLedger(network.client, network.deployment, node.operator)


def test_poll__consumers_in_use__header_view_and_accounts(
    network: Network, node: NodeUnderTest, tmp_path: Path
) -> None:
    published = network.publish("linear", linear_model(), linear_manifest())
    node.offer(published, 5)
    log = ReceiptLog(SqliteDatabase(tmp_path / "log.sqlite3"), network.domain, node.operator)
    follower = Follower(
        ledger_of(network, node), log, lambda: [published.version_id], poll_seconds=2, max_age_seconds=4
    )
    consumers = [SigningKey.generate().address for _ in range(CONSUMERS)]

    async def scenario() -> list[tuple[str, ...]]:
        await follower.poll()
        for consumer in consumers:
            account = follower.account(consumer)
            follower.channel(account, published.version_id)
            await follower.refresh(account)
        network.mint(consumers[0], 1)
        with chain_requests() as seen:
            await follower.poll()
        assert follower.view.block == network.client.block_number()
        return seen

    header, view, accounts = asyncio.run(scenario())
    assert header == ("eth_getBlockByNumber",)
    assert set(view[:-1]) == {"eth_call"} and view[-1] == "eth_getBalance"
    assert accounts == ("eth_call",) * 2 * CONSUMERS
    assert follower.view.signer_wei == network.client.get_balance(node.signer.address) > 0
    log.close()


def test_node_view__signer_replaced__has_the_new_one_s_balance(network: Network, node: NodeUnderTest) -> None:
    ledger = ledger_of(network, node)
    assert ledger.node_view([]).signer_wei == 10**18
    fresh = SigningKey.generate().address
    network.chain.set_balance(fresh, 77)
    network.send_as(node.operator, network.nodes.rotate_signer(fresh))
    view = ledger.node_view([])
    assert (view.signer, view.signer_wei) == (fresh, 77)


def test_account_views__block_given__are_as_of_it(network: Network, node: NodeUnderTest) -> None:
    consumer = network.add_consumer((node.operator, 10))
    before = network.client.block_number()
    consumer.fund(node.operator, 5)
    ledger = ledger_of(network, node)
    with chain_requests() as seen:
        views = [ledger.account_views({consumer.address: []}, block) for block in (before, None)]
    assert [view[consumer.address].escrow.balance for view in views] == [10, 15]
    assert seen == [("eth_call",), ("eth_blockNumber",), ("eth_call",)]


def test_find__no_new_block__asks_for_the_head_alone(network: Network, node: NodeUnderTest) -> None:
    scan = OfferScan(ledger_of(network, node))
    assert scan.find() == []
    with chain_requests() as seen:
        assert scan.find() == []
    assert seen == [("eth_blockNumber",)]
    published = network.publish("linear", linear_model(), linear_manifest())
    node.offer(published, 5)
    assert [record.served.version_id for record in scan.find()] == [published.version_id]
