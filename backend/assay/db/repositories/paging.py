"""Keyset pagination: a page is what follows the last row seen; rows that come in meanwhile move nothing."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import Select, literal, tuple_
from sqlalchemy.orm import InstrumentedAttribute, Session

from assay.db.columns import MAX_AMOUNT, AmountType
from assay.errors import RequestError

T = TypeVar("T")
MAX_LIMIT = 200
MAX_INTEGER = 2**63 - 1


class CursorInvalid(RequestError):  # noqa: N818 - names what is wrong
    """`cursor` is not one that this endpoint gave."""

    def __init__(self) -> None:
        super().__init__(
            "cursor is not one that this endpoint gave; leave it out to start from the beginning",
            status=422,
            code="cursor_invalid",
        )


@dataclass(frozen=True, slots=True)
class PageRequest:
    limit: int = 50
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    items: list[T]
    next_cursor: str | None


def fetch_page(
    session: Session,
    query: Select[T],
    keys: Sequence[InstrumentedAttribute[Any]],
    request: PageRequest,
    *,
    descending: bool = False,
) -> Page[T]:
    """The rows after `request.cursor` in the order of `keys`, which together are unique."""
    columns = [column.desc() if descending else column.asc() for column in keys]
    if request.cursor is not None:
        last = decode_cursor(request.cursor, keys)
        bound = tuple_(*(literal(value, key.type) for value, key in zip(last, keys, strict=True)))
        query = query.where(tuple_(*keys) < bound if descending else tuple_(*keys) > bound)
    rows = list(session.scalars(query.order_by(*columns).limit(request.limit + 1)))
    if len(rows) <= request.limit:
        return Page(rows, None)
    rows.pop()
    return Page(rows, encode_cursor([getattr(rows[-1], key.key) for key in keys]))


def encode_cursor(values: Sequence[int | str]) -> str:
    return (
        base64.urlsafe_b64encode(json.dumps(list(values), separators=(",", ":")).encode())
        .decode()
        .rstrip("=")
    )


def decode_cursor(text: str, keys: Sequence[InstrumentedAttribute[Any]]) -> list[int | str]:
    """Raises CursorInvalid for anything that `encode_cursor` did not make of such keys."""
    try:
        values = json.loads(base64.urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4)))
    except (ValueError, binascii.Error, RecursionError) as error:
        raise CursorInvalid from error
    if not isinstance(values, list) or len(values) != len(keys):
        raise CursorInvalid
    for value, key in zip(values, keys, strict=True):
        if not _fits(value, key):
            raise CursorInvalid
    return values


def _fits(value: Any, key: InstrumentedAttribute[Any]) -> bool:
    if key.type.python_type is int or isinstance(key.type, AmountType):
        maximum = MAX_AMOUNT if isinstance(key.type, AmountType) else MAX_INTEGER
        return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= maximum
    return isinstance(value, str) and value.isascii() and value.isprintable()
