"""Payment by x402 with the package's own client, the facilitator's process, a node's process and Anvil."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from assay.commitments.authorizations import payment_id, statement_digest
from assay.commitments.receipts import receipt_from_json
from assay.commitments.signing import SigningKey, recover
from assay.node.config import LOG_FILE
from assay.types import Address, Hash32

from tests.support import nodes
from tests.support.nodes import ASSAY
from tests.support.shop import PRICE, ROW, WINDOW, Shop, decoded, receipt_of, running_shop
from tests.support.x402 import (
    ROOT,
    documented_infer,
)

pytestmark = pytest.mark.network


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with running_shop(tmp_path_factory.mktemp("x402")) as running:
        yield running


def test_infer__by_the_packages_client__pays_and_gives_a_receipt(shop: Shop) -> None:
    secret = b"\x61" * 32
    key, before = SigningKey(secret), shop.income
    shop.network.mint(key.address, 100)

    infer = documented_infer()
    token = shop.network.token.address
    answer = asyncio.run(infer(shop.url, secret, token, shop_network(shop), shop.body()))
    receipt = receipt_of(answer)
    assert (receipt["consumer"], receipt["price"], receipt["sequence"]) == (key.address, str(PRICE), 1)
    assert shop.income == before + PRICE
    said = decoded(answer.headers["payment-response"])
    assert (said["success"], said["payer"], said["network"]) == (True, key.address, shop_network(shop))
    payment = json.loads(answer.json()["parameters"]["payment"])
    assert payment["transaction"] == said["transaction"]
    nonce = Hash32(bytes.fromhex(payment["authorization"]["nonce"][2:]))
    name = payment_id(shop.domain, key.address, nonce)
    assert payment["payment"] == "0x" + name.hex()
    signed = receipt_from_json(shop.network.domain, receipt)
    digest = Hash32(bytes.fromhex(receipt["digest"][2:]))
    for what, signature in (
        (digest, signed.signature),
        (statement_digest(shop.network.domain, digest, name), bytes.fromhex(payment["statement"][2:])),
    ):
        assert recover(what, signature) == shop.node.signer.address
    stored = httpx.get(f"{shop.node.url}/v1/receipts/{receipt['digest']}/payment").json()
    assert stored == {"receipt": receipt["digest"], **payment}
    channel = httpx.get(
        f"{shop.node.url}/v1/channels/0x{shop.published.version_id.hex()}/{key.address}"
    ).json()
    assert (channel["amount"], channel["owed"], channel["sequence"]) == ("0", "0", 1)


def shop_network(shop: Shop) -> str:
    return f"eip155:{shop.network.chain.chain_id}"


def test_infer__unpaid__is_told_what_it_costs(shop: Shop) -> None:
    answer = shop.buy({})
    assert (answer.status_code, answer.json()["code"]) == (402, "voucher_missing")
    assert answer.json()["cure"]
    said = decoded(answer.headers["payment-required"])
    assert said["x402Version"] == 2
    assert said["resource"]["url"] == shop.url
    assert said["accepts"] == [
        {
            "scheme": "exact",
            "network": shop_network(shop),
            "asset": shop.network.token.address,
            "amount": str(PRICE),
            "payTo": shop.payee,
            "maxTimeoutSeconds": 120,
            "extra": {"name": "Test Token", "version": "1", "assetTransferMethod": "eip3009"},
        }
    ]
    assert said["extensions"]["payment-identifier"]["info"] == {"required": False}


def test_infer__voucher__works_beside_it(shop: Shop) -> None:
    consumer = shop.network.add_consumer((Address(shop.node.operator), 10 * PRICE))
    voucher = consumer.voucher(shop.node.operator, shop.published.version_id, PRICE, 0)
    first = receipt_of(shop.buy({}, **voucher))
    shop.network.mint(consumer.address, PRICE)
    second = receipt_of(shop.buy(shop.header(consumer.key)))
    assert [first["sequence"], second["sequence"]] == [1, 2]
    third = receipt_of(
        shop.buy({}, **consumer.voucher(shop.node.operator, shop.published.version_id, 2 * PRICE, 2))
    )
    assert third["sequence"] == 3
    both = shop.buy(shop.header(consumer.key, nonce=2), **voucher)
    assert (both.status_code, both.json()["code"]) == (400, "input_payment")


def test_infer__same_payment_again__is_paid_and_signed_once(shop: Shop) -> None:
    key, before = shop.payer(), shop.income
    header = shop.header(key)
    first, again = shop.buy(header), shop.buy(header)
    assert receipt_of(first) == receipt_of(again)
    assert first.content == again.content
    assert first.headers["payment-response"] == again.headers["payment-response"]
    other = shop.buy(header, [[9.0, 9.0, 9.0, 9.0]])
    assert (other.status_code, other.json()["code"]) == (402, "payment_used")
    assert "payment-required" in other.headers
    assert shop.income == before + PRICE


def test_infer__same_payment_at_once__is_paid_and_signed_once(shop: Shop) -> None:
    key, before = shop.payer(), shop.income
    header = shop.header(key)

    async def ask() -> list[httpx.Response]:
        async with httpx.AsyncClient(timeout=60) as client:
            sending = [client.post(shop.url, json=shop.body(), headers=header) for _ in range(5)]
            return await asyncio.gather(*sending)

    digests = {receipt_of(answer)["digest"] for answer in asyncio.run(ask())}
    assert len(digests) == 1
    assert shop.income == before + PRICE


def test_infer__two_authorizations_of_one_nonce__buy_one_receipt(shop: Shop) -> None:
    key, before = shop.payer(), shop.income
    now = int(time.time())
    bought = receipt_of(shop.buy(shop.header(key, before=now + 60)))
    twin = shop.header(key, before=now + 61)
    assert receipt_of(shop.buy(twin)) == bought
    other = shop.buy(twin, [[0.0, 0.0, 0.0, 1.0]])
    assert (other.status_code, other.json()["code"]) == (402, "payment_used")
    assert shop.income == before + PRICE


def test_infer__same_identifier__same_request_is_charged_once_another_conflicts(shop: Shop) -> None:
    key, before = shop.payer(), shop.income
    identifier = "pay_7d5d747be160e280504c099d984bcfe0"
    first = receipt_of(shop.buy(shop.header(key, nonce=1, identifier=identifier)))
    fresh = shop.header(key, nonce=2, identifier=identifier)
    assert receipt_of(shop.buy(fresh)) == first
    conflict = shop.buy(fresh, [[0.0, 0.0, 0.0, 1.0]])
    assert (conflict.status_code, conflict.json()["code"]) == (409, "payment_conflict")
    assert shop.income == before + PRICE
    other = shop.payer()
    assert receipt_of(shop.buy(shop.header(other, identifier=identifier)))["consumer"] == other.address


@pytest.mark.parametrize(
    ("what", "code"),
    [
        ("poor", "payment_invalid"),
        ("expired", "payment_invalid"),
        ("endless", "payment_invalid"),
        ("cheap", "payment_mismatch"),
        ("forged", "payment_signature"),
    ],
)
def test_infer__payment_that_does_not_hold__answers_nothing(shop: Shop, what: str, code: str) -> None:
    key, before = shop.payer(0 if what == "poor" else 100), shop.income
    header = shop.header(
        key,
        value=PRICE - 1 if what == "cheap" else PRICE,
        before={"expired": int(time.time()) - 1, "endless": 2**256 - 1}.get(what),
    )
    if what == "forged":
        payload = decoded(header["PAYMENT-SIGNATURE"])
        payload["payload"]["authorization"]["from"] = shop.payer().address
        header = {"PAYMENT-SIGNATURE": base64.b64encode(json.dumps(payload).encode()).decode()}
    answer = shop.buy(header)
    assert (answer.status_code, answer.json()["code"]) == (402, code), answer.text
    assert decoded(answer.headers["payment-required"])["accepts"]
    assert shop.income == before


def test_infer__many_forged_signatures_from_one_host__are_not_checked_for_a_while(shop: Shop) -> None:
    payload = decoded(shop.header(shop.payer(0))["PAYMENT-SIGNATURE"])
    payload["payload"]["authorization"]["from"] = shop.payer(0).address
    forged = {"PAYMENT-SIGNATURE": base64.b64encode(json.dumps(payload).encode()).decode()}
    deadline = time.monotonic() + 30
    while (code := shop.buy(forged).json()["code"]) == "payment_signature" and time.monotonic() < deadline:
        pass
    assert code == "busy"
    header = shop.header(shop.payer())
    while (answer := shop.buy(header)).status_code == 503 and time.monotonic() < deadline:
        assert answer.headers["retry-after"]
        time.sleep(0.2)
    receipt_of(answer)


@pytest.mark.parametrize("value", ["", "!", "e30=", "bnVsbA==", "eyJ4NDAyVmVyc2lvbiI6MX0=", "A" * 20_000])
def test_infer__header_that_is_no_payment__is_400(shop: Shop, value: str) -> None:
    answer = shop.buy({"PAYMENT-SIGNATURE": value})
    assert (answer.status_code, answer.json()["code"]) == (400, "input_payment")


def test_infer__front_run_by_a_stranger__is_answered_and_paid_once(shop: Shop) -> None:
    """Who brings the authorization first pays the gas; the money is the node's, the answer the payer's."""
    key, before = shop.payer(), shop.income
    header = shop.header(key)
    with shop.blocks_held():
        waiting = shop.buy(header)
        assert (waiting.status_code, waiting.json()["code"]) == (503, "payment_pending"), waiting.text
        assert waiting.headers["retry-after"]
        stranger = shop.bring_first(header)
    answer = shop.buy(header)
    assert receipt_of(answer)["consumer"] == key.address
    assert decoded(answer.headers["payment-response"])["transaction"] == stranger
    assert shop.income == before + PRICE


def test_infer__dearer_twin_of_a_settled_authorization__buys_nothing(shop: Shop) -> None:
    """The token takes one authorization of a nonce: what it moved is what was paid."""
    key, before = shop.payer(), shop.income
    cheap = shop.header(key)
    with shop.blocks_held():
        assert shop.buy(cheap).json()["code"] == "payment_pending"
    assert shop.income == before + PRICE
    shop.change_price(4 * PRICE)
    try:
        answer = shop.buy(shop.header(key, value=4 * PRICE))
        assert (answer.status_code, answer.json()["code"]) == (402, "payment_mismatch"), answer.text
        assert "receipt" not in answer.json().get("parameters", {})
    finally:
        shop.change_price(PRICE)
    assert receipt_of(shop.buy(cheap))["price"] == str(PRICE)
    assert shop.income == before + PRICE


def test_infer__price_changed_since_it_was_settled__payment_is_good_for_its_request(shop: Shop) -> None:
    key, before = shop.payer(), shop.income
    header, done = shop.header(key), shop.header(key, nonce=2)
    first = receipt_of(shop.buy(done))
    with shop.blocks_held():
        assert shop.buy(header).json()["code"] == "payment_pending"
    assert shop.income == before + 2 * PRICE
    shop.change_price(4 * PRICE)
    try:
        for refused in (
            shop.buy(header, [[0.0, 0.0, 0.0, 3.0]]),  # not what it was noted for
            shop.buy(shop.header(key, before=int(time.time()) + 50)),  # a twin that was not noted
            shop.buy(shop.header(key, nonce=3)),
        ):
            assert (refused.status_code, refused.json()["code"]) == (402, "payment_mismatch"), refused.text
        bought = shop.buy(header)
        assert receipt_of(bought)["price"] == str(PRICE)
        assert receipt_of(shop.buy(header)) == receipt_of(bought)
        assert receipt_of(shop.buy(done)) == first
        other = shop.buy(done, [[0.0, 0.0, 0.0, 3.0]])
        assert (other.status_code, other.json()["code"]) == (402, "payment_used"), other.text
    finally:
        shop.change_price(PRICE)
    assert shop.income == before + 2 * PRICE


def test_infer__payment_whose_receipt_was_dropped__is_not_good_for_another(shop: Shop) -> None:
    """What retention leaves of an old receipt: the payment that bought it."""
    key, before = shop.payer(), shop.income
    header = shop.header(key)
    digest = bytes.fromhex(receipt_of(shop.buy(header))["digest"][2:])
    assert shop.drop_receipt(digest) == 1
    for rows in (ROW, [[0.0, 0.0, 0.0, 2.0]]):
        answer = shop.buy(header, rows)
        assert (answer.status_code, answer.json()["code"]) == (402, "payment_used"), answer.text
    assert shop.income == before + PRICE


def test_infer__taken_back_while_it_is_settled__answers_nothing(shop: Shop) -> None:
    key, before = shop.payer(), shop.income
    header = shop.header(key)
    with shop.blocks_held():
        assert shop.buy(header).json()["code"] == "payment_pending"
        shop.cancel_first(key)
    answer = shop.buy(header)
    assert (answer.status_code, answer.json()["code"]) == (402, "payment_invalid"), answer.text
    assert "receipt" not in answer.text
    assert shop.income == before


def test_infer__after_kill__settled_payment_gets_its_receipt(shop: Shop) -> None:
    key, before = shop.payer(), shop.income
    header = shop.header(key)
    with shop.blocks_held():
        assert shop.buy(header).json()["code"] == "payment_pending"
        shop.node.kill()
    assert shop.income == before + PRICE
    shop.node.start()
    shop.wait_until_sold()
    assert receipt_of(shop.buy(header))["consumer"] == key.address
    assert shop.income == before + PRICE


KILLED_BEFORE_THE_STATEMENT = """
import os, signal
from assay.node.x402.payments import PaymentStore
PaymentStore.stated = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
from assay.cli import main
main()
"""


def test_start__killed_between_receipt_and_statement__states_it_unasked(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The payer never comes again: whoever looks at the receipt still learns what paid for it."""
    key, before = shop.payer(), shop.income
    header = shop.header(key)
    name = payment_id(shop.domain, key.address, Hash32((1).to_bytes(32, "big")))
    shop.node.stop()
    with monkeypatch.context() as killing:
        killing.setattr(nodes, "ASSAY", (sys.executable, "-c", KILLED_BEFORE_THE_STATEMENT))
        shop.node.start()
    shop.wait_until_sold()
    with pytest.raises(httpx.TransportError):
        shop.buy(header)
    assert shop.node.process is not None and shop.node.process.wait(20) == -signal.SIGKILL
    assert shop.income == before + PRICE
    shop.node.start()
    with contextlib.closing(sqlite3.connect(shop.node.folder / LOG_FILE)) as db:
        ((digest,),) = db.execute("SELECT digest FROM receipts WHERE voucher = ?", (name,)).fetchall()
    deadline = time.monotonic() + 20
    while (told := httpx.get(f"{shop.node.url}/v1/receipts/0x{digest.hex()}/payment").json()).get(
        "statement"
    ) is None:
        assert time.monotonic() < deadline, told
        time.sleep(0.1)
    statement = bytes.fromhex(told["statement"][2:])
    said = statement_digest(shop.network.domain, Hash32(digest), name)
    assert recover(said, statement) == shop.node.signer.address
    shop.wait_until_sold()
    assert receipt_of(shop.buy(header))["digest"] == "0x" + digest.hex()
    assert shop.income == before + PRICE


