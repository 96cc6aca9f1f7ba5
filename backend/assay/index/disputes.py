"""What DisputeGame's events do to the state tables (SPEC.md §11)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final

from assay.exact.dispute import State
from assay.index.fetch import ChainEvent, hash_text
from assay.index.handlers import Context, need, on
from assay.index.rows import plain
from assay.types import DisputeState, FraudKind, Receipt

RECEIPT_FIELDS: Final = tuple(field.name for field in fields(Receipt))
GAME_FIELDS: Final = tuple(field.name for field in fields(State))


def _named(fields: tuple[str, ...], values: tuple[Any, ...]) -> dict[str, Any]:
    return {field: plain(value) for field, value in zip(fields, values, strict=True)}


def _game_columns(state: tuple[Any, ...]) -> dict[str, Any]:
    game = dict(zip(GAME_FIELDS, state, strict=True))
    return {
        "phase": int(game["phase"]),
        "deadline": int(game["deadline"]),
        "game": _named(GAME_FIELDS, state),
    }


@on("DisputeGame", "DisputeOpened")
def _dispute_opened(context: Context, event: ChainEvent, args: Mapping[str, Any]) -> None:
    receipt, columns = _named(RECEIPT_FIELDS, args["receipt"]), _game_columns(args["state"])
    context.state.create(
        "disputes",
        {
            "dispute_id": args["dispute_id"],
            "node": args["node"],
            "challenger": args["challenger"],
            "digest": columns["game"]["digest"],
            "version_id": receipt["version_id"],
            "batch_id": columns["game"]["batch_id"],
            "receipt": {**receipt, "signature": hash_text(args["signature"])},
            "state": str(DisputeState.OPEN),
            **columns,
            "moves": 0,
            "opened_at": event.timestamp,
            "moved_at": event.timestamp,
            "closed_at": 0,
            **dict.fromkeys(("slashed", "to_challenger", "to_consumer", "to_treasury"), 0),
            "tx_hash": event.tx_hash,
            "block_number": event.number,
            "log_index": event.log_index,
        },
    )


@on("DisputeGame", "Moved")
def _moved(context: Context, event: ChainEvent, args: Mapping[str, Any]) -> None:
    identifier = args["dispute_id"]
    number = need(context, "disputes", identifier)["moves"] + 1
    columns = _game_columns(args["state"])
    context.state.update("disputes", identifier, moves=number, moved_at=event.timestamp, **columns)
    context.state.create(
        "dispute_moves",
        {
            "dispute_id": identifier,
            "number": number,
            "phase": args["move"],
            "data": hash_text(args["data"]),
            "at": event.timestamp,
            "tx_hash": event.tx_hash,
            "block_number": event.number,
            "log_index": event.log_index,
        },
    )


@on("DisputeGame", "DisputeClosed")
def _dispute_closed(context: Context, event: ChainEvent, args: Mapping[str, Any]) -> None:
    shares = {name: args[name] for name in ("slashed", "to_challenger", "to_consumer", "to_treasury")}
    state = DisputeState.NODE_WON if args["node_won"] else DisputeState.CHALLENGER_WON
    context.state.update(
        "disputes",
        args["dispute_id"],
        state=str(state),
        phase=args["phase"],
        closed_at=event.timestamp,
        **shares,
    )


@on("DisputeGame", "Equivocated")
def _equivocated(context: Context, event: ChainEvent, args: Mapping[str, Any]) -> None:
    _add_fraud(context, event, FraudKind.EQUIVOCATION)


@on("DisputeGame", "Contradicted")
def _contradicted(context: Context, event: ChainEvent, args: Mapping[str, Any]) -> None:
    _add_fraud(context, event, FraudKind.CONTRADICTION)


def _add_fraud(context: Context, event: ChainEvent, kind: FraudKind) -> None:
    args = event.args
    context.state.create(
        "frauds",
        {
            "block_number": event.number,
            "log_index": event.log_index,
            "kind": str(kind),
            "node": args["node"],
            "reporter": args["reporter"],
            "first_digest": hash_text(args["first_digest"]),
            "second_digest": hash_text(args["second_digest"]),
            "slashed": args["slashed"],
            "to_reporter": args["to_reporter"],
            "at": event.timestamp,
            "tx_hash": event.tx_hash,
        },
    )


@on("DisputeGame", "PaymentDeferred", "Claimed")
def _keep_event_only(context: Context, event: ChainEvent, args: Mapping[str, Any]) -> None:
    """Kept in `events`; no state follows."""
