"""How far the index is."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from assay.db.tables import (
    Base,
    Batch,
    BatchCheck,
    Channel,
    Cursor,
    Dispute,
    Event,
    Model,
    Node,
    Receipt,
    Reorg,
    Version,
)
from assay.errors import ConfigurationError
from assay.types import BatchAvailability

COUNTED: tuple[type[Base], ...] = (Event, Model, Version, Node, Channel, Batch, Receipt, Dispute, Reorg)


def get_cursor(session: Session) -> Cursor:
    """Raises ConfigurationError while no index has run on this database."""
    cursor = session.scalars(select(Cursor)).first()
    if cursor is None:
        raise ConfigurationError("the database is empty: start `assay index run` on it first")
    return cursor


def index_status(session: Session) -> dict[str, Any]:
    """Position and row counts, for people and metrics."""
    cursor = get_cursor(session)
    counts = {
        table.__tablename__: session.scalar(select(func.count()).select_from(table)) or 0 for table in COUNTED
    }
    return {
        "chain_id": cursor.chain_id,
        "settlement": cursor.settlement,
        "indexed_block": cursor.number,
        "indexed_hash": cursor.hash,
        "head_block": cursor.head_number,
        "finalized_block": cursor.finalized_number,
        "blocks_behind": max(0, cursor.head_number - cursor.number),
        **counts,
        **{f"batches_{state}": number for state, number in batch_states(session).items()},
    }


def batch_states(session: Session) -> dict[str, int]:
    """Batches per availability; every state is named."""
    state = func.coalesce(BatchCheck.availability, BatchAvailability.UNCHECKED.value)
    query = (
        select(state, func.count())
        .select_from(Batch)
        .outerjoin(BatchCheck, BatchCheck.batch_id == Batch.batch_id)
        .group_by(state)
    )
    found = {row[0]: int(row[1]) for row in session.execute(query)}
    return {state.value: found.get(state.value, 0) for state in BatchAvailability}
