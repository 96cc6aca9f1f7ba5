from __future__ import annotations

import pytest
from assay.node.errors import PaymentError
from assay.node.payments.terms import Terms, parse_terms
from assay.types import ZERO_ADDRESS, Address, Hash32

NODE = Address("0x" + "11" * 20)
VERSION = Hash32(bytes(32))
SOMEBODY = "0x" + "22" * 20


def test_parse_terms__free_version_without_voucher__is_nobodys() -> None:
    assert parse_terms({}, 0, NODE, VERSION) == Terms(ZERO_ADDRESS)


def test_parse_terms__consumer_named_without_signature__stays_nobodys() -> None:
    assert parse_terms({"consumer": SOMEBODY}, 0, NODE, VERSION).consumer == ZERO_ADDRESS


def test_parse_terms__priced_version_without_voucher__says_what_to_send() -> None:
    with pytest.raises(PaymentError, match="voucher_consumer, voucher_amount") as refused:
        parse_terms({"consumer": SOMEBODY}, 5, NODE, VERSION)
    assert refused.value.code == "voucher_missing"


def test_parse_terms__half_a_voucher__names_what_is_missing() -> None:
    with pytest.raises(PaymentError, match="voucher_signature is missing"):
        parse_terms(
            {"voucher_consumer": SOMEBODY, "voucher_amount": "1", "voucher_count": "0"}, 0, NODE, VERSION
        )