def test_infer__facilitator_gone__is_503_and_nothing_is_paid(shop: Shop) -> None:
    key, before = shop.payer(), shop.income
    header = shop.header(key)
    shop.facilitator.kill()
    try:
        answer = shop.buy(header)
        assert (answer.status_code, answer.json()["code"]) == (503, "payment_unavailable")
        assert answer.headers["retry-after"]
        consumer = shop.network.add_consumer((Address(shop.node.operator), PRICE))
        voucher = consumer.voucher(shop.node.operator, shop.published.version_id, PRICE, 0)
        receipt_of(shop.buy({}, **voucher))
    finally:
        shop.facilitator.start()
    assert shop.income == before
    assert receipt_of(shop.buy(header))["consumer"] == key.address


def test_settle__one_payment__costs_so_much_gas(shop: Shop) -> None:
    """What `backend/operations/x402.md` tells operators."""
    answer = shop.buy(shop.header(shop.payer()))
    transaction = decoded(answer.headers["payment-response"])["transaction"]
    mined = shop.network.chain.request("eth_getTransactionReceipt", transaction)
    text = (ROOT / "backend" / "operations" / "x402.md").read_text()
    (told,) = re.findall(r"about ([0-9,]+) a payment", text)
    assert int(mined["gasUsed"], 16) == pytest.approx(int(told.replace(",", "")), rel=0.1)


