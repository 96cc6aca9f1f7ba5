"""The facilitator's process on Anvil: what it settles, once, and what it refuses."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from assay.chain.client import ChainClient
from assay.chain.contracts import Token
from assay.commitments.authorizations import TokenDomain
from assay.commitments.signing import SigningKey
from assay.types import Address

from tests.support.anvil import Anvil, anvil
from tests.support.deploy import deploy, send_unlocked
from tests.support.x402 import (
    RunningFacilitator,
    authorize,
    payment_body,
    running_facilitator,
    token_domain,
)

pytestmark = pytest.mark.network
PAYEE = Address("0x976EA74026E726554dB657fA54763abd0C3a0aa9")
NOON = 4_000_000_000


class World:
    def __init__(self, chain: Anvil, token: Token, facilitator: RunningFacilitator) -> None:
        self.chain, self.token, self.facilitator = chain, token, facilitator
        self.domain: TokenDomain = token_domain(token)

    def payer(self, tokens: int = 100) -> SigningKey:
        key = SigningKey.generate()
        call = self.token.mint(key.address, tokens)
        send_unlocked(self.token.client, self.chain.accounts[0], call.to, call.data)
        return key

    def ask(self, what: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = httpx.post(f"{self.facilitator.url}/{what}", json=body, timeout=30)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    @property
    def paid(self) -> int:
        return self.token.balance_of(PAYEE)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder: Path = tmp_path_factory.mktemp("facilitator")
    with anvil() as chain:
        deployment = deploy(chain.url, folder / "deployments")
        with (
            ChainClient(chain.url) as client,
            running_facilitator(
                chain, folder / "deployments", folder / "state", "--payee", PAYEE, "--wait-seconds", "2"
            ) as running,
        ):
            yield World(chain, Token(client, deployment), running)


def test_supported__asked__names_network_and_key(world: World) -> None:
    found = httpx.get(f"{world.facilitator.url}/supported").json()
    assert found["kinds"] == [
        {"x402Version": 2, "scheme": "exact", "network": f"eip155:{world.chain.chain_id}"}
    ]
    assert found["signers"] == {"eip155:*": [world.facilitator.address]}


def test_settle__valid_payment__moves_it_once_however_often_asked(world: World) -> None:
    key, before = world.payer(), world.paid
    body = payment_body(key, world.domain, authorize(key, PAYEE, 60, NOON))
    assert world.ask("verify", body)["isValid"] is True
    first = world.ask("settle", body)
    assert first["success"] is True
    world.facilitator.kill()
    world.facilitator.start()
    assert world.ask("settle", body) == first
    assert world.paid == before + 60
    assert world.ask("verify", body)["isValid"] is False
    assert world.chain.request("eth_getTransactionReceipt", first["transaction"])["status"] == "0x1"


def test_settle__not_mined_in_time__is_pending_and_then_the_same(world: World) -> None:
    key, before = world.payer(), world.paid
    body = payment_body(key, world.domain, authorize(key, PAYEE, 5, NOON))
    world.chain.set_automine(False)
    try:
        waiting = world.ask("settle", body)
        assert (waiting["success"], waiting["errorReason"]) == (False, "settlement_pending")
    finally:
        world.chain.mine()
        world.chain.set_automine(True)
    assert world.ask("settle", body)["transaction"] == waiting["transaction"]
    assert world.paid == before + 5


def test_verify__whatever_is_wrong__is_named(world: World) -> None:
    key, other = world.payer(), SigningKey.generate()
    good = authorize(key, PAYEE, 60, NOON)
    now = int(time.time())
    cases = {
        "invalid_exact_evm_payload_signature": payment_body(other, world.domain, good),
        "invalid_exact_evm_insufficient_balance": payment_body(key, world.domain, replace(good, value=101)),
        "invalid_exact_evm_payload_authorization_valid_before": payment_body(
            key, world.domain, replace(good, valid_before=now + 3)
        ),
        "invalid_exact_evm_payload_authorization_valid_after": payment_body(
            key, world.domain, replace(good, valid_after=now + 60)
        ),
        "asset_not_settled_here": payment_body(key, world.domain, good, asset=PAYEE),
        "payee_not_settled_here": payment_body(key, world.domain, good, payTo=key.address),
        "network_mismatch": payment_body(key, world.domain, good, network="eip155:1"),
        "unsupported_scheme": payment_body(key, world.domain, good, scheme="upto"),
    }
    found = {}
    for reason, body in cases.items():
        answer = world.ask("verify", body)
        assert answer["isValid"] is False
        found[reason] = answer["invalidReason"]
        assert world.ask("settle", body)["success"] is False
    assert found == {reason: reason for reason in cases}


@pytest.mark.parametrize(
    ("content", "status"),
    [(b"{", 400), (b'{"x402Version": 1}', 400), (b" " * 65_537, 413)],
    ids=["no_json", "version_1", "too_large"],
)
def test_verify__not_a_payment__is_refused(world: World, content: bytes, status: int) -> None:
    answer = httpx.post(f"{world.facilitator.url}/verify", content=content)
    assert answer.status_code == status
    assert answer.json()["error"]


def test_settle__chain_gone__is_503(tmp_path: Path) -> None:
    with anvil() as chain:
        deployment = deploy(chain.url, tmp_path / "deployments")
        with ChainClient(chain.url) as client:
            domain = token_domain(Token(client, deployment))
        with running_facilitator(chain, tmp_path / "deployments", tmp_path / "state") as running:
            chain.kill()
            key = SigningKey.generate()
            body = payment_body(key, domain, authorize(key, PAYEE, 1, NOON))
            answers = [
                httpx.post(f"{running.url}/{what}", json=body, timeout=60) for what in ("verify", "settle")
            ]
    assert [answer.status_code for answer in answers] == [503, 503]
    assert all(answer.headers["retry-after"] for answer in answers)
