"""Paying by x402 from the client: a node's process, the facilitator's and Anvil."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from assay.chain.keys import create_keystore
from assay.cli import main
from assay.client import (
    BalanceShort,
    ChannelBlocked,
    Client,
    NodeUnreachable,
    NotSold,
    Pay,
    PaymentOpen,
    PaymentRefused,
    PriceTooHigh,
    ReceiptRefused,
    Result,
)
from assay.client.store import ChannelKey
from assay.client.transport import Reply
from assay.commitments.signing import SigningKey
from click.testing import Result as Outcome

from tests.support.cli import RUNNER
from tests.support.deploy import UNIT
from tests.support.nodes import ASSAY
from tests.support.shop import PRICE, Shop, running_shop
from tests.support.stack import Stack

pytestmark = pytest.mark.network
ROWS = np.arange(8, dtype=np.float32).reshape(2, 4)
TOKENS = 100


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with running_shop(tmp_path_factory.mktemp("x402_client")) as running:
        yield running


@pytest.fixture
def open_client(shop: Shop, tmp_path: Path) -> Iterator[Callable[..., Client]]:
    """Clients of one fresh account, which has tokens and no coins."""
    key, clients = shop.payer(TOKENS), []

    def open_client(**options: Any) -> Client:
        given: dict[str, Any] = {
            "key": key,
            "rpc_urls": [shop.network.chain.url],
            "deployments": shop.network.deployments,
            "data": tmp_path / "client",
        }
        clients.append(Client(**(given | options)))
        return clients[-1]

    yield open_client
    for client in clients:
        client.close()


def model_of(shop: Shop) -> str:
    return f"{shop.published.publisher}/{shop.published.name}"


def buy(client: Client, shop: Shop, rows: np.ndarray = ROWS, **options: Any) -> Result:
    given: dict[str, Any] = {"max_price": PRICE, "pay": "x402"}
    return client.infer(model_of(shop), rows, **(given | options))


def refuse(reply: Reply) -> Reply:
    return Reply(402, b'{"error": "no", "code": "payment_failed"}', None)


def tamper(client: Client, change: Callable[[Reply], Reply]) -> Callable[[], None]:
    """Answers to paid requests are changed on their way; returns what ends that."""
    before = client.http.infer

    def infer(*args: Any) -> Reply:
        reply = before(*args)
        return change(reply) if len(args) == 5 and reply.status == 200 else reply

    client.http.infer = infer  # type: ignore[method-assign]

    def restore() -> None:
        client.http.infer = before  # type: ignore[method-assign]

    return restore


def lose(reply: Reply) -> Reply:
    raise NodeUnreachable("the answer was lost", sent=True)


def test_infer__by_x402__pays_one_request_and_checks_its_receipt(
    shop: Shop, open_client: Callable[..., Client]
) -> None:
    client, before = open_client(), shop.income
    results = [buy(client, shop), buy(client, shop, pay=Pay.X402)]
    for sequence, result in enumerate(results, 1):
        assert (result.price, result.receipt.receipt.sequence) == (PRICE, sequence)
        assert result.receipt.receipt.consumer == client.consumer
        assert result.outputs["y"].shape == (2, 3)
        assert result.payment is not None
        assert result.payment["authorization"]["value"] == str(PRICE)
        assert json.loads(client.store.payment_of("0x" + result.digest.hex()) or "") == result.payment
    assert results[0].payment != results[1].payment
    assert shop.income == before + 2 * PRICE
    assert client.token.balance_of(client.consumer) == TOKENS - 2 * PRICE
    assert client.acknowledge() == []


def test_infer__free_after_x402__needs_no_deposit_and_vouchers_go_on(
    shop: Shop, open_client: Callable[..., Client]
) -> None:
    """One sequence of receipts, however each of them was paid for."""
    client = open_client()
    consumer = shop.network.add_consumer((shop.node.operator, 10 * PRICE))
    mixed = open_client(key=consumer.key, data=client.data / "mixed")
    shop.network.mint(consumer.address, TOKENS)
    ways = [Pay.X402, Pay.VOUCHER, Pay.X402, Pay.VOUCHER]
    sequences = [buy(mixed, shop, pay=way).receipt.receipt.sequence for way in ways]
    assert sequences == [1, 2, 3, 4]
    assert mixed.acknowledge() == []
    held = mixed.http.channel(shop.node.url, shop.published.version_id, consumer.address).held
    assert (held.amount, held.count, held.sequence) == (2 * PRICE, 4, 4)


@pytest.mark.parametrize("most", [None, PRICE - 1])
def test_infer__dearer_than_allowed__signs_nothing(
    shop: Shop, open_client: Callable[..., Client], most: int | None
) -> None:
    client, before = open_client(), shop.income
    with pytest.raises(PriceTooHigh) as caught:
        buy(client, shop, max_price=most)
    assert caught.value.cheapest == PRICE
    assert shop.income == before


def test_infer__account_without_tokens__says_what_it_needs(
    shop: Shop, open_client: Callable[..., Client]
) -> None:
    client = open_client(key=shop.payer(PRICE - 1))
    with pytest.raises(BalanceShort, match="send it tokens") as caught:
        buy(client, shop)
    assert (caught.value.needed, caught.value.balance) == (PRICE, PRICE - 1)


def test_infer__node_without_x402__is_not_sold(stack: Stack, tmp_path: Path) -> None:
    with (
        stack.client(tmp_path / "client", key=stack.new_consumer()) as client,
        pytest.raises(NotSold, match="does not sell by x402"),
    ):
        client.infer(stack.model, ROWS, pay="x402", max_price=UNIT)


def test_infer__facilitator_down__goes_on_with_the_same_payment(
    shop: Shop, open_client: Callable[..., Client]
) -> None:
    client, before = open_client(), shop.income
    shop.facilitator.kill()
    try:
        with pytest.raises(PaymentOpen) as caught:
            buy(client, shop)
    finally:
        shop.facilitator.start()
    assert caught.value.code == "payment_unavailable"
    assert "repeat the request" in caught.value.cure
    result = buy(client, shop)
    assert result.is_recovered
    assert result.payment is not None and result.payment["payment"] in str(caught.value)
    assert shop.income == before + PRICE


def test_infer__answer_lost__is_fetched_and_paid_once(shop: Shop, open_client: Callable[..., Client]) -> None:
    client, before = open_client(), shop.income
    restore = tamper(client, lose)
    with pytest.raises(PaymentOpen) as caught:
        buy(client, shop)
    assert caught.value.code == "node_unreachable"
    restore()
    other = buy(open_client(), shop, ROWS + 1)  # another request, after a restart: the first one ends before
    assert other.receipt.receipt.sequence == 2
    assert len(client.store.receipts()) == 2
    assert shop.income == before + 2 * PRICE


def test_infer__voucher_while_a_payment_is_open__ends_it_first(
    shop: Shop, open_client: Callable[..., Client], tmp_path: Path
) -> None:
    consumer = shop.network.add_consumer((shop.node.operator, 10 * PRICE))
    shop.network.mint(consumer.address, TOKENS)
    client = open_client(key=consumer.key, data=tmp_path / "mixed")
    restore = tamper(client, lose)
    with pytest.raises(PaymentOpen):
        buy(client, shop)
    with pytest.raises(ChannelBlocked, match="repeat the request"):
        buy(client, shop, pay=Pay.VOUCHER)
    restore()
    assert buy(client, shop, ROWS + 1, pay=Pay.VOUCHER).receipt.receipt.sequence == 2


def test_infer__payment_that_expired_unused__is_signed_anew(
    shop: Shop, open_client: Callable[..., Client]
) -> None:
    client, before = open_client(), shop.income
    shop.facilitator.kill()
    try:
        with pytest.raises(PaymentOpen):
            buy(client, shop)
    finally:
        shop.facilitator.start()
    key = ChannelKey(client.domain, client.consumer, shop.node.operator, shop.published.version_id)
    kept = client.store.open_payment(key)
    assert kept is not None
    old = replace(kept, authorization=replace(kept.authorization, valid_before=int(time.time()) - 3600))
    client.store.keep_payment(key, old)
    result = buy(client, shop)
    assert not result.is_recovered
    assert result.payment is not None and result.payment["payment"] != kept.text
    assert shop.income == before + PRICE


def test_infer__clock_ahead_of_the_chain__does_not_pay_beside_what_may_still_be_settled(
    shop: Shop, open_client: Callable[..., Client]
) -> None:
    client, before = open_client(), shop.income
    restore = tamper(client, lose)
    with pytest.raises(PaymentOpen):
        buy(client, shop)
    restore()
    key = ChannelKey(client.domain, client.consumer, shop.node.operator, shop.published.version_id)
    kept = client.store.open_payment(key)
    assert kept is not None
    assert client._buyer is not None
    client._buyer._clock = lambda: time.time() + 7200
    client._buyer._is_used = lambda payment: False  # type: ignore[method-assign] - as if it were not settled yet
    result = buy(client, shop)
    assert result.payment is not None and result.payment["payment"] == kept.text
    assert shop.income == before + PRICE


def test_infer__payment_that_was_refused__is_the_only_one_until_it_ends(
    shop: Shop, open_client: Callable[..., Client]
) -> None:
    """The node may still bring it to the chain, whatever it said."""
    client, before = open_client(), shop.income
    passed, sent = client.http.infer, []

    def infer(*args: Any) -> Reply:
        if len(args) == 4:
            return passed(*args)
        sent.append(args[4])
        return refuse(Reply(200, b"", None))

    client.http.infer = infer  # type: ignore[method-assign]
    for _ in range(2):
        with pytest.raises(PaymentRefused, match="nothing was paid, but"):
            buy(client, shop)
    for options in ({"rows": ROWS + 1}, {"pay": Pay.VOUCHER}):
        with pytest.raises(ChannelBlocked, match="payment 0x"):
            buy(client, shop, **options)
    assert len(set(sent)) == 1
    client.http.infer = passed  # type: ignore[method-assign]
    assert buy(client, shop).is_recovered
    assert shop.income == before + PRICE


def test_infer__refused_and_yet_settled__asks_no_other_node(
    shop: Shop, open_client: Callable[..., Client]
) -> None:
    """Though the node hides the channel as well."""
    client, before = open_client(), shop.income
    channel = client.http.channel

    def hide(*args: Any) -> Any:
        raise NodeUnreachable("nobody there", sent=False)

    def refuse_and_hide(reply: Reply) -> Reply:
        client.http.channel = hide  # type: ignore[method-assign]
        return refuse(reply)

    restore = tamper(client, refuse_and_hide)
    client.health.rank = lambda offers, probe: [*offers, *offers]  # type: ignore[method-assign]
    with pytest.raises(ReceiptRefused, match="the token says that payment 0x"):
        buy(client, shop)
    assert client.health.is_down(shop.node.operator)
    assert shop.income == before + PRICE
    restore()
    client.http.channel = channel  # type: ignore[method-assign]
    assert buy(client, shop).is_recovered
    assert shop.income == before + PRICE


def test_infer__receipt_that_does_not_check__asks_no_other_node(
    shop: Shop, open_client: Callable[..., Client]
) -> None:
    client = open_client()
    tamper(client, flip_output)
    client.health.rank = lambda offers, probe: [*offers, *offers]  # type: ignore[method-assign]
    with pytest.raises(ReceiptRefused):
        buy(client, shop)


def forge_statement(reply: Reply) -> Reply:
    head = json.loads(reply.content[: reply.json_length])
    payment = json.loads(head["parameters"]["payment"])
    payment["statement"] = "0x" + SigningKey.generate().sign(b"\x01" * 32).hex()
    head["parameters"]["payment"] = json.dumps(payment)
    raw = json.dumps(head).encode()
    return replace(reply, content=raw + reply.content[reply.json_length :], json_length=len(raw))


def drop_payment(reply: Reply) -> Reply:
    head = json.loads(reply.content[: reply.json_length])
    del head["parameters"]["payment"]
    raw = json.dumps(head).encode()
    return replace(reply, content=raw + reply.content[reply.json_length :], json_length=len(raw))


def flip_output(reply: Reply) -> Reply:
    return replace(reply, content=reply.content[:-1] + bytes((reply.content[-1] ^ 1,)))


@pytest.mark.parametrize(
    ("change", "step"),
    [(forge_statement, "payment"), (drop_payment, "payment"), (flip_output, "output_hash")],
)
def test_infer__answer_that_does_not_check__blocks_the_channel_until_forgiven(
    shop: Shop, open_client: Callable[..., Client], change: Callable[[Reply], Reply], step: str
) -> None:
    client = open_client()
    restore = tamper(client, change)
    with pytest.raises(ReceiptRefused) as caught:
        buy(client, shop)
    assert caught.value.step == step
    assert caught.value.evidence is not None and caught.value.evidence.exists()
    restore()
    for way in Pay:
        with pytest.raises(ChannelBlocked, match="does not check"):
            buy(client, shop, pay=way)
    assert client.forgive(shop.node.operator, model_of(shop)) == PRICE
    assert buy(client, shop).receipt.receipt.sequence == 2


# --- the command -------------------------------------------------------------------------------------------


@pytest.fixture
def environment(shop: Shop, tmp_path: Path) -> dict[str, str]:
    keystore = tmp_path / "consumer.json"
    key = create_keystore(keystore, "test", scrypt_n=2)
    shop.network.mint(key.address, 10 * UNIT)
    (tmp_path / "password").write_text("test\n")
    np.save(tmp_path / "x.npy", ROWS)
    return {
        "ASSAY_RPC_URLS": json.dumps([shop.network.chain.url]),
        "ASSAY_DEPLOYMENTS": str(shop.network.deployments),
        "ASSAY_DATA": str(tmp_path / "data"),
        "ASSAY_ACCOUNT": str(keystore),
        "ASSAY_PASSWORD_FILE": str(tmp_path / "password"),
        "ASSAY_API_URL": "http://127.0.0.1:9",
        "COLUMNS": "200",
    }


@pytest.fixture
def run(
    shop: Shop, environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Outcome]:
    """`assay infer` by x402, in the name of a fresh account."""
    for name, text in environment.items():
        monkeypatch.setenv(name, text)

    def run(*args: str, code: int = 0, input: str | None = None) -> Outcome:
        command = ["infer", model_of(shop), "--input", str(tmp_path / "x.npy"), "--pay", "x402", *args]
        outcome = RUNNER.invoke(main, command, input=input, catch_exceptions=False)
        assert outcome.exit_code == code, outcome.output + outcome.stderr
        return outcome

    return run


def tokens(units: int) -> str:
    return f"{units / UNIT:.18f}"


def test_infer__price_within_the_bound__is_paid_unasked(
    shop: Shop, run: Callable[..., Outcome], tmp_path: Path
) -> None:
    before, receipt = shop.income, tmp_path / "receipt.json"
    shown = run("--max-price", tokens(PRICE), "--receipt", str(receipt)).stdout
    assert "paid by x402, payment 0x" in shown
    data = json.loads(run("--max-price", tokens(PRICE), "--json").stdout)
    assert (data["price"], data["payment"]["authorization"]["value"]) == (str(PRICE), str(PRICE))
    assert data["receipt"]["sequence"] == json.loads(receipt.read_text())["sequence"] + 1
    assert shop.income == before + 2 * PRICE


def test_infer__price_above_the_bound__is_shown_and_asked_about(
    shop: Shop, run: Callable[..., Outcome]
) -> None:
    before = shop.income
    question = "The cheapest answer costs 0.000000000000000005 TEST"
    for args, answer in (((), "n\n"), (("--max-price", tokens(PRICE - 1)), None)):
        refused = run(*args, code=2, input=answer)
        assert question in refused.stderr
        assert "max_price" in refused.stderr
    plain = json.loads(run("--json", code=2).stdout)
    assert plain["code"] == "price_too_high"
    assert shop.income == before
    assert "Pay it by x402?" in run(input="y\n").stderr
    assert shop.income == before + PRICE


def test_infer__auto_fund__is_for_vouchers(run: Callable[..., Outcome]) -> None:
    assert "for vouchers" in run("--auto-fund", "1", code=2).stderr


def test_infer__killed_while_it_pays__is_paid_once(
    shop: Shop, environment: dict[str, str], tmp_path: Path, run: Callable[..., Outcome]
) -> None:
    before = shop.income
    command = [*ASSAY, "infer", model_of(shop), "--input", str(tmp_path / "x.npy"), "--pay", "x402"]
    command += ["--max-price", tokens(PRICE)]
    with shop.blocks_held():
        process = subprocess.Popen(
            command, env=os.environ | environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            deadline = time.monotonic() + 30
            while not is_settling(shop) and time.monotonic() < deadline:
                time.sleep(0.05)
            assert is_settling(shop)
        finally:
            process.kill()
            process.wait(10)
    data = json.loads(run("--max-price", tokens(PRICE), "--json").stdout)
    assert data["recovered"] is True
    assert shop.income == before + PRICE


def is_settling(shop: Shop) -> bool:
    """Whether the facilitator has a transaction that waits for a block."""
    senders = shop.network.chain.request("txpool_content")["pending"]
    return shop.facilitator.address.lower() in {sender.lower() for sender in senders}
