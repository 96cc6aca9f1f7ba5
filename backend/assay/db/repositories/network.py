"""The rows that the network figures are made of (SPEC.md §8)."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from assay.db.repositories.nodes import newest_probes
from assay.db.repositories.status import get_cursor
from assay.db.tables import Batch, BatchCheck, Node, Offer, Probe, Version
from assay.types import ZERO_HASH, Assurance, BatchAvailability, VersionStatus

NO_PROGRAM = "0x" + ZERO_HASH.hex()


@dataclass(frozen=True, slots=True)
class BatchRow:
    """A FINAL batch. `receipts` is None unless its data is available."""

    node: str
    version_id: str
    is_provable: bool
    posted_at: int
    is_paid: bool
    count: int
    voided: int
    receipts: int | None


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
    query = (
        select(
            Batch.node,
            Batch.version_id,
            Version.assurance != Assurance.SIGNED,
            Batch.posted_at,
            Batch.amount,
            Batch.count,
            Batch.voided,
            BatchCheck.availability,
            BatchCheck.receipts,
        )
        .join(Version, Version.version_id == Batch.version_id)
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
            voided=row[6],
            receipts=row[8] if row[7] == BatchAvailability.AVAILABLE else None,
        )
        for row in session.execute(query)
    ]


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
    return (cursor.hash, *checked, session.scalar(select(func.max(Probe.at))))
