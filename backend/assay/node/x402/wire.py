"""x402's headers: what an unpaid request is told, what a paid one brings, what it is told in return. Pure.

Sources: the x402 specification version 2, its HTTP transport, the scheme `exact` on EVM, and the extension
`payment-identifier`.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Any, Final

import orjson

from assay.commitments.authorizations import Authorization, TokenDomain, authorization_to_json
from assay.commitments.parsing import (
    UINT256_MAX,
    FieldError,
    get_field,
    parse_address,
    parse_decimal,
    parse_hash,
    parse_hex,
)
from assay.node.errors import InputError, PaymentError
from assay.types import Address

REQUIRED: Final = b"payment-required"
SIGNATURE: Final = b"payment-signature"
RESPONSE: Final = b"payment-response"
MAX_HEADER: Final = 16_384
MAX_SIGNATURE: Final = 1024
IDENTIFIER: Final = "payment-identifier"
_CODE: Final = "input_payment"
_IDENTIFIER: Final = re.compile(r"[a-zA-Z0-9_-]{16,128}", re.ASCII)
_IDENTIFIER_SCHEMA: Final = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        "required": {"type": "boolean"},
        "id": {"type": "string", "minLength": 16, "maxLength": 128, "pattern": "^[a-zA-Z0-9_-]+$"},
    },
    "required": ["required"],
}


@dataclass(frozen=True, slots=True)
class PaymentTerms:
    """What a node asks for: payments on `domain`'s token to `payee`, valid for `max_timeout_seconds`."""

    domain: TokenDomain
    payee: Address
    max_timeout_seconds: int

    @property
    def network(self) -> str:
        """The chain as CAIP-2 names it."""
        return f"eip155:{self.domain.chain_id}"

    def requirement(self, price: int) -> dict[str, Any]:
        """x402's `PaymentRequirements`. `price` in base units."""
        return {
            "scheme": "exact",
            "network": self.network,
            "asset": self.domain.token,
            "amount": str(price),
            "payTo": self.payee,
            "maxTimeoutSeconds": self.max_timeout_seconds,
            "extra": {
                "name": self.domain.name,
                "version": self.domain.version,
                "assetTransferMethod": "eip3009",
            },
        }


@dataclass(frozen=True, slots=True)
class Payment:
    """What a request brought: an authorization, not yet checked, and the payer's identifier, if any."""

    authorization: Authorization
    signature: bytes
    identifier: str | None = None

    def to_json(self) -> dict[str, Any]:
        """x402's `payload` of the scheme."""
        return {
            "signature": "0x" + self.signature.hex(),
            "authorization": authorization_to_json(self.authorization),
        }


def encode(document: dict[str, Any]) -> bytes:
    """A header's value."""
    return base64.b64encode(orjson.dumps(document))


def payment_required(terms: PaymentTerms, price: int, url: str, description: str, error: str) -> bytes:
    """The value of `PAYMENT-REQUIRED`."""
    return encode(
        {
            "x402Version": 2,
            "error": error,
            "resource": {"url": url, "description": description, "mimeType": "application/json"},
            "accepts": [terms.requirement(price)],
            "extensions": {IDENTIFIER: {"info": {"required": False}, "schema": _IDENTIFIER_SCHEMA}},
        }
    )


def parse_payment(value: bytes, terms: PaymentTerms) -> Payment:
    """The value of `PAYMENT-SIGNATURE`, whatever sum it moves.

    Raises InputError, FieldError `input_payment` if it is malformed, PaymentError `payment_mismatch` if it
    pays something else or somebody else.
    """
    document = _decode(value)
    if document.get("x402Version") != 2:
        raise FieldError("x402Version", "this node takes version 2", code=_CODE)
    accepted = get_field(document, "accepted", code=_CODE)
    payload = get_field(document, "payload", code=_CODE)
    signature = parse_hex(get_field(payload, "signature", code=_CODE), "signature", code=_CODE)
    if not 65 <= len(signature) <= MAX_SIGNATURE:
        raise FieldError(
            "signature", f"expected 65 to {MAX_SIGNATURE} bytes, got {len(signature)}", code=_CODE
        )
    given = _parse_authorization(get_field(payload, "authorization", code=_CODE))
    _check_accepted(accepted, terms.requirement(given.value))
    if given.payee != terms.payee:
        raise PaymentError(
            f"the authorization pays {given.payee}, this node is paid at {terms.payee}; sign what "
            "PAYMENT-REQUIRED asks for",
            code="payment_mismatch",
        )
    return Payment(given, signature, _parse_identifier(document.get("extensions")))


def _decode(value: bytes) -> dict[str, Any]:
    if len(value) > MAX_HEADER:
        raise InputError(f"PAYMENT-SIGNATURE has more than {MAX_HEADER} bytes", code=_CODE)
    try:
        document = orjson.loads(base64.b64decode(value, validate=True))
    except (binascii.Error, orjson.JSONDecodeError) as error:
        raise InputError(f"PAYMENT-SIGNATURE is not base64 of JSON: {error}", code=_CODE) from None
    if not isinstance(document, dict):
        raise InputError("PAYMENT-SIGNATURE is not a JSON object", code=_CODE)
    return document


def _check_accepted(accepted: Any, wanted: dict[str, Any]) -> None:
    """Raises PaymentError `payment_mismatch`."""
    for field in ("scheme", "network", "asset", "amount", "payTo"):
        found = get_field(accepted, field, code=_CODE)
        if not isinstance(found, str) or found.lower() != wanted[field].lower():
            raise PaymentError(
                f"accepted.{field} is {str(found)[:80]!r}, not {wanted[field]!r} as this node asks or the "
                "authorization says; sign what PAYMENT-REQUIRED asks for",
                code="payment_mismatch",
            )


def _parse_authorization(data: Any) -> Authorization:
    def amount(field: str) -> int:
        return parse_decimal(get_field(data, field, code=_CODE), field, UINT256_MAX, code=_CODE)

    return Authorization(
        payer=parse_address(get_field(data, "from", code=_CODE), "from", code=_CODE),
        payee=parse_address(get_field(data, "to", code=_CODE), "to", code=_CODE),
        value=amount("value"),
        valid_after=amount("validAfter"),
        valid_before=amount("validBefore"),
        nonce=parse_hash(get_field(data, "nonce", code=_CODE), "nonce", code=_CODE),
    )


def authorization_from_json(data: Any) -> Authorization:
    """What `authorization_to_json` made. Raises FieldError."""
    return _parse_authorization(data)


def _parse_identifier(extensions: Any) -> str | None:
    """The payer's `id` of `payment-identifier`; None without one."""
    extension = extensions.get(IDENTIFIER) if isinstance(extensions, dict) else None
    info = extension.get("info") if isinstance(extension, dict) else None
    found = info.get("id") if isinstance(info, dict) else None
    if found is None:
        return None
    if not isinstance(found, str) or not _IDENTIFIER.fullmatch(found):
        raise FieldError(
            f"extensions.{IDENTIFIER}.info.id", "expected 16 to 128 letters, digits, - and _", code=_CODE
        )
    return found
