"""What endpoints get: one read transaction a request, the stamp of it, parsed parameters, errors."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from threading import Lock
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Query, Request
from pydantic import AfterValidator, BaseModel, Field
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from assay.api.metrics import Metrics
from assay.api.proofs import Proofs
from assay.api.schemas import Error, PageOut
from assay.commitments.identifiers import checksum_address
from assay.db.engine import read_session
from assay.db.repositories.paging import MAX_LIMIT, Page, PageRequest
from assay.db.repositories.status import get_cursor
from assay.db.tables import Cursor
from assay.errors import ConfigurationError, RequestError, RetryableError
from assay.index.probe import PERIOD

Row = TypeVar("Row")
Item = TypeVar("Item", bound=BaseModel)

AddressIn = Annotated[
    str,
    Field(pattern=r"^0x[0-9a-fA-F]{40}$", examples=["0x" + "11" * 20]),
    AfterValidator(lambda text: checksum_address(text.lower())),
]
HashIn = Annotated[
    str, Field(pattern=r"^0x[0-9a-fA-F]{64}$", examples=["0x" + "ab" * 32]), AfterValidator(str.lower)
]
NameIn = Annotated[str, Field(pattern=r"^[a-z0-9\-_.]{1,64}$", examples=["digits"])]

ERRORS: dict[int | str, dict[str, Any]] = {
    422: {"model": Error, "description": "A parameter is malformed"},
    503: {"model": Error, "description": "No index has run on the database yet, or it is not reachable"},
}
NOT_FOUND: dict[int | str, dict[str, Any]] = {404: {"model": Error, "description": "There is no such thing"}}


class NotFound(RequestError):  # noqa: N818 - names what happened
    """Nothing by that name in the index."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message, status=404, code=code)


class NotReady(RequestError):  # noqa: N818 - names what happened
    """The database has nothing to answer from."""

    def __init__(self, message: str) -> None:
        super().__init__(message, status=503, code="not_ready")


@dataclass
class Context:
    """One per app. `probe_period` is the index's, for what *answering* means."""

    engine: Engine
    probe_period: float = float(PERIOD)
    clock: Callable[[], float] = time.time
    metrics: Metrics = field(default_factory=Metrics)
    proofs: Proofs = field(default_factory=Proofs)
    streams: int = 0
    lock: Lock = field(default_factory=Lock)
    figures: tuple[tuple[object, ...], Any] | None = None


def get_context(request: Request) -> Context:
    context: Context = request.app.state.context
    return context


ContextIn = Annotated[Context, Depends(get_context)]


def get_session(context: ContextIn) -> Iterator[Session]:
    try:
        with read_session(context.engine) as session:
            yield session
    except (DBAPIError, RetryableError) as error:
        raise NotReady(
            "the index database does not answer; is ASSAY_DATABASE_URL right and `assay index run` running?"
        ) from error


SessionIn = Annotated[Session, Depends(get_session)]


def get_stamp(session: SessionIn) -> Cursor:
    try:
        return get_cursor(session)
    except ConfigurationError as error:
        raise NotReady(str(error)) from error


CursorIn = Annotated[Cursor, Depends(get_stamp)]


def get_page(
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = 50,
    cursor: Annotated[
        str | None,
        Query(min_length=1, max_length=512, description="`next_cursor` of the page before", examples=[None]),
    ] = None,
) -> PageRequest:
    return PageRequest(limit, cursor)


PageIn = Annotated[PageRequest, Depends(get_page)]


def stamp_of(cursor: Cursor) -> dict[str, int]:
    return {
        "indexed_block": cursor.number,
        "head_block": cursor.head_number,
        "finalized_block": min(cursor.finalized_number, cursor.head_number),
    }


def page_out(page: Page[Row], cursor: Cursor, render: Callable[[Row], Item]) -> PageOut[Item]:
    return PageOut[Item](
        items=[render(row) for row in page.items], next_cursor=page.next_cursor, **stamp_of(cursor)
    )
