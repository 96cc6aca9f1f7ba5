"""Transfers by signed authorization (EIP-3009): what a token's holder signs, and how one payment is named."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from assay.commitments.identifiers import address_word, keccak
from assay.commitments.parsing import UINT256_MAX, check_range
from assay.commitments.receipts import DOMAIN_TYPEHASH, domain_separator
from assay.types import Address, Domain, Hash32

TRANSFER_TYPE = (
    "TransferWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,"
    "bytes32 nonce)"
)
TRANSFER_TYPEHASH = keccak(TRANSFER_TYPE.encode())
PAYMENT_TYPE = "Payment(bytes32 receipt,bytes32 payment)"
PAYMENT_TYPEHASH = keccak(PAYMENT_TYPE.encode())
USED_TOPIC = keccak(b"AuthorizationUsed(address,bytes32)")
"""`AuthorizationUsed(address indexed authorizer, bytes32 indexed nonce)`."""
TRANSFER_TOPIC = keccak(b"Transfer(address,address,uint256)")


@dataclass(frozen=True, slots=True)
class TokenDomain:
    """A token's EIP-712 domain."""

    name: str
    version: str
    chain_id: int
    token: Address


@dataclass(frozen=True, slots=True)
class Authorization:
    """`value` in base units, times Unix seconds, both exclusive."""

    payer: Address
    payee: Address
    value: int
    valid_after: int
    valid_before: int
    nonce: Hash32


@lru_cache(maxsize=64)
def token_separator(domain: TokenDomain) -> Hash32:
    """EIP-712 hash of the token's domain."""
    texts = keccak(domain.name.encode()) + keccak(domain.version.encode())
    return keccak(DOMAIN_TYPEHASH + texts + _word(domain.chain_id, "chain_id") + address_word(domain.token))


def authorization_digest(domain: TokenDomain, given: Authorization) -> Hash32:
    """What the payer signs. Raises FieldError on a number outside uint256."""
    words = (
        TRANSFER_TYPEHASH,
        address_word(given.payer),
        address_word(given.payee),
        _word(given.value, "value"),
        _word(given.valid_after, "validAfter"),
        _word(given.valid_before, "validBefore"),
        given.nonce,
    )
    return keccak(b"\x19\x01" + token_separator(domain) + keccak(b"".join(words)))


def payment_id(domain: TokenDomain, payer: Address, nonce: Hash32) -> Hash32:
    """`keccak256(abi.encode(chain id, token, payer, nonce))`: what a token lets through once (SPEC.md §12).

    Not the authorization's digest: a payer can sign two that share a nonce, of which the token takes one.
    """
    return keccak(
        _word(domain.chain_id, "chain_id") + address_word(domain.token) + address_word(payer) + nonce
    )


def authorization_to_json(given: Authorization) -> dict[str, str]:
    """As x402 spells it: numbers as decimal strings, the nonce as 0x hex."""
    return {
        "from": given.payer,
        "to": given.payee,
        "value": str(given.value),
        "validAfter": str(given.valid_after),
        "validBefore": str(given.valid_before),
        "nonce": "0x" + given.nonce.hex(),
    }


def statement_digest(domain: Domain, receipt: Hash32, payment: Hash32) -> Hash32:
    """What a node's signer signs to say that a payment bought a receipt; `receipt` is its digest."""
    return keccak(b"\x19\x01" + domain_separator(domain) + keccak(PAYMENT_TYPEHASH + receipt + payment))


def _word(value: int, field: str) -> bytes:
    return check_range(value, field, UINT256_MAX).to_bytes(32, "big")
