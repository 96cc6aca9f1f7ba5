"""The settler on a real chain: vouchers paid once, rows skipped, reorgs, and `kill -9` at every named
boundary."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from assay.chain.abi import ContractAbi
from assay.commitments.receipts import voucher_digest
from assay.commitments.signing import SigningKey
from assay.node.config import SettlementConfig
from assay.node.errors import OperatorOnly
from assay.node.http.messages import Request
from assay.node.operator_token import load_token
from assay.node.payments.chain_ledger import ChainLedger
from assay.node.receipts.entries import Acknowledge, HeldVoucher, Issue
from assay.node.receipts.retention import Retention
from assay.node.receipts.unbatched import count_open
from assay.node.settlement.batches import BatchStore
from assay.node.settlement.money import ProfitRoute, outbox_file
from assay.node.settlement.payout import CREDIT_SECONDS, REORG_BLOCKS
from assay.node.settlement.profit import VersionProfit, read_profit
from assay.node.settlement.settler import Settler
from assay.node.settlement.spending import Kind, totals
from assay.node.settlement.values import BatchState
from assay.node.settlement.worth import POST_BASE, Rows, SettlerRules
from assay.types import ZERO_ADDRESS, Hash32, SkipReason, Voucher

from tests.support.chain_requests import chain_requests
from tests.support.deploy import deploy_contract, send_unlocked
from tests.support.desk import PRICE, Desk
from tests.support.forking import run_forked
from tests.support.nodes import ASSAY, STAKE, Consumer, local_network
from tests.support.onnx_models import linear_manifest, linear_model
from tests.support.settle_once import open_settler, settle_once

WINDOW = 60
BOUNDARIES = ("hashed", "closed", "post_sent", "posted", "collect_sent", "collected", "claim_sent")
SENDER_STEPS = ("persisted", "broadcast")


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with local_network(tmp_path, dispute_window=WINDOW) as network:
        node = network.add_node()
        published = network.publish("linear", linear_model(), linear_manifest())
        made = Desk(network, node, published)
        yield made
        made.log.close()


def test_step__paid_receipts__are_posted_collected_and_claimed(desk: Desk) -> None:
    consumer = desk.network.add_consumer((desk.node.operator, 100))
    for n in range(3):
        desk.receipt(consumer, (n + 1) * PRICE, n)
    desk.acknowledge(consumer, 3 * PRICE, 3)
    with desk.settler() as settler:
        settler.step(close_all=True)
        assert desk.states() == [BatchState.POSTED]
        assert desk.settled(consumer) == (3 * PRICE, 3)
        settler.step(close_all=True)
        assert desk.states() == [BatchState.POSTED]
        desk.network.chain.increase_time(WINDOW)
        settler.step()
    assert desk.states() == [BatchState.COLLECTED]
    assert desk.network.settlement.claimable(desk.node.operator) == 0
    assert desk.network.token.balance_of(desk.node.operator) == 15 - 1 - 1  # fee rounded up, royalty down
    assert desk.network.settlement.settled_count(desk.published.version_id) == 3


def test_step__nothing_changes__asks_the_chain_for_its_head_alone(desk: Desk) -> None:
    consumer = desk.network.add_consumer((desk.node.operator, 100))
    desk.receipt(consumer, PRICE, 0)
    with desk.settler() as settler:
        settler.step(close_all=True)
        desk.receipt(consumer, 2 * PRICE, 1)
        settler.step()
        assert desk.states() == [BatchState.POSTED]  # another is open, and waits
        with chain_requests() as seen:
            settler.step()
            assert seen == [("eth_getBlockByNumber",)]
            consumer.fund(desk.node.operator, 1)
            seen.clear()
            settler.step()
            assert seen == [  # which events there were, and the escrow that they say has changed
                ("eth_getBlockByNumber",),
                ("eth_getLogs", "eth_getBlockByNumber"),
                ("eth_call",),
            ]


def test_claim__credited_by_another_hand__is_noticed_within_a_while(desk: Desk) -> None:
    consumer = desk.network.add_consumer((desk.node.operator, 100))
    desk.receipt(consumer, PRICE, 0)
    now = 0.0
    with desk.settler() as settler:
        settler._payout._clock = lambda: now
        settler.step(close_all=True)
        (batch,) = settler._store.in_state(BatchState.POSTED)
        desk.network.chain.increase_time(WINDOW)
        desk.network.send(desk.network.settlement.collect([batch.key]))
        settler._payout.claim()
        assert desk.network.settlement.claimable(desk.node.operator) > 0
        now += CREDIT_SECONDS
        settler._payout.claim()
    assert desk.network.settlement.claimable(desk.node.operator) == 0


def test_step__escrow_ran_dry__pays_the_rest_with_a_later_batch(desk: Desk) -> None:
    consumer = desk.network.add_consumer((desk.node.operator, 3))
    desk.receipt(consumer, PRICE, 0)
    with desk.settler() as settler:
        settler.step(close_all=True)
        assert desk.settled(consumer) == (3, 0)
        desk.receipt(consumer, 2 * PRICE, 1)
        settler.step(close_all=True)
        assert desk.settled(consumer) == (3, 0)
        consumer.fund(desk.node.operator, 100)
        other = desk.network.add_consumer((desk.node.operator, 100))
        desk.receipt(other, PRICE, 0)
        settler.step(close_all=True)
    assert desk.settled(consumer) == (2 * PRICE, 1)
    assert desk.settled(other) == (PRICE, 0)


def test_step__voucher_that_the_contract_skips__is_noted_and_the_rest_paid(desk: Desk) -> None:
    good = desk.network.add_consumer((desk.node.operator, 100))
    bad = desk.network.add_consumer((desk.node.operator, 100))
    desk.receipt(good, PRICE, 0)
    desk.receipt(bad, PRICE, 0)
    forged = HeldVoucher(2 * PRICE, 0, good.key.sign(b"\x01" * 32))
    desk.log.write([Acknowledge(desk.key(bad.address), forged)], desk.node.signer)
    with desk.settler() as settler:
        settler.step(close_all=True)
    assert desk.settled(good) == (PRICE, 0)
    assert desk.settled(bad) == (0, 0)
    store = BatchStore(desk.log.database, desk.node.operator)
    reasons = store._db.execute("SELECT skip_reason FROM batch_vouchers ORDER BY position").fetchall()
    store.close()
    assert sorted(reason or 0 for (reason,) in reasons) == [0, SkipReason.BAD_SIGNATURE]


def test_step__wallets_that_turn_after_the_estimate__stop_nobody_and_are_not_asked_again(desk: Desk) -> None:
    """They accept while gas is estimated and burn all they get when the batch is mined."""
    network, chain = desk.network, desk.network.client
    payer = network.chain.accounts[0]
    good = network.add_consumer((desk.node.operator, 100))
    desk.receipt(good, PRICE, 0)
    wallets = []
    for _ in range(4):
        owner = SigningKey.generate()
        address, artifact, _ = deploy_contract(chain, "mocks/MockWallet.vy", owner.address, deployer=payer)
        network.mint(payer, 100)
        network.send(network.token.approve(network.settlement.address, 100))
        network.send(network.settlement.fund(address, desk.node.operator, 100))
        voucher = Voucher(address, desk.node.operator, desk.published.version_id, PRICE, 0)
        signature = owner.sign(voucher_digest(network.domain, voucher))
        held = HeldVoucher(PRICE, 0, signature, wallet=True)
        unique = Hash32(len(wallets).to_bytes(32, "little"))
        desk.log.write([Issue(desk.key(address), unique, unique, PRICE, held, unique)], desk.node.signer)
        wallets.append((address, ContractAbi(artifact.abi)))

    def turn(step: str) -> None:
        if step == "send:persisted":
            for address, abi in wallets:
                send_unlocked(chain, payer, address, abi.encode_call("set_behaviour", (3,)))

    with open_settler(
        network.chain.url,
        network.deployments,
        desk.node.folder,
        desk.node.operator,
        desk.node.signer,
        SettlerRules(),
        turn,
    ) as settler:
        settler.step(close_all=True)
        assert desk.states() == [BatchState.POSTED]
        assert desk.settled(good) == (PRICE, 0)
        desk.receipt(good, 2 * PRICE, 1)
        settler.step(close_all=True)
    assert desk.settled(good) == (2 * PRICE, 1)
    store = BatchStore(desk.log.database, desk.node.operator)
    rows = store._db.execute("SELECT batch, skip_reason FROM batch_vouchers ORDER BY batch").fetchall()
    store.close()
    assert sorted(rows, key=str) == [*[(1, SkipReason.BAD_SIGNATURE)] * 4, (1, None), (2, None)]
    assert all(desk.log.has_taken_back(address) for address, _ in wallets)
    assert not desk.log.has_taken_back(good.address)


def test_step__unpaid_receipts__are_posted_only_if_asked(desk: Desk) -> None:
    desk.receipt(None, 0, 0)
    with desk.settler() as settler:
        settler.step(close_all=True)
    assert desk.states() == []
    with desk.settler(free_receipts=True) as settler:
        settler.step(close_all=True)
    assert desk.states() == [BatchState.POSTED]


def test_step__more_receipts_than_a_batch_takes__makes_several(desk: Desk) -> None:
    consumer = desk.network.add_consumer((desk.node.operator, 100))
    for n in range(5):
        desk.receipt(consumer, (n + 1) * PRICE, n)
    with desk.settler(max_receipts=2) as settler:
        for _ in range(4):
            settler.step(close_all=True)
    assert desk.states() == [BatchState.POSTED] * 3
    assert desk.settled(consumer) == (5 * PRICE, 4)


def test_step__posting_undone_by_a_reorg__is_posted_again_once(desk: Desk) -> None:
    consumer = desk.network.add_consumer((desk.node.operator, 100))
    desk.receipt(consumer, PRICE, 0)
    with desk.settler() as settler:
        settler.step(close_all=True)
        desk.network.chain.reorg(1)
        assert desk.settled(consumer) == (0, 0)
        settler._payout._checked_at.clear()
        settler.step()
        settler.step()
    assert desk.settled(consumer) == (PRICE, 0)
    assert desk.states() == [BatchState.POSTED]
    assert posted_events(desk) == 1


def collected_desk(desk: Desk, settler: Settler, batches: int = 1) -> list[Consumer]:
    """So many batches posted, collected together and claimed."""
    consumers = []
    for _ in range(batches):
        consumers.append(desk.network.add_consumer((desk.node.operator, 100)))
        desk.receipt(consumers[-1], PRICE, 0)
        settler.step(close_all=True)
    desk.network.chain.increase_time(WINDOW)
    settler.step()
    assert desk.states() == [BatchState.COLLECTED] * batches
    return consumers


def look_again(desk: Desk, settler: Settler) -> None:
    """Once what was collected is deep enough."""
    desk.network.chain.mine(REORG_BLOCKS)
    settler._payout._looked_at = 0.0
    settler.step()


def spent(desk: Desk) -> dict[str, int]:
    """Transactions by kind, as the books have them."""
    with closing(desk.log.database.connect()) as connection:
        return {kind: total.transactions for kind, total in totals(connection).items()}


def test_step__collecting_undone_by_a_reorg__is_collected_again_once(desk: Desk) -> None:
    network, operator = desk.network, desk.node.operator
    with desk.settler() as settler:
        collected_desk(desk, settler)
        assert network.token.balance_of(operator) == 4
        before = books(desk)
        network.chain.reorg(2)  # collecting and claiming
        assert network.token.balance_of(operator) == 0
        settler.step()
        assert desk.states() == [BatchState.COLLECTED]  # a pool may bring it back
        look_again(desk, settler)
        assert desk.states() == [BatchState.COLLECTED]
        settler.step()
        assert network.token.balance_of(operator) == 4
        assert spent(desk) == {"post": 1, "collect": 1, "claim": 1}
        after = books(desk)
        assert (after.collected, after.royalty, after.fee) == (before.collected, before.royalty, before.fee)
        look_again(desk, settler)
        with chain_requests() as seen:
            look_again(desk, settler)
        assert seen == []  # it is known for good


def test_step__collected_and_not_deep_yet__asks_for_the_head_now_and_then(desk: Desk) -> None:
    with desk.settler() as settler:
        collected_desk(desk, settler)
        with chain_requests() as seen:
            for _ in range(3):
                settler.step()
            assert seen == []
            settler._payout._looked_at = 0.0
            for _ in range(3):
                settler.step()
            assert seen == [("eth_getBlockByNumber",)]
            desk.network.chain.mine(REORG_BLOCKS)
            seen.clear()
            settler._payout._looked_at = 0.0
            for _ in range(3):
                settler.step()
            assert seen == [("eth_getBlockByNumber",), ("eth_call",)]


def books(desk: Desk) -> VersionProfit:
    with closing(desk.log.database.connect()) as connection:
        return read_profit(connection, 0, {})[0]


def test_step__collecting_by_another_hand_undone_by_a_reorg__is_collected(desk: Desk) -> None:
    network = desk.network
    consumer = network.add_consumer((desk.node.operator, 100))
    desk.receipt(consumer, PRICE, 0)
    with desk.settler() as settler:
        settler.step(close_all=True)
        (batch,) = settler._store.in_state(BatchState.POSTED)
        network.chain.increase_time(WINDOW)
        network.send(network.settlement.collect([batch.key]))
        settler._payout.collect_final()
        assert (desk.states(), spent(desk)) == ([BatchState.COLLECTED], {"post": 1})
        network.chain.reorg(1)
        look_again(desk, settler)
    assert network.settlement.batch(batch.batch_id).collected
    assert network.token.balance_of(desk.node.operator) == 4
    assert spent(desk) == {"post": 1, "collect": 1, "claim": 1}


def test_step__reorg_in_which_another_hand_collects_one_of_them__collects_the_rest(desk: Desk) -> None:
    network = desk.network
    with desk.settler() as settler:
        collected_desk(desk, settler, batches=3)
        first, *_ = settler._store.in_state(BatchState.COLLECTED)
        network.chain.reorg(2)
        network.send(network.settlement.collect([first.key]))
        look_again(desk, settler)  # what is sent again reverts
        settler._retry_at.clear()
        settler.step()
        settler.step()
    assert desk.states() == [BatchState.COLLECTED] * 3
    assert network.token.balance_of(desk.node.operator) == 12
    assert spent(desk)["collect"] == 2
    assert books(desk).collected == 12


def test_step__posting_and_collecting_undone_by_a_reorg__starts_over(desk: Desk) -> None:
    network = desk.network
    with desk.settler() as settler:
        (consumer,) = collected_desk(desk, settler)
        network.chain.reorg(4)  # posting, a block without any, collecting, claiming
        assert desk.settled(consumer) == (0, 0)
        look_again(desk, settler)
        for _ in range(4):
            network.chain.increase_time(WINDOW + REORG_BLOCKS)  # which are a second each
            settler._retry_at.clear()
            settler.step()
    assert desk.settled(consumer) == (PRICE, 0)
    assert desk.states() == [BatchState.COLLECTED]
    assert network.token.balance_of(desk.node.operator) == 4
    assert posted_events(desk) == 1
    assert spent(desk) == {"post": 1, "collect": 2, "claim": 2}  # sent again, collecting came too early


def test_claim__undone_by_a_reorg__is_paid_again(desk: Desk) -> None:
    network, operator = desk.network, desk.node.operator
    with desk.settler() as settler:
        collected_desk(desk, settler)
        network.chain.reorg(1)
        assert network.settlement.claimable(operator) == 4
        settler._payout._asked_at = 0.0
        settler.step()
    assert network.token.balance_of(operator) == 4
    assert spent(desk) == {"post": 1, "collect": 1, "claim": 1}


def test_step__node_inactive__keeps_the_batch_and_posts_it_later(desk: Desk) -> None:
    network, node = desk.network, desk.node
    consumer = network.add_consumer((node.operator, 100))
    desk.receipt(consumer, PRICE, 0)
    network.send_as(node.operator, network.nodes.begin_unstake(1))
    with desk.settler() as settler:
        settler.step(close_all=True)
        assert desk.states() == [BatchState.CLOSED]
        desk.receipt(consumer, 2 * PRICE, 1)
        settler.step(close_all=True)
        assert desk.states() == [BatchState.CLOSED]  # one at a time
        network.send_as(node.operator, network.nodes.cancel_unstake())
        settler._retry_at.clear()
        settler.step()
    assert desk.states() == [BatchState.POSTED]
    assert desk.settled(consumer) == (PRICE, 0)


def posted_events(desk: Desk) -> int:
    settlement = desk.network.settlement
    head = desk.network.client.block_number()
    logs = desk.network.client.get_logs(0, head, [settlement.address])
    return sum(event.name == "BatchPosted" for event in settlement.decode_logs(logs))


@pytest.mark.parametrize("boundary", [*BOUNDARIES, *(f"send:{step}" for step in SENDER_STEPS)])
def test_step__killed_at_a_boundary__goes_on_without_posting_or_paying_twice(
    desk: Desk, boundary: str
) -> None:
    network, node = desk.network, desk.node
    consumer = network.add_consumer((node.operator, 100))
    for n in range(3):
        desk.receipt(consumer, (n + 1) * PRICE, n)
    killed = 0
    for _ in range(2):
        status, said = run_settler(desk, boundary)
        killed += status == -signal.SIGKILL
        assert status in (0, -signal.SIGKILL), said
        network.chain.increase_time(WINDOW)
    for _ in range(2):
        status, said = run_settler(desk, "")
        assert status == 0, said
        network.chain.increase_time(WINDOW)
    assert killed, f"{boundary} was never reached"
    assert desk.states() == [BatchState.COLLECTED]
    assert posted_events(desk) == 1
    assert desk.settled(consumer) == (3 * PRICE, 2)
    assert network.settlement.escrow(consumer.address, node.operator).balance == 100 - 3 * PRICE
    assert network.token.balance_of(node.operator) == 13
    assert network.settlement.claimable(node.operator) == 0
    assert spent(desk) == {"post": 1, "collect": 1, "claim": 1}


def run_settler(desk: Desk, boundary: str) -> tuple[int, str]:
    """One `step` in a process of its own, which kills itself at `boundary`."""
    url, node = desk.network.chain.url, desk.node
    return run_forked(settle_once, url, desk.network.deployments, node.folder, node.operator, boundary)


# What a batch is worth


def test_step__batch_is_worth_its_gas__waits_until_it_is(desk: Desk) -> None:
    """At a price of one base unit a wei, two gwei of gas price make a batch cost some 10^14 base units."""
    amount = 10**17
    consumer = desk.network.add_consumer((desk.node.operator, 2 * amount))
    desk.receipt(consumer, 10**6, 0, price=10**6)
    rules = {"native_price": 10**18, "min_age_seconds": 0.0, "max_age_seconds": 10**9}
    with desk.settler(**rules) as settler:
        settler.step()
        assert desk.states() == []
        desk.receipt(consumer, amount, 1, price=amount - 10**6)
        settler.step()
    assert desk.states() == [BatchState.POSTED]
    assert desk.settled(consumer) == (amount, 1)


@pytest.mark.parametrize(("price", "is_tight"), [(STAKE * 3 // 4, False), (STAKE, True)])
def test_step__final_and_not_worth_its_gas__is_collected_if_it_keeps_the_node_from_selling(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, price: int, is_tight: bool
) -> None:
    """What is final is at risk no more, and counts until it is collected."""
    consumer = desk.network.add_consumer((desk.node.operator, price))
    desk.receipt(consumer, price, 1, price=price)
    with desk.settler(native_price=10**18) as settler:
        monkeypatch.setattr(settler._outlook, "cover", lambda: STAKE)
        settler.step(close_all=True)
        desk.network.chain.increase_time(WINDOW)
        settler.step()
    assert desk.states() == [BatchState.COLLECTED if is_tight else BatchState.POSTED]


def test_step__owing_consumer_begins_to_thaw__closes_at_once(desk: Desk) -> None:
    network, node = desk.network, desk.node
    consumer = network.add_consumer((node.operator, 100))
    calm = network.add_consumer((node.operator, 100))
    desk.receipt(calm, PRICE, 0)
    desk.receipt(consumer, PRICE, 0)
    with desk.settler(max_age_seconds=10**9) as settler:
        settler.step()
        assert desk.states() == []
        network.chain.set_balance(consumer.address, 10**18)
        begin = network.settlement.begin_thaw(node.operator, 100)
        network.chain.request("anvil_impersonateAccount", consumer.address)
        network.send_as(consumer.address, begin)
        settler.step()
    assert desk.states() == [BatchState.POSTED]
    assert (desk.settled(consumer), desk.settled(calm)) == ((PRICE, 0), (PRICE, 0))


def test_step__owed_for_receipts_posted_before__goes_with_an_unpaid_receipt(desk: Desk) -> None:
    consumer = desk.network.add_consumer((desk.node.operator, 3))
    desk.receipt(consumer, PRICE, 0)
    with desk.settler() as settler:
        settler.step(close_all=True)
        assert desk.settled(consumer) == (3, 0)
        desk.receipt(None, 0, 0)
        settler.step(close_all=True)
        assert desk.settled(consumer) == (3, 0)  # nothing would be paid
        consumer.fund(desk.node.operator, 100)
        settler.step(close_all=True)
        settler.step(close_all=True)
    assert desk.settled(consumer) == (PRICE, 0)
    assert desk.states() == [BatchState.POSTED] * 2


def test_step__unpaid_receipts_past_their_window__are_dropped_where_no_defender_does_it(
    desk: Desk,
) -> None:
    for _ in range(3):
        desk.receipt(None, 0, 0)
    desk.network.chain.increase_time(WINDOW + 60)
    with desk.settler() as settler:
        settler._retention = Retention(WINDOW, free_receipts=False)
        settler.step()
    with closing(desk.log.database.connect()) as connection:
        assert connection.execute("SELECT count(*) FROM receipts").fetchone() == (0,)
        assert count_open(connection) == 0
    desk.receipt(None, 0, 0)
    assert desk.log.channel(desk.key(ZERO_ADDRESS)).sequence == 4


def test_step__one_batch_collected_by_another_hand__collects_the_rest(desk: Desk) -> None:
    network = desk.network
    consumer = network.add_consumer((desk.node.operator, 100))
    with desk.settler() as settler:
        for n in range(3):
            desk.receipt(consumer, (n + 1) * PRICE, n)
            settler.step(close_all=True)
        store = BatchStore(desk.log.database, desk.node.operator)
        first, *_ = store.in_state(BatchState.POSTED)
        store.close()
        network.chain.increase_time(WINDOW)
        send = settler._payout._sender.send

        def overtaken(*arguments: Any, **options: Any) -> Any:
            """Somebody collects the first of them between the look and the transaction."""
            monkey.undo()
            network.send(network.settlement.collect([first.key]))
            return send(*arguments, **options)

        with pytest.MonkeyPatch.context() as monkey:
            monkey.setattr(settler._payout._sender, "send", overtaken)
            settler.step()
        assert desk.states() == [BatchState.POSTED] * 3
        settler._retry_at.clear()
        settler.step()
    assert desk.states() == [BatchState.COLLECTED] * 3
    with closing(desk.log.database.connect()) as connection:
        (row, whole) = read_profit(connection, 0, {})
    assert (row.collected, row.royalty, row.fee, row.voided) == (12, 0, 3, 0)  # fee rounded up, royalty down
    assert row.collected == network.token.balance_of(desk.node.operator)
    assert min(row.gas[Kind.POST], row.gas[Kind.COLLECT], whole.gas[Kind.CLAIM]) > 0


def test_step__vouchers_of_many__costs_what_the_model_says(desk: Desk) -> None:
    """The figures of `worth` are held to the contract."""
    earlier, *consumers = [desk.network.add_consumer((desk.node.operator, 1_000)) for _ in range(9)]
    with desk.settler() as settler:
        desk.receipt(earlier, PRICE, 0)
        settler.step(close_all=True)  # the version's first batch
        for turn in range(2):
            for consumer in consumers:
                desk.receipt(consumer, (turn + 1) * PRICE, turn)
            settler.step(close_all=True)
        with closing(desk.log.database.connect()) as connection:
            _, *used = [gas for (gas,) in connection.execute("SELECT gas FROM spending ORDER BY batch")]
    collecting = Rows().gas - POST_BASE
    expected = [Rows(8, first=8).gas - collecting, Rows(8).gas - collecting]
    assert used == pytest.approx(expected, rel=0.1)


# What its operator sees


def test_status_and_profit__after_a_batch_and_one_more_receipt__tell_both(desk: Desk) -> None:
    consumer = desk.network.add_consumer((desk.node.operator, 100))
    desk.receipt(consumer, PRICE, 0)
    with desk.settler() as settler:
        settler.step(close_all=True)
    desk.receipt(consumer, 3 * PRICE, 1, price=2 * PRICE)
    desk.node.configure(settlement=SettlementConfig(native_price=10**18))
    version = "0x" + desk.published.version_id.hex()
    status = operate(desk, "status")
    (waiting,) = status["next_batches"]
    assert (waiting["version_id"], waiting["receipts"], waiting["value"]) == (version, 1, "8")
    assert (status["at_risk"], status["cover"]) == ("15", None)
    assert f"value 8 of {waiting['needed']} needed, or in " in status["next_batch"]
    shown = operate(desk, "profit")
    (row,) = shown["versions"]
    found = {name: row[name] for name in ("version_id", "receipts", "pending", "open", "owed", "collected")}
    expected = {"version_id": version, "receipts": 2, "pending": "4", "open": "10", "owed": "10"}
    assert found == expected | {"collected": "0"}
    assert int(row["profit"]) == -int(row["gas_wei"]["post"]) < 0
    check_route(desk, row, b"")
    (today,) = operate(desk, "profit", "--by", "day", "--days", "0")["days"]
    for query in (b"by=day", b"by=day&days=0", b"by=day&days=1"):
        check_route(desk, today, query)
    assert (today["receipts"], today["charged"], today["posted"]) == (2, "15", "5")
    assert today["gas_wei"] == row["gas_wei"] and today["profit"] == row["profit"]


def operate(desk: Desk, command: str, *options: str) -> dict[str, Any]:
    """`assay node COMMAND --json`."""
    line = [*ASSAY, "node", command, "--data", str(desk.node.folder), "--json", *options]
    done = subprocess.run(line, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return dict(json.loads(done.stdout))


def check_route(desk: Desk, row: dict[str, Any], query: bytes) -> None:
    """The operator's route answers the same, and nobody else."""
    ledger = ChainLedger(desk.network.client, desk.network.deployment, desk.node.operator)
    token = load_token(desk.node.folder)
    outbox = outbox_file(desk.node.folder, desk.log.database)
    names = {desk.published.version_id: row["model"]}
    route = ProfitRoute(desk.log.database, ledger, 10**18, token, lambda: names, outbox=outbox)

    async def ask(**headers: str) -> Any:
        raw = {name.encode(): value.encode() for name, value in headers.items()}
        reply = await route.profit(Request("GET", b"/v1/node/profit", query, raw, "127.0.0.1"))
        return json.loads(reply.body)

    assert asyncio.run(ask(authorization=f"Bearer {token.value}"))["days" if query else "versions"] == [row]
    with pytest.raises(OperatorOnly):
        asyncio.run(ask())
    with pytest.raises(OperatorOnly):
        asyncio.run(ask(authorization="Bearer no"))
