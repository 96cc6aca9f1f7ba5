"""Bytes to gRPC messages: what is none, or would take a hundred times its bytes, is refused by name."""

from __future__ import annotations

import tracemalloc

import pytest
from assay.errors import RequestError
from assay.node.grpc.messages import load_messages
from assay.node.grpc.parsing import MAX_FIELDS, has_more_fields, parser_of
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

KIND = load_messages().ModelInferRequest
PARSE = parser_of(KIND)
GROUP = b"\x0b\x0c"
"""An empty one: no message of the protocol has any, and protobuf keeps it as it is."""


def code_of(raw: bytes) -> str:
    with pytest.raises(RequestError) as caught:
        PARSE(raw)
    return caught.value.code


@pytest.mark.parametrize(
    "raw",
    [
        b"\xff\xff\xff",
        b"\x0a\x05ab",
        b"\x0a\x02\xff\xfe",
        b"\x0b" * 200,
        b"\x0a" + b"\xff" * 11,
        b"\x0e",
        b"\x00",
    ],
)
def test_parse__bytes_that_are_no_message__refused(raw: bytes) -> None:
    assert code_of(raw) == "input_json"


@pytest.mark.parametrize(
    "field", [b"\x2a\x00", b"\x32\x00", b"\x3a\x00", b"\x22\x00", b"\x08\x01", b"\x09" + bytes(8)]
)
@pytest.mark.parametrize("before", [b"", b"\x0a\x01m", GROUP, b"\x0b" + b"\x08\x01" * 3 + b"\x0c"])
def test_parse__more_fields_than_are_taken__refused_without_being_parsed(field: bytes, before: bytes) -> None:
    raw = before + field * 100_000
    tracemalloc.start()
    try:
        assert code_of(raw) == "too_large"
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_parse__as_many_fields_as_are_taken__parsed() -> None:
    assert len(PARSE(b"\x2a\x00" * MAX_FIELDS).inputs) == MAX_FIELDS


FIELDS = st.one_of(
    st.builds(
        lambda tag, body: bytes([tag << 3 | 2, len(body)]) + body, st.integers(1, 15), st.binary(max_size=9)
    ),
    st.sampled_from([b"\x08\x01", b"\x80\x08\x80\x01", b"\x09" + bytes(8), b"\x0d" + bytes(4), GROUP]),
    st.binary(max_size=4),
)


@given(st.lists(FIELDS, max_size=12).map(b"".join), st.integers(0, 12))
def test_has_more_fields__any_bytes__never_fewer_than_protobuf_finds(raw: bytes, most: int) -> None:
    """Of those fields of which each takes memory."""
    try:
        message = KIND.FromString(raw)
    except DecodeError:
        return
    found = (
        len(message.inputs) + len(message.outputs) + len(message.parameters) + len(message.raw_input_contents)
    )
    assert found <= most or has_more_fields(raw, most)
