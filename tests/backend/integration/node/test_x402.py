"""Payment by x402 with the package's own client, the facilitator's process, a node's process and Anvil."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from assay.commitments.authorizations import payment_id, statement_digest, token_separator
from assay.commitments.identifiers import address_word, keccak
from assay.commitments.receipts import receipt_from_json
from assay.commitments.signing import SigningKey, recover
from assay.node.config import LOG_FILE, SettlementConfig, X402Config
from assay.types import Address, Hash32

from tests.support.nodes import ASSAY, Network, NodeUnderTest, Published, local_network
from tests.support.onnx_models import linear_manifest, linear_model
from tests.support.x402 import (
    ROOT,
    RunningFacilitator,
    authorize,
    documented_infer,
    payment_body,
    running_facilitator,
    token_domain,
)

pytestmark = pytest.mark.network
PRICE = 5
WINDOW = 30
ROW = [[1.0, 2.0, 3.0, 4.0]]


def decoded(value: str) -> dict[str, Any]:
    return dict(json.loads(base64.b64decode(value)))


class Shop:
    """A node that sells one version by x402."""

    def __init__(
        self, network: Network, node: NodeUnderTest, published: Published, facilitator: RunningFacilitator
    ) -> None:
        self.network, self.node, self.published = network, node, published
        self.facilitator = facilitator
        self.domain = token_domain(network.token)

    @property
    def url(self) -> str:
        return f"{self.node.url}{self.published.path}/infer"

    @property
    def payee(self) -> Address:
        return Address(self.network.chain.accounts[8])

    @property
    def income(self) -> int:
        return self.network.token.balance_of(self.payee)

    def payer(self, tokens: int = 100) -> SigningKey:
        key = SigningKey.generate()
        if tokens:
            self.network.mint(key.address, tokens)
        return key

    def body(self, rows: list[list[float]] = ROW, **parameters: Any) -> dict[str, Any]:
        data = [number for row in rows for number in row]
        tensor = {"name": "x", "datatype": "FP32", "shape": [len(rows), len(rows[0])], "data": data}
        return {"inputs": [tensor], "parameters": parameters}

    def header(
        self,
        key: SigningKey,
        *,
        nonce: int = 1,
        value: int = PRICE,
        before: int | None = None,
        identifier: str | None = None,
    ) -> dict[str, str]:
        """`PAYMENT-SIGNATURE` of one authorization."""
        until = int(time.time()) + 90 if before is None else before
        given = authorize(key, self.payee, value, until, nonce)
        payload = payment_body(key, self.domain, given)["paymentPayload"]
        if identifier is not None:
            payload["extensions"] = {"payment-identifier": {"info": {"required": False, "id": identifier}}}
        return {"PAYMENT-SIGNATURE": base64.b64encode(json.dumps(payload).encode()).decode()}

    def buy(
        self, headers: dict[str, str], rows: list[list[float]] = ROW, **parameters: Any
    ) -> httpx.Response:
        return httpx.post(self.url, json=self.body(rows, **parameters), headers=headers, timeout=60.0)

    @contextlib.contextmanager
    def blocks_held(self) -> Iterator[None]:
        """No block within; one afterwards."""
        chain = self.network.chain
        chain.set_automine(False)
        try:
            yield
        finally:
            chain.mine()
            chain.set_automine(True)

    def change_price(self, price: int) -> None:
        """Returns once the node asks for it."""
        self.node.offer(self.published, price)
        deadline = time.monotonic() + 30
        while decoded(self.buy({}).headers["payment-required"])["accepts"][0]["amount"] != str(price):
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def drop_receipt(self, digest: bytes) -> int:
        """Rows that went from the log's tables, once its batch was posted."""
        ripe = (
            "SELECT r.id FROM receipts r JOIN channels c ON c.id = r.channel WHERE r.digest = ?"
            " AND c.closed >= r.sequence AND NOT EXISTS (SELECT 1 FROM batches WHERE state = 'closed')"
        )
        deadline = time.monotonic() + 30
        with contextlib.closing(sqlite3.connect(self.node.folder / LOG_FILE, timeout=30)) as db:
            while not (found := db.execute(ripe, (digest,)).fetchall()) and time.monotonic() < deadline:
                time.sleep(0.1)
            with db:
                db.executemany("DELETE FROM receipt_data WHERE receipt = ?", found)
                db.executemany("DELETE FROM receipts WHERE id = ?", found)
        return len(found)

    def _outbid(self, name: str, *arguments: Any) -> str:
        """A stranger's call of the token that the next block has before all others; its hash."""
        call = self.network.token.write(name, *arguments)
        transaction = {
            "from": self.network.chain.accounts[0],
            "to": call.to,
            "data": "0x" + call.data.hex(),
            "gas": hex(200_000),
            "gasPrice": hex(10**12),
        }
        return str(self.network.chain.request("eth_sendTransaction", transaction))

    def bring_first(self, header: dict[str, str]) -> str:
        payload = decoded(header["PAYMENT-SIGNATURE"])["payload"]
        given, signature = payload["authorization"], bytes.fromhex(payload["signature"][2:])
        return self._outbid(
            "transferWithAuthorization",
            given["from"],
            given["to"],
            int(given["value"]),
            int(given["validAfter"]),
            int(given["validBefore"]),
            bytes.fromhex(given["nonce"][2:]),
            signature[64],
            signature[:32],
            signature[32:64],
        )

    def cancel_first(self, key: SigningKey, nonce: int = 1) -> str:
        word = nonce.to_bytes(32, "big")
        kind = keccak(b"CancelAuthorization(address authorizer,bytes32 nonce)")
        struct_hash = keccak(kind + address_word(key.address) + word)
        signature = key.sign(keccak(b"\x19\x01" + token_separator(self.domain) + struct_hash))
        return self._outbid(
            "cancelAuthorization", key.address, word, signature[64], signature[:32], signature[32:64]
        )

    def wait_for_metric(self, line: str) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if line in httpx.get(f"{self.node.url}/metrics", timeout=30).text.splitlines():
                return
            time.sleep(0.1)
        raise TimeoutError(line + (self.node.folder / "node.log").read_text()[-4000:])

    def wait_until_sold(self) -> None:
        self.wait_for_metric("assay_node_x402_versions_proven 1.0")


def receipt_of(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    return dict(json.loads(answer.json()["parameters"]["receipt"]))


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder: Path = tmp_path_factory.mktemp("x402")
    with (
        local_network(folder, dispute_window=WINDOW) as network,
        running_facilitator(
            network.chain, network.deployments, folder / "facilitator", "--wait-seconds", "3"
        ) as facilitator,
    ):
        node = network.add_node(
            x402=X402Config(
                facilitator=facilitator.url,
                payee=network.chain.accounts[8],  # the operator's own gets what batches pay, too
                settle_seconds=5.0,
                verify_seconds=3.0,
            ),
            settlement=SettlementConfig(poll_seconds=0.2, max_age_seconds=0.5),
        )
        published = network.publish("linear", linear_model(), linear_manifest())
        node.offer(published, PRICE)
        made = Shop(network, node, published, facilitator)
        node.start(60)
        try:
            made.wait_until_sold()
            yield made
        finally:
            node.stop()


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
        ("cheap", "payment_mismatch"),
        ("forged", "payment_signature"),
    ],
)
def test_infer__payment_that_does_not_hold__answers_nothing(shop: Shop, what: str, code: str) -> None:
    key, before = shop.payer(0 if what == "poor" else 100), shop.income
    header = shop.header(
        key,
        value=PRICE - 1 if what == "cheap" else PRICE,
        before=int(time.time()) - 1 if what == "expired" else None,
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
