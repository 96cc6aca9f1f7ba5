"""Digests of EIP-3009 authorizations against the x402 package's; the name of a payment."""

from __future__ import annotations

import warnings
from dataclasses import replace

from assay.commitments.authorizations import (
    TRANSFER_TOPIC,
    USED_TOPIC,
    Authorization,
    TokenDomain,
    authorization_digest,
    payment_id,
)
from assay.commitments.identifiers import checksum_address, keccak
from assay.types import Hash32
from eth_abi.abi import encode
from hypothesis import given
from hypothesis import strategies as st

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # web3 7 asks websockets for its older interface
    from x402.mechanisms.evm.eip712 import hash_eip3009_authorization
    from x402.mechanisms.evm.types import ExactEIP3009Authorization

ADDRESSES = st.binary(min_size=20, max_size=20).map(checksum_address)
WORDS = st.integers(0, 2**256 - 1)
DOMAINS = st.builds(TokenDomain, st.text(max_size=20), st.text(max_size=4), WORDS, ADDRESSES)
AUTHORIZATIONS = st.builds(
    Authorization, ADDRESSES, ADDRESSES, WORDS, WORDS, WORDS, st.binary(min_size=32, max_size=32).map(Hash32)
)


@given(DOMAINS, AUTHORIZATIONS)
def test_authorization_digest__any__is_what_x402_clients_sign(
    domain: TokenDomain, given: Authorization
) -> None:
    theirs = ExactEIP3009Authorization(
        from_address=given.payer,
        to=given.payee,
        value=str(given.value),
        valid_after=str(given.valid_after),
        valid_before=str(given.valid_before),
        nonce="0x" + given.nonce.hex(),
    )
    expected = hash_eip3009_authorization(theirs, domain.chain_id, domain.token, domain.name, domain.version)
    assert authorization_digest(domain, given) == expected


@given(DOMAINS, AUTHORIZATIONS)
def test_payment_id__authorizations_that_share_a_nonce__are_one_payment(
    domain: TokenDomain, given: Authorization
) -> None:
    named = payment_id(domain, given.payer, given.nonce)
    words = (domain.chain_id, domain.token, given.payer, given.nonce)
    assert named == keccak(encode(["uint256", "address", "address", "bytes32"], words))
    other = replace(given, value=given.value ^ 1)
    assert authorization_digest(domain, other) != authorization_digest(domain, given)
    assert payment_id(domain, other.payer, other.nonce) == named
    assert payment_id(replace(domain, chain_id=domain.chain_id ^ 1), given.payer, given.nonce) != named


def test_topics__of_eip_3009_and_erc_20__are_the_known_ones() -> None:
    assert USED_TOPIC.hex() == "98de503528ee59b575ef0c0a2576a82497bfc029a5685b209e9ec333479b10a5"
    assert TRANSFER_TOPIC.hex() == "ddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"
