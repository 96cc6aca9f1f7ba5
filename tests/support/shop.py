"""A node that sells by x402: its process, the facilitator's and Anvil."""

from __future__ import annotations

import base64
import contextlib
import json
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from assay.commitments.authorizations import token_separator
from assay.commitments.identifiers import address_word, keccak
from assay.commitments.signing import SigningKey
from assay.node.config import LOG_FILE, LogConfig, SettlementConfig, X402Config
from assay.types import Address

from tests.support.nodes import Network, NodeUnderTest, Published, local_network
from tests.support.onnx_models import linear_manifest, linear_model
from tests.support.x402 import (
    RunningFacilitator,
    authorize,
    payment_body,
    running_facilitator,
    token_domain,
)

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


@contextlib.contextmanager
def running_shop(folder: Path, *, log: LogConfig | None = None, **changes: Any) -> Iterator[Shop]:
    """`changes`: fields of `X402Config`."""
    with (
        local_network(folder, dispute_window=WINDOW) as network,
        running_facilitator(
            network.chain, network.deployments, folder / "facilitator", "--wait-seconds", "3"
        ) as facilitator,
    ):
        given: dict[str, Any] = {
            "facilitator": facilitator.url,
            "payee": network.chain.accounts[8],  # the operator's own gets what batches pay, too
            "settle_seconds": 5.0,
            "verify_seconds": 3.0,
        }
        node = network.add_node(
            x402=X402Config(**(given | changes)),
            settlement=SettlementConfig(poll_seconds=0.2, max_age_seconds=0.5),
            log=log or LogConfig(),
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
