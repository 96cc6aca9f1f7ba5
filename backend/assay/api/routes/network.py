"""/v1/network: the utility of the network (SPEC.md §8)."""

from __future__ import annotations

from collections import Counter

from fastapi import APIRouter
from sqlalchemy.orm import Session

from assay.api import figures
from assay.api.context import ERRORS, Context, ContextIn, CursorIn, SessionIn, stamp_of
from assay.api.schemas import Bucket, NetworkOut
from assay.api.tagging import TaggedRoute
from assay.db.repositories import network

router = APIRouter(prefix="/v1", route_class=TaggedRoute, responses=ERRORS)
MAX_DAYS, MAX_BUCKETS = 90, 100


@router.get("/network", operation_id="get_network", tags=["network"])
def get_network(session: SessionIn, cursor: CursorIn, context: ContextIn) -> NetworkOut:
    """Verified inferences, and utility = accessibility × verifiability × scalability."""
    now = int(context.clock())
    counted = _inferences(session, context)
    nodes = network.offering_nodes(session, now - figures.WINDOW)
    active = set(network.active_versions(session))
    live = active & figures.live_versions(nodes, now, context.probe_period)
    accessibility = figures.share(len(live), len(active))
    verifiability = figures.share(counted.verified_paid, counted.settled_paid)
    scalability = figures.served_share(nodes)
    disputes = network.dispute_figures(session)
    return NetworkOut(
        verified_inferences=counted.verified,
        settled_inferences=counted.settled,
        settled_signed_only=counted.settled - counted.verified,
        settled_paid=counted.settled_paid,
        verified_paid=counted.verified_paid,
        utility=accessibility * verifiability * scalability,
        accessibility=accessibility,
        verifiability=verifiability,
        scalability=scalability,
        active_versions=len(active),
        live_versions=len(live),
        staked_nodes=len(nodes),
        disputes_open=disputes.by_state["open"],
        disputes_won_by_node=disputes.by_state["node_won"],
        disputes_won_by_challenger=disputes.by_state["challenger_won"],
        frauds_proven=disputes.frauds,
        slashed=str(disputes.slashed),
        answering_nodes=sum(figures.is_answering(node, now, context.probe_period) for node in nodes),
        per_day=_days(counted),
        per_node=_buckets(counted, "node"),
        per_version=_buckets(counted, "version"),
        **stamp_of(cursor),
    )


def _inferences(session: Session, context: Context) -> figures.Inferences:
    """Counted once for each state of the database."""
    stamp = network.stamp(session)
    cached = context.figures
    if cached is not None and cached[0] == stamp:
        found: figures.Inferences = cached[1]
        return found
    counted = figures.count_inferences(network.final_batches(session))
    context.figures = (stamp, counted)
    return counted


def _days(counted: figures.Inferences) -> list[Bucket]:
    days = sorted(counted.settled_by["day"] | counted.verified_by["day"], reverse=True)[:MAX_DAYS]
    return [_bucket(counted, "day", day) for day in days]


def _buckets(counted: figures.Inferences, group: str) -> list[Bucket]:
    verified, settled = counted.verified_by[group], counted.settled_by[group]
    keys: Counter[str] = verified | settled
    ordered = sorted(keys, key=lambda key: (-verified[key], -settled[key], key))
    return [_bucket(counted, group, key) for key in ordered[:MAX_BUCKETS]]


def _bucket(counted: figures.Inferences, group: str, key: str) -> Bucket:
    return Bucket(key=key, verified=counted.verified_by[group][key], settled=counted.settled_by[group][key])
