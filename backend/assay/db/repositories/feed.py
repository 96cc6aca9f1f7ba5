"""Events and reorgs in one order: what a client needs to mirror the index."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from assay.db.tables import Event, Reorg


def read_feed(session: Session, after: int, limit: int) -> list[Event | Reorg]:
    """Entries with a number above `after`, oldest first."""
    events = session.scalars(select(Event).where(Event.seq > after).order_by(Event.seq).limit(limit)).all()
    reorgs = session.scalars(select(Reorg).where(Reorg.seq > after).order_by(Reorg.seq).limit(limit)).all()
    both: list[Event | Reorg] = [*events, *reorgs]
    return sorted(both, key=lambda entry: entry.seq)[:limit]
