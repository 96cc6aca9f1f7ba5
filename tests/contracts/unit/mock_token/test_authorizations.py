"""EIP-3009 on the token of tests and local chains: by whom, once, in time, and with one form of signature."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import boa
import pytest
from assay.commitments.authorizations import (
    TRANSFER_TYPE,
    Authorization,
    TokenDomain,
    authorization_digest,
    token_separator,
)
from assay.commitments.identifiers import address_word, keccak
from assay.commitments.signing import SigningKey
from assay.types import Address, Hash32

from tests.contracts.conftest import START
from tests.support.contracts import events

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
PAYER = SigningKey(b"\x31" * 32)
NONCE = Hash32(b"\x07" * 32)


@pytest.fixture
def domain(token: Any) -> TokenDomain:
    _, name, version, chain_id, address, _, _ = token.eip712Domain()
    assert version == token.version()
    return TokenDomain(name, version, chain_id, Address(address))


@pytest.fixture
def given(token: Any, recipient: str) -> Authorization:
    """50 of the payer's 80 to the recipient, from now on for a minute."""
    token.mint(PAYER.address, 80)
    return Authorization(PAYER.address, Address(recipient), 50, START - 1, START + 60, NONCE)


def vrs(signature: bytes) -> tuple[int, bytes, bytes]:
    return signature[64], signature[:32], signature[32:64]


def words(given: Authorization) -> tuple[Any, ...]:
    return (given.payer, given.payee, given.value, given.valid_after, given.valid_before, given.nonce)


def transfer(
    token: Any, domain: TokenDomain, given: Authorization, sender: str, *, key: SigningKey = PAYER
) -> None:
    signature = key.sign(authorization_digest(domain, given))
    token.transferWithAuthorization(*words(given), *vrs(signature), sender=sender)


def typed(domain: TokenDomain, type_text: bytes, *fields: bytes) -> Hash32:
    return keccak(b"\x19\x01" + token_separator(domain) + keccak(keccak(type_text) + b"".join(fields)))


def receive_signature(domain: TokenDomain, given: Authorization) -> bytes:
    kind = TRANSFER_TYPE.replace("Transfer", "Receive").encode()
    numbers = [n.to_bytes(32, "big") for n in (given.value, given.valid_after, given.valid_before)]
    return PAYER.sign(
        typed(domain, kind, address_word(given.payer), address_word(given.payee), *numbers, given.nonce)
    )


def cancel(token: Any, domain: TokenDomain, sender: str, *, key: SigningKey = PAYER) -> None:
    digest = typed(
        domain,
        b"CancelAuthorization(address authorizer,bytes32 nonce)",
        address_word(PAYER.address),
        NONCE,
    )
    token.cancelAuthorization(PAYER.address, NONCE, *vrs(key.sign(digest)), sender=sender)


def test_transfer_with_authorization__brought_by_a_stranger__pays_and_says_so(
    token: Any, domain: TokenDomain, given: Authorization, stranger: str
) -> None:
    assert not token.authorizationState(PAYER.address, NONCE)
    transfer(token, domain, given, stranger)
    assert events(token) == [
        ("AuthorizationUsed", {"authorizer": PAYER.address, "nonce": NONCE}),
        ("Transfer", {"sender": PAYER.address, "receiver": given.payee, "value": 50}),
    ]
    assert (token.balanceOf(PAYER.address), token.balanceOf(given.payee)) == (30, 50)
    assert token.authorizationState(PAYER.address, NONCE)
    assert not token.authorizationState(given.payee, NONCE)


def test_transfer_with_authorization__again_or_another_with_its_nonce__reverts(
    token: Any, domain: TokenDomain, given: Authorization, stranger: str
) -> None:
    transfer(token, domain, given, stranger)
    for second in (given, replace(given, value=1), replace(given, valid_before=START + 61)):
        with boa.reverts("token: authorization is used or canceled"):
            transfer(token, domain, second, stranger)
    assert token.balanceOf(given.payee) == 50


