"""/v1/disputes, /v1/frauds."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query

from assay.api.context import (
    ERRORS,
    NOT_FOUND,
    AddressIn,
    CursorIn,
    HashIn,
    NotFound,
    PageIn,
    SessionIn,
    page_out,
    stamp_of,
)
from assay.api.render_disputes import dispute_item, fraud_item, move_item
from assay.api.schemas import DisputedReceipt, DisputeItem, DisputeOut, FraudItem, PageOut
from assay.api.tagging import TaggedRoute
from assay.db.repositories import disputes
from assay.db.repositories.paging import MAX_INTEGER
from assay.types import DisputeState, FraudKind

router = APIRouter(prefix="/v1", route_class=TaggedRoute, responses=ERRORS)


@router.get("/disputes", operation_id="list_disputes", tags=["disputes"])
def list_disputes(
    *,
    session: SessionIn,
    cursor: CursorIn,
    page: PageIn,
    node: Annotated[AddressIn | None, Query()] = None,
    challenger: Annotated[AddressIn | None, Query()] = None,
    version_id: Annotated[HashIn | None, Query()] = None,
    receipt: Annotated[HashIn | None, Query(description="digest of the disputed receipt")] = None,
    state: Annotated[DisputeState | None, Query()] = None,
) -> PageOut[DisputeItem]:
    """Disputes, newest first."""
    wanted = disputes.DisputeFilter(node, challenger, version_id, receipt, state)
    found = disputes.list_disputes(session, wanted, page)
    return page_out(found, cursor, lambda dispute: dispute_item(dispute, cursor))


@router.get("/disputes/{dispute_id}", operation_id="get_dispute", tags=["disputes"], responses=NOT_FOUND)
def get_dispute(
    session: SessionIn, cursor: CursorIn, dispute_id: Annotated[int, Path(ge=0, le=MAX_INTEGER)]
) -> DisputeOut:
    """One dispute with its moves, and the state that the next move passes back."""
    dispute = disputes.get_dispute(session, dispute_id)
    if dispute is None:
        raise NotFound(f"no dispute {dispute_id} up to block {cursor.number}", "dispute_unknown")
    return DisputeOut(
        **dispute_item(dispute, cursor).model_dump(),
        receipt=DisputedReceipt(**dispute.receipt),
        game=dispute.game,
        played=[move_item(move) for move in disputes.moves_of(session, dispute_id)],
        **stamp_of(cursor),
    )


@router.get("/frauds", operation_id="list_frauds", tags=["disputes"])
def list_frauds(
    *,
    session: SessionIn,
    cursor: CursorIn,
    page: PageIn,
    node: Annotated[AddressIn | None, Query()] = None,
    reporter: Annotated[AddressIn | None, Query()] = None,
    kind: Annotated[FraudKind | None, Query()] = None,
) -> PageOut[FraudItem]:
    """Equivocations and contradictions that were proven, newest first."""
    found = disputes.list_frauds(session, disputes.FraudFilter(node, reporter, kind), page)
    return page_out(found, cursor, fraud_item)
