"""Decimal amounts of tokens to base units and back, without rounding."""

from __future__ import annotations

from decimal import Context, localcontext

import pytest
from assay.cli.connect import format_amount, parse_amount
from assay.errors import RequestError
from hypothesis import given
from hypothesis import strategies as st


@given(st.integers(0, 2**128 - 1), st.integers(0, 30))
def test_parse_amount__what_format_writes__is_the_same(units: int, decimals: int) -> None:
    assert parse_amount(format_amount(units, decimals), decimals) == units


@pytest.mark.parametrize(
    ("text", "decimals", "units"),
    [
        ("1.5", 6, 1_500_000),
        ("0", 18, 0),
        ("1_000", 0, 1000),
        ("1e3", 2, 100_000),
        ("10000000000.000000000000000001", 18, 10**28 + 1),
        ("123456789012345678901234567890", 18, 123456789012345678901234567890 * 10**18),
    ],
)
def test_parse_amount__decimal__base_units(text: str, decimals: int, units: int) -> None:
    with localcontext(Context()):  # whatever precision other packages set
        assert parse_amount(text, decimals) == units


@pytest.mark.parametrize(
    "text", ["", "x", "-1", "1.2345678", "nan", "inf", "1,5", "0x10", "1e999990", "1e90"]
)
def test_parse_amount__no_amount_or_too_fine__refused(text: str) -> None:
    with pytest.raises(RequestError, match="is not an amount"):
        parse_amount(text, 6)
