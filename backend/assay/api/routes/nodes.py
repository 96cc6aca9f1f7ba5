"""/v1/nodes, /v1/offers, /v1/channels."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from sqlalchemy.orm import Session

from assay.api.context import (
    ERRORS,
    NOT_FOUND,
    AddressIn,
    Context,
    ContextIn,
    CursorIn,
    HashIn,
    NotFound,
    PageIn,
    SessionIn,
    page_out,
    stamp_of,
)
from assay.api.render import channel_item, node_item, offer_item
from assay.api.schemas import ChannelItem, NodeItem, NodeOut, OfferItem, PageOut, SignerItem
from assay.api.tagging import TaggedRoute
from assay.db.repositories import nodes
from assay.db.repositories.paging import PageRequest
from assay.db.tables import Cursor

router = APIRouter(prefix="/v1", route_class=TaggedRoute, responses=ERRORS)


@router.get("/nodes", operation_id="list_nodes", tags=["nodes"])
def list_nodes(session: SessionIn, cursor: CursorIn, context: ContextIn, page: PageIn) -> PageOut[NodeItem]:
    """Registered nodes, oldest first."""
    found = nodes.list_nodes(session, page)
    probes = nodes.newest_probes(session, [node.node for node in found.items])
    now, period = int(context.clock()), context.probe_period
    return page_out(found, cursor, lambda node: node_item(node, cursor, probes.get(node.node), now, period))


@router.get("/nodes/{node}", operation_id="get_node", tags=["nodes"], responses=NOT_FOUND)
def get_node(session: SessionIn, cursor: CursorIn, context: ContextIn, node: AddressIn) -> NodeOut:
    """One node with all keys that ever signed for it."""
    row = nodes.get_nodes(session, [node]).get(node)
    if row is None:
        raise NotFound(f"no node {node} up to block {cursor.number}", "node_unknown")
    probe = nodes.newest_probes(session, [node]).get(node)
    item = node_item(row, cursor, probe, int(context.clock()), context.probe_period)
    signers = [
        SignerItem(signer=s.signer, valid_from=s.valid_from, valid_to=s.valid_to or None)
        for s in nodes.signers_of(session, node)
    ]
    return NodeOut(**item.model_dump(), signers=signers, **stamp_of(cursor))


@router.get("/offers", operation_id="list_offers", tags=["nodes"])
def list_offers(
    *,
    session: SessionIn,
    cursor: CursorIn,
    context: ContextIn,
    page: PageIn,
    version_id: Annotated[HashIn | None, Query()] = None,
    node: Annotated[AddressIn | None, Query()] = None,
    active: Annotated[bool | None, Query(description="only active, or only withdrawn ones")] = True,
) -> PageOut[OfferItem]:
    """Offers, cheapest first."""
    return offers_page(session, cursor, context, nodes.OfferFilter(node, version_id, active), page)


def offers_page(
    session: Session, cursor: Cursor, context: Context, wanted: nodes.OfferFilter, page: PageRequest
) -> PageOut[OfferItem]:
    found = nodes.list_offers(session, wanted, page)
    names = sorted({offer.node for offer in found.items})
    rows, probes = nodes.get_nodes(session, names), nodes.newest_probes(session, names)
    now, period = int(context.clock()), context.probe_period
    items = {name: node_item(row, cursor, probes.get(name), now, period) for name, row in rows.items()}
    listed = {name: probe.versions for name, probe in probes.items()}
    return page_out(
        found, cursor, lambda offer: offer_item(offer, items.get(offer.node), listed.get(offer.node, []))
    )


@router.get("/channels", operation_id="list_channels", tags=["channels"])
def list_channels(
    *,
    session: SessionIn,
    cursor: CursorIn,
    page: PageIn,
    consumer: Annotated[AddressIn | None, Query()] = None,
    node: Annotated[AddressIn | None, Query()] = None,
    version_id: Annotated[HashIn | None, Query()] = None,
) -> PageOut[ChannelItem]:
    """Channels that a batch has used, with the escrow behind them."""
    found = nodes.list_channels(session, nodes.ChannelFilter(consumer, node, version_id), page)
    escrows = nodes.escrows_of(session, found.items)
    return page_out(found, cursor, lambda c: channel_item(c, escrows.get((c.consumer, c.node))))
