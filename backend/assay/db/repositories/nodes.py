"""Nodes, their offers, channels with them, and their newest probe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import and_, func, select
from sqlalchemy.orm import Session

from assay.db.repositories.paging import Page, PageRequest, fetch_page
from assay.db.tables import Channel, Escrow, Node, Offer, Probe, Signer, Version


@dataclass(frozen=True, slots=True)
class OfferFilter:
    node: str | None = None
    version_id: str | None = None
    is_active: bool | None = None


@dataclass(frozen=True, slots=True)
class ChannelFilter:
    consumer: str | None = None
    node: str | None = None
    version_id: str | None = None


def list_nodes(session: Session, page: PageRequest) -> Page[Node]:
    return fetch_page(session, select(Node), (Node.block_number, Node.log_index), page)


def get_nodes(session: Session, nodes: Sequence[str]) -> dict[str, Node]:
    return {row.node: row for row in session.scalars(select(Node).where(Node.node.in_(nodes)))}


def signers_of(session: Session, node: str) -> list[Signer]:
    """Every key that was ever the node's signer, oldest first."""
    query = select(Signer).where(Signer.node == node).order_by(Signer.valid_from, Signer.signer)
    return list(session.scalars(query.limit(1000)))


def newest_probes(session: Session, nodes: Sequence[str] | None = None) -> dict[str, Probe]:
    newest = select(Probe.node, func.max(Probe.at).label("at")).group_by(Probe.node).subquery()
    query = select(Probe).join(newest, and_(Probe.node == newest.c.node, Probe.at == newest.c.at))
    if nodes is not None:
        query = query.where(Probe.node.in_(nodes))
    return {probe.node: probe for probe in session.scalars(query)}


def list_offers(session: Session, wanted: OfferFilter, page: PageRequest) -> Page[Offer]:
    """Cheapest first. Offers of versions that the registry does not know are left out."""
    query = select(Offer).join(Version, Version.version_id == Offer.version_id)
    if wanted.node is not None:
        query = query.where(Offer.node == wanted.node)
    if wanted.version_id is not None:
        query = query.where(Offer.version_id == wanted.version_id)
    if wanted.is_active is not None:
        query = query.where(Offer.active.is_(wanted.is_active))
    return fetch_page(session, query, (Offer.price, Offer.node, Offer.version_id), page)


def list_channels(session: Session, wanted: ChannelFilter, page: PageRequest) -> Page[Channel]:
    query = select(Channel)
    for column, value in (
        (Channel.consumer, wanted.consumer),
        (Channel.node, wanted.node),
        (Channel.version_id, wanted.version_id),
    ):
        if value is not None:
            query = query.where(column == value)
    return fetch_page(session, query, (Channel.consumer, Channel.node, Channel.version_id), page)


def escrows_of(session: Session, channels: Sequence[Channel]) -> dict[tuple[str, str], Escrow]:
    """Escrows by (consumer, node)."""
    consumers, nodes = {c.consumer for c in channels}, {c.node for c in channels}
    query = select(Escrow).where(Escrow.consumer.in_(consumers), Escrow.node.in_(nodes))
    return {(row.consumer, row.node): row for row in session.scalars(query)}
