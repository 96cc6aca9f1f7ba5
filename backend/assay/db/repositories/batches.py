"""Batches, their vouchers, and their receipts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.orm import InstrumentedAttribute, Session, joinedload

from assay.db.repositories.paging import Page, PageRequest, fetch_page
from assay.db.tables import Batch, BatchCheck, BatchVoucher, Receipt, Version, Void
from assay.types import BatchAvailability

BATCH_ORDER = (Batch.block_number, Batch.log_index)
DIGESTS = 10_000
RECEIPT_ORDER = (Receipt.block_number, Receipt.log_index, Receipt.position)


CHECKED_VERSION = joinedload(Batch.version).joinedload(Version.program_check)


@dataclass(frozen=True, slots=True)
class BatchFilter:
    node: str | None = None
    version_id: str | None = None
    availability: BatchAvailability | None = None


@dataclass(frozen=True, slots=True)
class ReceiptFilter:
    digest: str | None = None
    node: str | None = None
    consumer: str | None = None
    version_id: str | None = None
    batch_id: str | None = None


def _batches() -> Select[Batch]:
    return select(Batch).options(joinedload(Batch.check), CHECKED_VERSION)


def list_batches(session: Session, wanted: BatchFilter, page: PageRequest) -> Page[Batch]:
    """Newest first."""
    query = _batches()
    if wanted.node is not None:
        query = query.where(Batch.node == wanted.node)
    if wanted.version_id is not None:
        query = query.where(Batch.version_id == wanted.version_id)
    if wanted.availability is not None:
        state = func.coalesce(BatchCheck.availability, BatchAvailability.UNCHECKED.value)
        query = query.outerjoin(BatchCheck, BatchCheck.batch_id == Batch.batch_id)
        query = query.where(state == wanted.availability.value)
    return fetch_page(session, query, BATCH_ORDER, page, descending=True)


def get_batch(session: Session, batch_id: str) -> Batch | None:
    query = _batches()
    return session.scalars(query.where(Batch.batch_id == batch_id)).first()


def vouchers_of(session: Session, batch_id: str) -> list[BatchVoucher]:
    """At most 160: what `post_batch` takes."""
    query = select(BatchVoucher).where(BatchVoucher.batch_id == batch_id)
    return list(session.scalars(query.order_by(BatchVoucher.skipped, BatchVoucher.position)))


def list_receipts(session: Session, wanted: ReceiptFilter, page: PageRequest) -> Page[Receipt]:
    """Newest batch first, last leaf first."""
    query = _receipts()
    for column, value in (
        (Receipt.digest, wanted.digest),
        (Receipt.node, wanted.node),
        (Receipt.consumer, wanted.consumer),
        (Receipt.version_id, wanted.version_id),
        (Receipt.batch_id, wanted.batch_id),
    ):
        if value is not None:
            query = query.where(column == value)
    order: Sequence[InstrumentedAttribute[int]] = RECEIPT_ORDER
    if wanted.batch_id is not None:
        place = session.execute(select(*BATCH_ORDER).where(Batch.batch_id == wanted.batch_id)).first()
        if place is None:
            return Page([], None)
        # What the indexes of others' receipts have in front of the position.
        query = query.where(Receipt.block_number == place[0], Receipt.log_index == place[1])
        order = RECEIPT_ORDER[-1:]
    return fetch_page(session, query, order, page, descending=True)


def get_receipt(session: Session, digest: str) -> Receipt | None:
    return session.scalars(_receipts().where(Receipt.digest == digest)).first()


def _receipts() -> Select[Receipt]:
    return select(Receipt).options(joinedload(Receipt.batch).options(CHECKED_VERSION)).where(is_published())


def is_published() -> ColumnElement[bool]:
    """Whether all of a receipt's batch is there: a large one is written in several transactions."""
    available = BatchCheck.availability == BatchAvailability.AVAILABLE.value
    return select(BatchCheck.batch_id).where(BatchCheck.batch_id == Receipt.batch_id, available).exists()


def digests_of(session: Session, batch_id: str) -> Iterator[bytes]:
    """In leaf order, so many at a time."""
    query = select(Receipt.digest).where(Receipt.batch_id == batch_id).order_by(Receipt.position)
    for digest in session.scalars(query.execution_options(yield_per=DIGESTS)):
        yield bytes.fromhex(digest[2:])


def voided_among(session: Session, digests: Sequence[str]) -> set[str]:
    return set(session.scalars(select(Void.digest).where(Void.digest.in_(digests))))
