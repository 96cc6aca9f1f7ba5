import pytest
from assay.errors import RequestError
from assay.hub import ranges
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=2-4", (2, 5)),
        ("bytes=2-", (2, 10)),
        ("bytes=9-99", (9, 10)),
        ("bytes=-3", (7, 10)),
        ("bytes=-99", (0, 10)),
        ("", None),
        ("bytes=-", None),
        ("bytes=4-2", None),
        ("bytes=0-1,3-4", None),
        ("chunks=0-1", None),
        ("bytes=a-b", None),
    ],
)
def test_parse_range__ten_bytes__is_as_rfc_9110_says(header: str, expected: tuple[int, int] | None) -> None:
    assert ranges.parse_range(header, 10) == expected


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=10-12", "bytes=-0"])
def test_parse_range__no_byte_in_it__is_416(header: str) -> None:
    with pytest.raises(RequestError) as caught:
        ranges.parse_range(header, 10)
    assert (caught.value.status, caught.value.code) == (416, "range_unsatisfiable")


@given(st.text(max_size=30), st.integers(0, 100))
def test_parse_range__any_text__is_inside_or_refused(header: str, size: int) -> None:
    try:
        span = ranges.parse_range(header, size)
    except RequestError as error:
        assert error.status == 416
    else:
        assert span is None or 0 <= span[0] < span[1] <= size


def test_parse_content_range__valid__is_half_open() -> None:
    assert ranges.parse_content_range("bytes 2-4/9") == ranges.ContentRange(2, 5, 9)


@pytest.mark.parametrize("header", ["", "bytes 4-2/9", "bytes 0-9/9", "bytes 0-1/*", "bytes */9", "0-1/2"])
def test_parse_content_range__malformed__is_refused(header: str) -> None:
    with pytest.raises(RequestError) as caught:
        ranges.parse_content_range(header)
    assert caught.value.code == "content_range_invalid"
