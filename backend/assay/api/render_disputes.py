"""Disputes and frauds as the API's objects."""

from __future__ import annotations

from assay.api.schemas import DisputeItem, FraudItem, MoveItem
from assay.db.repositories.network import NO_PROGRAM
from assay.db.tables import Cursor, Dispute, DisputeMove, Fraud
from assay.exact.dispute import Phase, Side, side_of
from assay.types import DisputeState, FraudKind

NOTHING = NO_PROGRAM


def dispute_item(dispute: Dispute, cursor: Cursor) -> DisputeItem:
    is_open = dispute.state == DisputeState.OPEN
    phase = Phase(dispute.phase)
    has_kernel = dispute.game["record"] != NOTHING or phase is Phase.REVEAL_TENSOR
    return DisputeItem(
        dispute_id=dispute.dispute_id,
        node=dispute.node,
        challenger=dispute.challenger,
        digest=dispute.digest,
        version_id=dispute.version_id,
        batch_id=None if dispute.batch_id == NOTHING else dispute.batch_id,
        state=DisputeState(dispute.state),
        phase=phase.name,
        to_move=_name(side_of(phase)) if is_open else None,
        deadline=dispute.deadline if is_open else None,
        overdue=is_open and (phase is Phase.FORFEIT or cursor.timestamp > dispute.deadline),
        moves=dispute.moves,
        kernel=int(dispute.game["kernel"]) if has_kernel else None,
        element=int(dispute.game["element"]) if phase >= Phase.REVEAL_PARTIALS and has_kernel else None,
        opened_at=dispute.opened_at,
        moved_at=dispute.moved_at,
        closed_at=dispute.closed_at or None,
        slashed=str(dispute.slashed),
        to_challenger=str(dispute.to_challenger),
        to_consumer=str(dispute.to_consumer),
        to_treasury=str(dispute.to_treasury),
        tx_hash=dispute.tx_hash,
        opened_block=dispute.block_number,
    )


def _name(side: Side | None) -> str | None:
    return None if side is None else side.value


def move_item(move: DisputeMove) -> MoveItem:
    phase = Phase(move.phase)
    return MoveItem(
        number=move.number,
        phase=phase.name,
        by="challenger" if side_of(phase) is Side.CHALLENGER else "node",
        data=move.data,
        at=move.at,
        block=move.block_number,
        tx_hash=move.tx_hash,
    )


def fraud_item(fraud: Fraud) -> FraudItem:
    return FraudItem(
        kind=FraudKind(fraud.kind),
        node=fraud.node,
        reporter=fraud.reporter,
        first_digest=fraud.first_digest,
        second_digest=fraud.second_digest,
        slashed=str(fraud.slashed),
        to_reporter=str(fraud.to_reporter),
        at=fraud.at,
        block=fraud.block_number,
        tx_hash=fraud.tx_hash,
    )
