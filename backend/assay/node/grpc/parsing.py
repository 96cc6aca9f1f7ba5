"""A message's bytes to a message, if it is one that this node wants to hold. Pure.

Two bytes of the wire make an empty tensor of a hundred bytes in memory, and of a thousand once it is looked
at: how many tensors and parameters a message has is counted before it is parsed. Source: protobuf's encoding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from google.protobuf.message import DecodeError

from assay.node.errors import InputError, TooLarge
from assay.node.grpc.messages import Message

MAX_FIELDS: Final = 4096
"""Of a message itself: each of its tensors, of their contents and of its parameters is one."""
_VARINT, _FIXED64, _BYTES, _GROUP, _END_GROUP, _FIXED32 = range(6)


def parser_of(kind: Any) -> Callable[[bytes], Message]:
    """What reads messages of a class. It raises TooLarge, InputError `input_json`."""

    def parse(raw: bytes) -> Message:
        if has_more_fields(raw, MAX_FIELDS):
            raise TooLarge(f"the message has more than {MAX_FIELDS} tensors and parameters")
        try:
            return kind.FromString(raw)
        except DecodeError:
            name = kind.DESCRIPTOR.full_name
            raise InputError(
                f"the message is no {name}; make it with the protocol's stubs", code="input_json"
            ) from None

    return parse


def has_more_fields(raw: bytes, most: int) -> bool:
    """Whether a message has more than `most` fields, not counting those of its fields, but of groups. What
    cannot be read has as many as come before that: protobuf refuses it there."""
    at, end = 0, len(raw)
    for _ in range(most):
        if at >= end:
            return False
        tag, at = _varint(raw, at)
        kind = tag & 7
        if kind == _BYTES:
            size, at = _varint(raw, at)
            at += size
        elif kind == _VARINT:
            _, at = _varint(raw, at)
        elif kind in (_FIXED32, _FIXED64):
            at += 4 if kind == _FIXED32 else 8
        elif kind not in (_GROUP, _END_GROUP):
            return False
    return at < end


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    """(value, where it ends): behind all of `raw` if it is cut off or longer than ten bytes."""
    value = shift = 0
    for byte in raw[at : at + 10]:
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    return 0, len(raw)
