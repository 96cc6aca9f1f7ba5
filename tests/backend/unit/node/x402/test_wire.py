"""x402's headers against the package's own models, and whatever strangers send."""

from __future__ import annotations

import base64
import json
import warnings
from typing import Any

import pytest
from assay.commitments.authorizations import Authorization, TokenDomain, authorization_to_json
from assay.commitments.identifiers import checksum_address
from assay.commitments.parsing import FieldError
from assay.commitments.signing import SigningKey
from assay.errors import RequestError
from assay.node.errors import InputError, PaymentError
from assay.node.x402 import wire
from assay.types import Hash32
from hypothesis import given
from hypothesis import strategies as st

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # web3 7 asks websockets for its older interface
    from x402.extensions.payment_identifier import (
        append_payment_identifier_to_extensions,
        is_payment_identifier_extension,
    )
    from x402.http.utils import decode_payment_required_header, encode_payment_signature_header
    from x402.schemas import PaymentPayload, PaymentRequired

PAYER = SigningKey(b"\x01" * 32)
DOMAIN = TokenDomain("Test Token", "1", 31337, SigningKey(b"\x02" * 32).address)
TERMS = wire.PaymentTerms(DOMAIN, SigningKey(b"\x03" * 32).address, 120)
PRICE = 5
GIVEN = Authorization(PAYER.address, TERMS.payee, PRICE, 0, 1_800_000_000, Hash32(b"\x04" * 32))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def payload(**changes: Any) -> dict[str, Any]:
    made = wire.Payment(GIVEN, b"\x05" * 65)
    return {"x402Version": 2, "accepted": TERMS.requirement(PRICE), "payload": made.to_json()} | changes


def header(document: Any) -> bytes:
    return base64.b64encode(json.dumps(document).encode())


def required() -> PaymentRequired:
    value = wire.payment_required(TERMS, PRICE, "http://node/infer", "one inference", "pay first")
    found = decode_payment_required_header(value.decode())
    assert isinstance(found, PaymentRequired)
    return found


def test_payment_required__read_by_the_package__is_what_was_meant() -> None:
    found = required()
    assert (found.x402_version, found.error) == (2, "pay first")
    assert found.resource is not None and found.resource.url == "http://node/infer"
    (asked,) = found.accepts
    assert (asked.scheme, asked.network, asked.amount) == ("exact", "eip155:31337", str(PRICE))
    assert (asked.asset, asked.pay_to, asked.max_timeout_seconds) == (DOMAIN.token, TERMS.payee, 120)
    assert found.extensions is not None
    assert is_payment_identifier_extension(found.extensions["payment-identifier"])


@pytest.mark.parametrize("identifier", [None, "pay_7d5d747be160e280504c099d984bcfe0"])
def test_parse_payment__made_by_the_package__is_read_whole(identifier: str | None) -> None:
    asked = required()
    extensions = dict(asked.extensions or {})
    if identifier is not None:
        append_payment_identifier_to_extensions(extensions, identifier)
    theirs = PaymentPayload(
        payload=wire.Payment(GIVEN, b"\x05" * 65).to_json(), accepted=asked.accepts[0], extensions=extensions
    )
    found = wire.parse_payment(encode_payment_signature_header(theirs).encode(), TERMS)
    assert found == wire.Payment(GIVEN, b"\x05" * 65, identifier)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\xff",
        b"e30",
        b"e30=\n",
        b"A" * 16_385,
        header([]),
        header(payload(x402Version=1)),
        header(payload(payload={})),
        header(payload(payload={"signature": "0x" + "00" * 64, "authorization": {}})),
        header(payload(payload={"signature": "0x" + "00" * 1025, "authorization": {}})),
        header(payload(extensions={"payment-identifier": {"info": {"id": "short"}}})),
        header(payload(extensions={"payment-identifier": {"info": {"id": "a" * 129}}})),
        header(payload(extensions={"payment-identifier": {"info": {"id": "a" * 15 + "é"}}})),
        header(payload(extensions={"payment-identifier": {"info": {"id": 7}}})),
    ],
)
def test_parse_payment__malformed__is_refused(value: bytes) -> None:
    with pytest.raises((InputError, FieldError)) as refused:
        wire.parse_payment(value, TERMS)
    assert (refused.value.status, refused.value.code) == (400, "input_payment")


@pytest.mark.parametrize("field", ["nonce", "from", "to", "value", "validAfter", "validBefore"])
@pytest.mark.parametrize("value", [None, "", "-1", "0x", 7, "1e3", "9" * 80])
def test_parse_payment__field_that_is_none__is_refused(field: str, value: Any) -> None:
    document = payload()
    document["payload"]["authorization"][field] = value
    with pytest.raises(RequestError) as refused:
        wire.parse_payment(header(document), TERMS)
    assert refused.value.code == "input_payment"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("scheme", "upto"),
        ("network", "eip155:1"),
        ("asset", TERMS.payee),
        ("amount", "4"),
        ("payTo", PAYER.address),
        ("amount", 5),
    ],
)
def test_parse_payment__accepts_something_else__is_a_mismatch(field: str, value: Any) -> None:
    accepted = TERMS.requirement(PRICE) | {field: value}
    with pytest.raises(PaymentError) as refused:
        wire.parse_payment(header(payload(accepted=accepted)), TERMS)
    assert refused.value.code == "payment_mismatch"


@pytest.mark.parametrize(("field", "value"), [("value", "4"), ("value", "6"), ("to", PAYER.address)])
def test_parse_payment__authorization_of_something_else__is_a_mismatch(field: str, value: str) -> None:
    document = payload()
    document["payload"]["authorization"][field] = value
    with pytest.raises(PaymentError) as refused:
        wire.parse_payment(header(document), TERMS)
    assert refused.value.code == "payment_mismatch"


def test_parse_payment__another_sum_throughout__is_read_for_the_till_to_judge() -> None:
    document = payload(accepted=TERMS.requirement(4))
    document["payload"]["authorization"]["value"] = "4"
    assert wire.parse_payment(header(document), TERMS).authorization.value == 4


@given(JSON, st.sampled_from(["accepted", "payload", "extensions", "x402Version", "authorization", "all"]))
def test_parse_payment__any_json_anywhere__is_read_or_refused(value: Any, where: str) -> None:
    document: Any = payload()
    if where == "all":
        document = value
    elif where == "authorization":
        document["payload"]["authorization"] = value
    else:
        document[where] = value
    try:
        found = wire.parse_payment(header(document), TERMS)
    except RequestError as error:
        assert error.status in (400, 402)
    else:
        assert found.authorization == GIVEN


@given(st.binary(max_size=200))
def test_parse_payment__any_bytes__are_refused(raw: bytes) -> None:
    for value in (raw, base64.b64encode(raw)):
        with pytest.raises(RequestError):
            wire.parse_payment(value, TERMS)


@given(
    st.binary(min_size=20, max_size=20),
    st.integers(0, 2**256 - 1),
    st.integers(0, 2**256 - 1),
    st.binary(min_size=32, max_size=32),
)
def test_authorization__as_json__comes_back(payer: bytes, value: int, before: int, nonce: bytes) -> None:
    made = Authorization(checksum_address(payer), TERMS.payee, value, 0, before, Hash32(nonce))
    assert wire.authorization_from_json(authorization_to_json(made)) == made