def test_settler__receipts_without_vouchers__are_posted_and_verify_from_the_chain(
    shop: Shop, tmp_path: Path
) -> None:
    """The last test here: it moves the chain's clock."""
    shop.wait_for_metric("assay_node_open_receipts 0.0")
    answer = shop.buy(shop.header(shop.payer()))
    receipt = receipt_of(answer)
    domain = shop.network.domain
    file = tmp_path / "receipt.json"
    file.write_text(json.dumps(receipt | {"chain_id": domain.chain_id, "settlement": domain.settlement}))
    options = {
        "rpc": shop.network.chain.url,
        "deployments": str(shop.network.deployments),
        "data": str(tmp_path / "data"),
    }
    command = [*ASSAY, "receipt", "verify", str(file), "--no-api", "--json"]
    for name, value in options.items():
        command += [f"--{name}", value]
    deadline, moved = time.monotonic() + 60, False
    while True:
        found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        report = json.loads(found.stdout)
        if found.returncode == 0:
            break
        assert found.returncode == 3 and time.monotonic() < deadline, (found.stdout, found.stderr)
        if report["proof"] and not moved:
            shop.network.chain.increase_time(WINDOW)
            moved = True
    assert report["final"] is True
    batch = shop.network.settlement.batch(Hash32(bytes.fromhex(report["proof"]["batch_id"][2:])))
    assert (batch.amount, batch.count) == (0, 0)
