"""Opaque cursors: what comes back is what was given, anything else is refused."""

from __future__ import annotations

import base64

import pytest
from assay.db.repositories.paging import CursorInvalid, decode_cursor, encode_cursor
from assay.db.tables import Offer
from hypothesis import given
from hypothesis import strategies as st

KEYS = (Offer.price, Offer.node, Offer.version_id)


@given(st.integers(0, 2**128 - 1))
def test_decode_cursor__of_an_encoded_one__gives_the_values(price: int) -> None:
    assert decode_cursor(encode_cursor([price, "0xab", "0xcd"]), KEYS) == [price, "0xab", "0xcd"]


@given(st.text() | st.binary().map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
def test_decode_cursor__anything_else__is_refused(text: str) -> None:
    with pytest.raises(CursorInvalid):
        decode_cursor(text, KEYS)


@pytest.mark.parametrize(
    "values",
    [[-1, "a", "b"], [2**128, "a", "b"], [True, "a", "b"], [1.5, "a", "b"], [1, "a\x00", "b"], [1, "a"]],
)
def test_decode_cursor__values_that_do_not_fit__are_refused(values: list[int | str]) -> None:
    with pytest.raises(CursorInvalid):
        decode_cursor(encode_cursor(values), KEYS)
