"""What a payer signs by x402: the node's own requirement, and whatever a stranger asks for."""

from __future__ import annotations

import base64
import json
from types import SimpleNamespace
from typing import Any

import pytest
from assay.client.errors import NotSold
from assay.client.wallet import MAX_SECONDS, Wallet
from assay.commitments.authorizations import TokenDomain, authorization_digest, payment_id
from assay.commitments.signing import SigningKey, recover
from assay.node.x402 import wire
from hypothesis import given
from hypothesis import strategies as st

PAYER = SigningKey(b"\x01" * 32)
DOMAIN = TokenDomain("Test Token", "1", 31337, SigningKey(b"\x02" * 32).address)
TERMS = wire.PaymentTerms(DOMAIN, SigningKey(b"\x03" * 32).address, 120)
WALLET = Wallet(PAYER, DOMAIN.chain_id, DOMAIN.token)
PRICE = 5
IDENTIFIER = "pay_7d5d747be160e280504c099d984bcfe0"


def required(**changes: Any) -> str:
    """`PAYMENT-REQUIRED` of a node, with fields of its requirement changed."""
    document = json.loads(base64.b64decode(wire.payment_required(TERMS, PRICE, "http://node", "one", "pay")))
    document["accepts"][0] |= changes
    return encoded(document)


def encoded(document: Any) -> str:
    return base64.b64encode(json.dumps(document).encode()).decode()


def test_sign__what_a_node_asks__is_taken_by_the_node() -> None:
    signed = WALLET.sign(WALLET.read(required(), "http://node"), IDENTIFIER)
    payment = wire.parse_payment(signed.header.encode(), TERMS)
    assert payment.authorization == signed.authorization
    assert (payment.identifier, payment.authorization.value) == (IDENTIFIER, PRICE)
    assert recover(authorization_digest(DOMAIN, payment.authorization), payment.signature) == PAYER.address
    assert signed.payment == payment_id(DOMAIN, PAYER.address, payment.authorization.nonce)


def test_sign__same_request_twice__never_uses_a_nonce_again() -> None:
    asked = WALLET.read(required(), "http://node")
    assert WALLET.sign(asked, IDENTIFIER).payment != WALLET.sign(asked, IDENTIFIER).payment


def test_read__several_requirements__takes_the_one_of_this_token() -> None:
    document = json.loads(base64.b64decode(required()))
    other = document["accepts"][0] | {"network": "eip155:1", "amount": "1"}
    asked = WALLET.read(encoded(document | {"accepts": [other, *document["accepts"]]}), "http://node")
    assert (asked.amount, asked.payee) == (PRICE, TERMS.payee)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"asset": "0x" + "12" * 20}, "x402_asset"),
        ({"network": "eip155:1"}, "x402_asset"),
        ({"scheme": "upto"}, "x402_asset"),
        ({"extra": {"name": "Test Token", "version": "1", "assetTransferMethod": "permit2"}}, "x402_asset"),
        ({"extra": {"version": "1"}}, "x402_terms"),
        ({"amount": "0"}, "x402_terms"),
        ({"amount": "-5"}, "x402_terms"),
        ({"amount": str(1 << 256)}, "x402_terms"),
        ({"payTo": "nobody"}, "x402_terms"),
        ({"maxTimeoutSeconds": MAX_SECONDS + 1}, "x402_terms"),
        ({"maxTimeoutSeconds": 0}, "x402_terms"),
        ({"maxTimeoutSeconds": "soon"}, "x402_unsupported"),
    ],
)
def test_read__something_else_than_this_token__signs_nothing(changes: dict[str, Any], code: str) -> None:
    with pytest.raises(NotSold) as caught:
        WALLET.read(required(**changes), "http://node")
    assert caught.value.code == code


@pytest.mark.parametrize("header", ["", "!", "e30=", "bnVsbA==", "A" * 20_000, encoded({"x402Version": 1})])
def test_read__no_payment_required__is_not_sold(header: str) -> None:
    with pytest.raises(NotSold) as caught:
        WALLET.read(header, "http://node")
    assert caught.value.code in ("x402_unsupported", "x402_asset")


@given(
    st.binary(max_size=60)
    | st.recursive(st.none() | st.integers() | st.text(max_size=4), st.lists, max_leaves=4)
)
def test_read__whatever_a_stranger_sends__is_not_sold(content: Any) -> None:
    header = base64.b64encode(content).decode() if isinstance(content, bytes) else encoded(content)
    with pytest.raises(NotSold):
        WALLET.read(header, "http://node")


def test_sign_typed_data__anything_but_a_transfer_of_the_token__is_not_signed() -> None:
    for kind, chain, token in (
        ("Permit", DOMAIN.chain_id, DOMAIN.token),
        ("TransferWithAuthorization", 1, DOMAIN.token),
        ("TransferWithAuthorization", DOMAIN.chain_id, TERMS.payee),
    ):
        domain = SimpleNamespace(name="T", version="1", chain_id=chain, verifying_contract=token)
        with pytest.raises(ValueError, match="is not signed here"):
            WALLET.sign_typed_data(domain, {}, kind, {})
