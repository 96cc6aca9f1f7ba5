"""/healthz, /readyz, /metrics."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse

from assay.api.context import ERRORS, ContextIn, CursorIn, NotReady, SessionIn, stamp_of
from assay.api.metrics import Metrics
from assay.api.schemas import Health, Ready
from assay.db.repositories.status import index_status

router = APIRouter(tags=["health"])
MAX_SILENCE = 120
"""Seconds that the index may have been silent."""
MAX_BEHIND = 64


@router.get("/healthz", operation_id="healthz")
def healthz() -> Health:
    """The process is alive."""
    return Health(status="ok")


@router.get("/readyz", operation_id="readyz", responses={503: ERRORS[503]})
def readyz(context: ContextIn, cursor: CursorIn) -> Ready:
    """The database answers, and its index is at work and near the chain's head."""
    silence = max(0, int(context.clock()) - cursor.updated_at)
    if silence > MAX_SILENCE:
        raise NotReady(f"the index has been silent for {silence} s: is `assay index run` running?")
    if cursor.head_number - cursor.number > MAX_BEHIND:
        raise NotReady(f"the index is at block {cursor.number} of {cursor.head_number}: it is catching up")
    return Ready(status="ready", seconds_since_update=silence, **stamp_of(cursor))


@router.get(
    "/metrics",
    operation_id="metrics",
    response_class=PlainTextResponse,
    responses={200: {"description": "Prometheus text format"}, 503: ERRORS[503]},
)
def metrics(context: ContextIn, session: SessionIn, cursor: CursorIn) -> Response:
    """Prometheus metrics of the API and the index behind it."""
    gathered: Metrics = context.metrics
    return Response(gathered.render(index_status(session)), media_type="text/plain; version=0.0.4")
