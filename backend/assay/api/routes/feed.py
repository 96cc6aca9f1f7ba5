"""/v1/events: everything that the contracts logged, as server-sent events (WHATWG HTML §9.2), resumable."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from assay.api.context import ERRORS, Context, ContextIn, CursorIn, NotReady
from assay.db.engine import read_session
from assay.db.repositories.feed import read_feed
from assay.db.tables import Event, Reorg

router = APIRouter(prefix="/v1", responses=ERRORS)
CHUNK = 500
POLL, HEARTBEAT = 0.5, 15.0
MAX_STREAMS = 100
MAX_SEQ = 2**63 - 1
EXAMPLE = (
    'id: 7\nevent: log\ndata: {"contract":"ModelRegistry","name":"ModelRegistered","args":{},"block":5,…}\n\n'
    'id: 8\nevent: reorg\ndata: {"ancestor_block":4,…}\n\n'
)
Seq = Annotated[int, Query(ge=0, le=MAX_SEQ)]


class EventStream(StreamingResponse):
    media_type = "text/event-stream"


@router.get(
    "/events",
    operation_id="stream_events",
    tags=["events"],
    response_class=EventStream,
    responses={
        200: {
            "description": "`log` entries as the chain logged them; a `reorg` entry takes back every log "
            "above its `ancestor_block` that came before it",
            "content": {"text/event-stream": {"schema": {"type": "string"}, "example": EXAMPLE}},
        }
    },
)
def stream_events(
    *,
    context: ContextIn,
    cursor: CursorIn,
    after: Annotated[Seq | None, Query(description="start after this id; default: the first")] = None,
    follow: Annotated[bool, Query(description="false: end after what is there")] = True,
    limit: Annotated[int, Query(ge=1, le=10_000, description="entries, if not following")] = 1_000,
    last_event_id: Annotated[str | None, Header(pattern="^[0-9]{1,18}$", description="as `after`")] = None,
) -> EventStream:
    """Events from the first (or after `Last-Event-ID`) on, then new ones as they come."""
    start = int(last_event_id) if last_event_id is not None else (after or 0)
    if follow:
        take_stream(context)
    return EventStream(
        entries(context, start, follow=follow, limit=limit),
        headers={"cache-control": "no-store", "x-accel-buffering": "no"},
    )


def take_stream(context: Context) -> None:
    with context.lock:
        if context.streams >= MAX_STREAMS:
            raise NotReady(
                f"{MAX_STREAMS} clients follow events already; try again later, or use follow=false"
            )
        context.streams += 1


async def entries(context: Context, after: int, *, follow: bool, limit: int) -> AsyncIterator[str]:
    """Server-sent events. The database is asked in a worker thread and no transaction stays open between
    asks.
    """
    silent = 0.0
    try:
        yield "retry: 2000\n\n"
        while follow or limit > 0:
            size = CHUNK if follow else min(CHUNK, limit)
            found = await run_in_threadpool(read_entries, context, after, size)
            for seq, text in found:
                yield text
                after = seq
            limit -= len(found)
            if found:
                silent = 0.0
            elif not follow:
                return
            else:
                await asyncio.sleep(POLL)
                silent += POLL
                if silent >= HEARTBEAT:
                    silent = 0.0
                    yield ": alive\n\n"
    finally:
        if follow:
            with context.lock:
                context.streams -= 1


def read_entries(context: Context, after: int, limit: int) -> list[tuple[int, str]]:
    with read_session(context.engine) as session:
        return [(row.seq, format_entry(row)) for row in read_feed(session, after, limit)]


def format_entry(row: Event | Reorg) -> str:
    kind, data = ("log", _log_data(row)) if isinstance(row, Event) else ("reorg", _reorg_data(row))
    return f"id: {row.seq}\nevent: {kind}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n"


def _log_data(row: Event) -> dict[str, Any]:
    return {
        "contract": row.contract,
        "name": row.name,
        "args": row.args,
        "block": row.block_number,
        "block_hash": row.block_hash,
        "tx_hash": row.tx_hash,
        "log_index": row.log_index,
        "timestamp": row.timestamp,
    }


def _reorg_data(row: Reorg) -> dict[str, Any]:
    return {
        "ancestor_block": row.ancestor_number,
        "ancestor_hash": row.ancestor_hash,
        "old_block": row.old_number,
        "old_hash": row.old_hash,
    }