@pytest.mark.parametrize(
    ("after", "before", "reason"),
    [
        (START, START + 60, "token: authorization is not yet valid"),
        (START - 1, START, "token: authorization is expired"),
    ],
)
def test_transfer_with_authorization__at_either_end_of_its_time__reverts(
    token: Any, domain: TokenDomain, given: Authorization, stranger: str, after: int, before: int, reason: str
) -> None:
    assert boa.env.timestamp == START
    with boa.reverts(reason):
        transfer(token, domain, replace(given, valid_after=after, valid_before=before), stranger)


def test_transfer_with_authorization__payer_short__reverts_and_stays_unused(
    token: Any, domain: TokenDomain, given: Authorization, stranger: str
) -> None:
    with boa.reverts("erc20: transfer amount exceeds balance"):
        transfer(token, domain, replace(given, value=81), stranger)
    assert not token.authorizationState(PAYER.address, NONCE)


def test_transfer_with_authorization__any_field_changed_or_another_key__reverts(
    token: Any, domain: TokenDomain, given: Authorization, stranger: str
) -> None:
    signature = PAYER.sign(authorization_digest(domain, given))
    for other in (
        replace(given, payee=Address(stranger)),
        replace(given, value=51),
        replace(given, valid_after=START - 2),
        replace(given, valid_before=START + 61),
        replace(given, nonce=Hash32(b"\x08" * 32)),
    ):
        with boa.reverts("token: invalid signature"):
            token.transferWithAuthorization(*words(other), *vrs(signature), sender=stranger)
    with boa.reverts("token: invalid signature"):
        transfer(token, domain, given, stranger, key=SigningKey(b"\x32" * 32))
    with boa.reverts("token: invalid signature"):
        transfer(token, replace(domain, chain_id=domain.chain_id + 1), given, stranger)


def test_transfer_with_authorization__malleable_twin_or_other_v__reverts(
    token: Any, domain: TokenDomain, given: Authorization, stranger: str
) -> None:
    v, r, s = vrs(PAYER.sign(authorization_digest(domain, given)))
    twin = (ORDER - int.from_bytes(s, "big")).to_bytes(32, "big")
    for form in ((55 - v, r, twin), (v, r, twin), (v - 27, r, s), (55 - v, r, s), (v, bytes(32), bytes(32))):
        with boa.reverts("token: invalid signature"):
            token.transferWithAuthorization(*words(given), *form, sender=stranger)


def test_transfer_with_authorization__zero_address_as_payer__reverts(
    token: Any, given: Authorization, stranger: str
) -> None:
    nobody = (ORDER - 1).to_bytes(32, "big")
    nothing = replace(given, payer=Address("0x" + "00" * 20), value=0)
    with boa.reverts("token: invalid signature"):
        token.transferWithAuthorization(*words(nothing), 27, nobody, b"\x01" * 32, sender=stranger)


def test_receive_with_authorization__by_payee_alone__pays(
    token: Any, domain: TokenDomain, given: Authorization, stranger: str
) -> None:
    signature = receive_signature(domain, given)
    with boa.reverts("token: caller must be the payee"):
        token.receiveWithAuthorization(*words(given), *vrs(signature), sender=stranger)
    with boa.reverts("token: invalid signature"):  # of the other kind
        token.transferWithAuthorization(*words(given), *vrs(signature), sender=stranger)
    token.receiveWithAuthorization(*words(given), *vrs(signature), sender=given.payee)
    assert token.balanceOf(given.payee) == 50
    with boa.reverts("token: authorization is used or canceled"):
        transfer(token, domain, given, stranger)


def test_cancel_authorization__by_its_signer__takes_it_back(
    token: Any, domain: TokenDomain, given: Authorization, stranger: str
) -> None:
    with boa.reverts("token: invalid signature"):
        cancel(token, domain, stranger, key=SigningKey(b"\x32" * 32))
    cancel(token, domain, stranger)
    assert events(token) == [("AuthorizationCanceled", {"authorizer": PAYER.address, "nonce": NONCE})]
    with boa.reverts("token: authorization is used or canceled"):
        transfer(token, domain, given, stranger)
    with boa.reverts("token: authorization is used or canceled"):
        cancel(token, domain, stranger)


def test_cancel_authorization__after_use__reverts(
    token: Any, domain: TokenDomain, given: Authorization, stranger: str
) -> None:
    transfer(token, domain, given, stranger)
    with boa.reverts("token: authorization is used or canceled"):
        cancel(token, domain, stranger)
