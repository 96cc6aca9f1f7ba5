"""Batches, their vouchers, and their receipts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session, joinedload

from assay.db.repositories.paging import Page, PageRequest, fetch_page
from assay.db.tables import Batch, BatchCheck, BatchVoucher, Receipt, Version, Void
from assay.types import BatchAvailability

BATCH_ORDER = (Batch.block_number, Batch.log_index)
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
    return fetch_page(session, query, RECEIPT_ORDER, page, descending=True)


def get_receipt(session: Session, digest: str) -> Receipt | None:
    return session.scalars(_receipts().where(Receipt.digest == digest)).first()


def _receipts() -> Select[Receipt]:
    return select(Receipt).options(joinedload(Receipt.batch).options(CHECKED_VERSION))


def digests_of(session: Session, batch_id: str) -> list[str]:
    """In leaf order."""
    query = select(Receipt.digest).where(Receipt.batch_id == batch_id).order_by(Receipt.position)
    return list(session.scalars(query))


def voided_among(session: Session, digests: Sequence[str]) -> set[str]:
    return set(session.scalars(select(Void.digest).where(Void.digest.in_(digests))))
