"""What the head of an inference request says."""

from __future__ import annotations

import json

import pytest
from assay.errors import RequestError
from assay.node.http.messages import Request
from assay.node.inference_head import InferenceHead
from assay.node.models.catalog import Route

ROUTE = Route("digits", 1, "infer")
VOUCHER = {"consumer": "0x" + "11" * 20, "amount": 5, "count": "0", "signature": "0xab"}


def read(headers: dict[bytes, bytes], *, sells_by_x402: bool = True) -> InferenceHead:
    head = InferenceHead(ROUTE)
    head.read(Request("POST", b"/v2/models/digits/infer", b"", headers, "peer"), sells_by_x402=sells_by_x402)
    assert head.is_read and head.route is ROUTE
    return head


def test_read__nothing_said__is_json_without_payment() -> None:
    head = read({})
    assert (head.json_length, head.voucher, head.by_x402) == (None, {}, False)


def test_read__length_and_voucher__are_told_as_parameters() -> None:
    head = read({b"inference-header-content-length": b"120", b"assay-voucher": json.dumps(VOUCHER).encode()})
    assert head.json_length == 120 and not head.by_x402
    assert head.voucher == {f"voucher_{name}": str(value) for name, value in VOUCHER.items()}


def test_read__payment_by_x402__looks_for_no_voucher_where_it_is_sold() -> None:
    headers = {b"payment-signature": b"x", b"assay-voucher": b"no JSON"}
    assert read(headers).by_x402
    with pytest.raises(RequestError, match="does not parse"):
        read(headers, sells_by_x402=False)


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        (b"inference-header-content-length", b"-1", "input_header"),
        (b"inference-header-content-length", b"1" * 13, "input_header"),
        (b"assay-voucher", b"[]", "input_voucher"),
        (b"assay-voucher", b'{"consumer":[{},{}]}', "input_voucher"),
        (b"assay-voucher", b'{"amount":{}}', "input_voucher"),
    ],
)
def test_read__what_it_cannot_be__is_refused_and_not_kept(name: bytes, value: bytes, code: str) -> None:
    head = InferenceHead(ROUTE)
    with pytest.raises(RequestError) as caught:
        head.read(Request("POST", b"/", b"", {name: value}, "peer"), sells_by_x402=False)
    assert caught.value.code == code and not head.is_read and not head.voucher
