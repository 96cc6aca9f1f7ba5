"""The rows that the network figures are made of (SPEC.md §8)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, func, select
from sqlalchemy.orm import Session

from assay.db.repositories.batches import is_published
from assay.db.repositories.nodes import newest_probes
from assay.db.repositories.status import get_cursor
from assay.db.tables import (
    Batch,
    BatchCheck,
    Dispute,
    Fraud,
    Node,
    Offer,
    Probe,
    ProgramCheck,
    Receipt,
    Version,
    Void,
)
from assay.types import ZERO_HASH, Assurance, BatchAvailability, DisputeState, VersionStatus

NO_PROGRAM = "0x" + ZERO_HASH.hex()


@dataclass(frozen=True, slots=True)
class BatchRow:
    """A FINAL batch. `receipts` is None unless its data is available; `voided`, `disputed`: those of its
    receipts that a dispute took, or may yet take.
    """

    node: str
    version_id: str
    is_provable: bool
    posted_at: int
    is_paid: bool
    count: int
    voided: int
    receipts: int | None
    disputed: int = 0


@dataclass(frozen=True, slots=True)
class ProbeRow:
    at: int
    answered: bool
    received: int | None
    in_deadline: int | None


@dataclass(frozen=True, slots=True)
class NodeRow:
    """A node with active stake and an active offer. `probes`: the window's, oldest first."""

    node: str
    stake: int
    offers: frozenset[str]
    probes: tuple[ProbeRow, ...]
    newest_at: int | None
    newest_answered: bool
    listed: frozenset[str]


def final_batches(session: Session) -> list[BatchRow]:
    """Every FINAL batch as of the indexed block, in posting order."""
    cursor = get_cursor(session)
    void, disputed = _void_per_batch(session), _disputed_per_batch(session)
    query = (
        select(
            Batch.node,
            Batch.version_id,
            is_reproduced(),
            Batch.posted_at,
            Batch.amount,
            Batch.count,
            Batch.voided,
            BatchCheck.availability,
            BatchCheck.receipts,
            Batch.batch_id,
        )
        .join(Version, Version.version_id == Batch.version_id)
        .outerjoin(ProgramCheck, ProgramCheck.artifact == Version.artifact)
        .outerjoin(BatchCheck, BatchCheck.batch_id == Batch.batch_id)
        .where(Batch.posted_at + cursor.dispute_window <= cursor.timestamp, Batch.holds == 0)
        .order_by(Batch.block_number, Batch.log_index)
    )
    return [
        BatchRow(
            node=row[0],
            version_id=row[1],
            is_provable=bool(row[2]),
            posted_at=row[3],
            is_paid=row[4] > 0,
            count=row[5],
            voided=max(row[6], void.get(row[9], 0)),
            receipts=row[8] if row[7] == BatchAvailability.AVAILABLE else None,
            disputed=disputed.get(row[9], 0),
        )
        for row in session.execute(query)
    ]


def is_reproduced() -> ColumnElement[bool]:
    """Whether a version claims a program and its artifact lowers to it here (SPEC.md §8)."""
    claims = Version.assurance != Assurance.SIGNED
    return and_(claims, func.coalesce(ProgramCheck.program_root, NO_PROGRAM) == Version.program_root)


def _void_per_batch(session: Session) -> dict[str, int]:
    """Published receipts that are void, those included that were voided before they were in a batch."""
    query = select(Receipt.batch_id, func.count()).join(Void, Void.digest == Receipt.digest)
    query = query.where(is_published())
    return {batch_id: count for batch_id, count in session.execute(query.group_by(Receipt.batch_id))}


def _disputed_per_batch(session: Session) -> dict[str, int]:
    """Published receipts under an open dispute and not void."""
    void = select(Void.digest).where(Void.digest == Receipt.digest).exists()
    query = (
        select(Receipt.batch_id, func.count(func.distinct(Receipt.digest)))
        .join(Dispute, Dispute.digest == Receipt.digest)
        .where(Dispute.state == DisputeState.OPEN.value, ~void, is_published())
        .group_by(Receipt.batch_id)
    )
    return {batch_id: count for batch_id, count in session.execute(query)}


@dataclass(frozen=True, slots=True)
class DisputeFigures:
    """`slashed`: taken from all nodes by disputes and proven frauds, base units."""

    by_state: Mapping[str, int]
    frauds: int
    slashed: int


def dispute_figures(session: Session) -> DisputeFigures:
    counts = session.execute(select(Dispute.state, func.count()).group_by(Dispute.state))
    by_state = dict.fromkeys((state.value for state in DisputeState), 0)
    frauds = session.scalar(select(func.count()).select_from(Fraud)) or 0
    slashed = sum(session.scalars(select(Node.slashed)))  # text in the database: no SQL sum
    return DisputeFigures(by_state | {state: number for state, number in counts}, frauds, slashed)


def active_versions(session: Session) -> list[str]:
    return list(
        session.scalars(select(Version.version_id).where(Version.status == int(VersionStatus.ACTIVE)))
    )


def offering_nodes(session: Session, since: int) -> list[NodeRow]:
    """Nodes with active stake and an active offer, with their probes since a time."""
    cursor = get_cursor(session)
    offers: dict[str, set[str]] = {}
    for node, version_id in session.execute(
        select(Offer.node, Offer.version_id).where(Offer.active.is_(True))
    ):
        offers.setdefault(node, set()).add(version_id)
    probes: dict[str, list[ProbeRow]] = {}
    columns = (Probe.node, Probe.at, Probe.answered, Probe.received, Probe.in_deadline)
    for row in session.execute(select(*columns).where(Probe.at >= since).order_by(Probe.at)):
        seen = ProbeRow(row.at, row.answered, row.received, row.in_deadline)
        probes.setdefault(row.node, []).append(seen)
    newest = newest_probes(session)
    nodes = session.execute(select(Node.node, Node.stake).where(Node.stake >= cursor.min_stake))
    return [
        NodeRow(
            node=node,
            stake=stake,
            offers=frozenset(offers[node]),
            probes=tuple(probes.get(node, ())),
            newest_at=newest[node].at if node in newest else None,
            newest_answered=node in newest and newest[node].answered,
            listed=frozenset(newest[node].versions) if node in newest else frozenset(),
        )
        for node, stake in nodes
        if node in offers
    ]


def stamp(session: Session) -> tuple[object, ...]:
    """Changes when any figure may have changed."""
    cursor = get_cursor(session)
    checked = session.execute(select(func.max(BatchCheck.checked_at), func.count(BatchCheck.batch_id))).one()
    rows = (func.max(ProgramCheck.checked_at), func.sum(ProgramCheck.attempts))
    lowered = session.execute(select(*rows)).one()
    return (cursor.hash, *checked, *lowered, session.scalar(select(func.max(Probe.at))))
