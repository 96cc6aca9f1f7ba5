"""The node's books agree with the chain to the last unit, whatever goes wrong between the two."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from assay.chain.errors import RpcUnavailable
from assay.chain.views import Batch as BatchView
from assay.node.settlement import payout
from assay.node.settlement.payout import REORG_SECONDS
from assay.node.settlement.settler import Settler
from assay.node.settlement.values import BatchState

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


@pytest.mark.parametrize("is_same_time", [False, True])
def test_step__reorg_that_pays_another_amount__is_what_the_books_say(desk: Desk, is_same_time: bool) -> None:
    """The same posting is mined again, on a chain where the escrow holds less; where blocks come at fixed
    times, maybe at the same one."""
    network, operator = desk.network, desk.node.operator
    consumer = network.add_consumer((operator, 3))
    before = network.chain.snapshot()
    consumer.fund(operator, 97)
    desk.receipt(consumer, PRICE, 0)
    with desk.settler() as settler:
        settler.step(close_all=True)
        assert (desk.settled(consumer), desk.books().pending) == ((PRICE, 0), PRICE)
        ((raw,),) = settler._sender.outbox._db.execute("SELECT raw FROM attempts").fetchall()
        (batch,) = settler._store.in_state(BatchState.POSTED)
        network.chain.revert(before)
        if is_same_time:
            network.chain.request("evm_setNextBlockTimestamp", batch.posted_at)
        else:
            network.chain.increase_time(5)
        network.chain.request("eth_sendRawTransaction", "0x" + raw.hex())
        network.chain.mine()
        assert desk.settled(consumer) == (3, 0)
        moved_to = network.settlement.batch(batch.batch_id).posted_at
        assert (moved_to == batch.posted_at) == is_same_time
        settler._payout._checked_at.clear()
        settler.step()
        settler.step()
        assert (desk.books().pending, desk.books().owed) == (3, PRICE - 3)
        network.chain.increase_time(WINDOW)
        settler.step()
    found = desk.books()
    assert (found.collected + found.royalty + found.fee, found.voided) == (3, 0)
    assert found.collected == network.token.balance_of(operator)


@pytest.mark.parametrize(("is_disputed", "later", "is_moved"), [(0, 0, 1), (1, 0, 0), (0, REORG_SECONDS, 0)])
def test_step__amount_falls__is_a_reorg_s_doing_unless_there_was_or_may_have_been_a_dispute(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, is_disputed: int, later: int, is_moved: int
) -> None:
    """What a lost one gives back must be told as that; maybe it was lost while the node was down."""
    monkeypatch.setattr(payout, "collect_pays", lambda *_: False)
    network = desk.network
    for _ in range(2):
        desk.receipt(network.add_consumer((desk.node.operator, 100)), PRICE, 0)
    with desk.settler() as settler:
        settler.step(close_all=True)
        seen = settler._settlement.batches

        def less(*arguments: Any) -> list[BatchView]:
            return [replace(view, amount=view.amount - PRICE) for view in seen(*arguments)]

        if is_disputed:
            with closing(desk.log.database.connect()) as db:
                db.execute(
                    "INSERT INTO disputes (dispute_id, digest, opened_block, phase, deadline, is_ours)"
                    " SELECT 1, digest, 1, 1, 1, 1 FROM receipts ORDER BY id LIMIT 1"
                )
        monkeypatch.setattr(settler._settlement, "batches", less)
        settler._payout._checked_at.clear()
        network.chain.increase_time(later)
        settler._payout.collect_final()
        assert desk.states() == [BatchState.CLOSED if is_moved else BatchState.POSTED]
        monkeypatch.undo()
        settler.step()
    assert (desk.states(), desk.books().pending) == ([BatchState.POSTED], 2 * PRICE)


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
