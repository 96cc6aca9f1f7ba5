"""The node's books agree with the chain to the last unit, whatever goes wrong between the two."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from assay.chain.errors import RpcUnavailable
from assay.node.settlement.batches import BatchState
from assay.node.settlement.settler import Settler

from tests.support.desk import PRICE, Desk
from tests.support.nodes import local_network
from tests.support.onnx_models import linear_manifest, linear_model

WINDOW = 60


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with local_network(tmp_path, dispute_window=WINDOW) as network:
        node = network.add_node()
        made = Desk(network, node, network.publish("linear", linear_model(), linear_manifest()))
        yield made
        made.log.close()


def settle_through_an_outage(settler: Settler, monkeypatch: pytest.MonkeyPatch) -> None:
    """The chain does not answer once the batch is posted; then it does."""

    def away(*_: Any) -> Any:
        raise RpcUnavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(settler._settlement, "channels", away)
        with pytest.raises(RpcUnavailable):
            settler.step(close_all=True)
    settler.step()


def test_post__chain_away_once_it_is_mined__no_debt_is_left_in_the_books(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    consumer = desk.network.add_consumer((desk.node.operator, 100))
    desk.receipt(consumer, PRICE, 0)
    with desk.settler() as settler:
        settle_through_an_outage(settler, monkeypatch)
        assert desk.states() == [BatchState.POSTED]
        assert desk.settled(consumer) == (PRICE, 0)
        assert desk.books().owed == 0
        desk.receipt(None, 0, 0)
        settler.step(close_all=True)
    assert desk.states() == [BatchState.POSTED]  # no batch for a debt that was paid


def test_step__reorg_that_pays_another_amount__is_what_the_books_say(desk: Desk) -> None:
    """The same posting is mined again, on a chain where the escrow holds less."""
    network, operator = desk.network, desk.node.operator
    consumer = network.add_consumer((operator, 3))
    before = network.chain.snapshot()
    consumer.fund(operator, 97)
    desk.receipt(consumer, PRICE, 0)
    with desk.settler() as settler:
        settler.step(close_all=True)
        assert (desk.settled(consumer), desk.books().pending) == ((PRICE, 0), PRICE)
        ((raw,),) = settler._sender.outbox._db.execute("SELECT raw FROM attempts").fetchall()
        network.chain.revert(before)
        network.chain.increase_time(5)
        network.chain.request("eth_sendRawTransaction", "0x" + raw.hex())
        network.chain.mine()
        assert desk.settled(consumer) == (3, 0)
        settler._payout._checked_at.clear()
        settler.step()
        settler.step()
        assert (desk.books().pending, desk.books().owed) == (3, PRICE - 3)
        network.chain.increase_time(WINDOW)
        settler.step()
    found = desk.books()
    assert (found.collected + found.royalty + found.fee, found.voided) == (3, 0)
    assert found.collected == network.token.balance_of(operator)


def test_step__thaw_leaves_too_little_for_two_versions_together__closes_both_at_once(desk: Desk) -> None:
    """What stays would pay either of them, but not both."""
    network, operator = desk.network, desk.node.operator
    consumer = network.add_consumer((operator, 2 * PRICE))
    desk.receipt(consumer, PRICE, 0)
    desk.published = network.publish("linear", linear_model(), linear_manifest())
    desk.receipt(consumer, PRICE, 0)
    with desk.settler(max_age_seconds=10**9) as settler:
        settler.step()
        assert desk.states() == []
        network.chain.set_balance(consumer.address, 10**18)
        network.chain.request("anvil_impersonateAccount", consumer.address)
        network.send_as(consumer.address, network.settlement.begin_thaw(operator, PRICE - 2))
        settler.step()
    assert desk.states() == [BatchState.POSTED] * 2
    assert network.settlement.escrow(consumer.address, operator).balance == 0
