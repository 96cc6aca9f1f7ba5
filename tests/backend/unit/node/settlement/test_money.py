"""What the operator's route for profit and loss is asked for."""

from __future__ import annotations

import pytest
from assay.errors import RequestError
from assay.node.settlement.money import DAYS, parse_days


@pytest.mark.parametrize(
    ("query", "days"),
    [
        (b"", None),
        (b"by=version", None),
        (b"by=day", DAYS),
        (b"by=day&days=7", 7),
        (b"days=0&by=day", 0),
        (b"by=%64ay", DAYS),
    ],
)
def test_parse_days__each_form__days_or_versions(query: bytes, days: int | None) -> None:
    assert parse_days(query) == days


@pytest.mark.parametrize(
    "query",
    [
        *(b"by=month", b"by=", b"days=3", b"by=version&days=3", b"by=day&days=", b"by=day&days=-1"),
        *(b"by=day&days=1.5", b"by=day&days=99999999999", b"by=day&by=day", b"by=day&from=3"),
        *(b"by", b"&&", b"\xff=1"),
    ],
)
def test_parse_days__anything_else__named_and_refused(query: bytes) -> None:
    with pytest.raises(RequestError) as caught:
        parse_days(query)
    assert (caught.value.status, caught.value.code) == (400, "field_invalid")
