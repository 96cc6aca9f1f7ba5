"""Disputes, their moves, and frauds that two signatures proved."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from assay.db.repositories.paging import Page, PageRequest, fetch_page
from assay.db.tables import Dispute, DisputeMove, Fraud
from assay.types import DisputeState, FraudKind


@dataclass(frozen=True, slots=True)
class DisputeFilter:
    node: str | None = None
    challenger: str | None = None
    version_id: str | None = None
    digest: str | None = None
    state: DisputeState | None = None


@dataclass(frozen=True, slots=True)
class FraudFilter:
    node: str | None = None
    reporter: str | None = None
    kind: FraudKind | None = None


def list_disputes(session: Session, wanted: DisputeFilter, page: PageRequest) -> Page[Dispute]:
    """Newest first."""
    query = select(Dispute)
    for column, value in (
        (Dispute.node, wanted.node),
        (Dispute.challenger, wanted.challenger),
        (Dispute.version_id, wanted.version_id),
        (Dispute.digest, wanted.digest),
        (Dispute.state, wanted.state and wanted.state.value),
    ):
        if value is not None:
            query = query.where(column == value)
    return fetch_page(session, query, (Dispute.dispute_id,), page, descending=True)


def get_dispute(session: Session, dispute_id: int) -> Dispute | None:
    return session.get(Dispute, dispute_id)


def moves_of(session: Session, dispute_id: int) -> list[DisputeMove]:
    """At most `MAX_MOVES`, in the order in which they were played."""
    query = select(DisputeMove).where(DisputeMove.dispute_id == dispute_id)
    return list(session.scalars(query.order_by(DisputeMove.number)))


def disputes_of(session: Session, digests: Sequence[str]) -> dict[str, list[Dispute]]:
    """Each receipt's disputes, oldest first; receipts without one are left out."""
    found: dict[str, list[Dispute]] = defaultdict(list)
    query = select(Dispute).where(Dispute.digest.in_(digests)).order_by(Dispute.dispute_id)
    for dispute in session.scalars(query):
        found[dispute.digest].append(dispute)
    return dict(found)


def list_frauds(session: Session, wanted: FraudFilter, page: PageRequest) -> Page[Fraud]:
    """Newest first."""
    query = select(Fraud)
    for column, value in (
        (Fraud.node, wanted.node),
        (Fraud.reporter, wanted.reporter),
        (Fraud.kind, wanted.kind and wanted.kind.value),
    ):
        if value is not None:
            query = query.where(column == value)
    return fetch_page(session, query, (Fraud.block_number, Fraud.log_index), page, descending=True)
