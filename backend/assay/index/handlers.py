"""What each event does to the state tables. One function an event; SPEC.md §4 to §6 define the events.

An event that no handler knows stops the index: state derived without it would be wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from assay.chain.deployments import Deployment
from assay.db.columns import clean_text
from assay.errors import FatalError
from assay.index.fetch import ChainEvent, hash_text
from assay.index.payments import MAX_HELD, Payment, Payments
from assay.index.state import State
from assay.types import ZERO_ADDRESS, ZERO_HASH

Handler = Callable[["Context", ChainEvent, Mapping[str, Any]], None]
HANDLERS: dict[tuple[str, str], Handler] = {}
OWNER_EVENTS = ("OwnershipTransferStarted", "OwnershipTransferred", "PausedChanged")


class Context:
    """What handlers work with: the state, and the vouchers of the batches in this window."""

    def __init__(self, state: State, payments: Payments, deployment: Deployment) -> None:
        self.state = state
        self.deployment = deployment
        self.payments = payments


def apply_event(context: Context, event: ChainEvent) -> None:
    """Raises FatalError for an event without a handler, or one that contradicts what came before."""
    handler = HANDLERS.get((event.contract, event.name))
    if handler is None:
        raise FatalError(
            f"no handler for {event.contract}.{event.name} (block {event.number}): this release is older "
            "than the deployment; install the release that goes with it"
        )
    try:
        handler(context, event, event.args)
    except KeyError as error:
        raise FatalError(
            f"{event.contract}.{event.name} in block {event.number} (transaction {event.tx_hash}) is about "
            f"{error.args[0]}, which no earlier event made: the database misses events; run "
            "`assay index backfill --reset`"
        ) from error


def on(contract: str, *names: str) -> Callable[[Handler], Handler]:
    def register(handler: Handler) -> Handler:
        for name in names:
            HANDLERS[contract, name] = handler
        return handler

    return register


@on("ModelRegistry", *OWNER_EVENTS)
@on("NodeRegistry", *OWNER_EVENTS)
@on("Settlement", *OWNER_EVENTS, "FeeChanged", "TreasuryChanged", "Claimed", "EIP712DomainChanged")
def _keep_event_only(context: Context, event: ChainEvent, args: Mapping[str, Any]) -> None:
    """Kept in `events`; no state follows."""


def need(context: Context, table: str, *key: Any) -> dict[str, Any]:
    """A row that an earlier event must have made. Raises KeyError."""
    row = context.state.get(table, *key)
    if row is None:
        raise KeyError(f"{table} {key}")
    return row


def placed(event: ChainEvent) -> dict[str, int]:
    return {"block_number": event.number, "log_index": event.log_index}


# --- ModelRegistry ---


@on("ModelRegistry", "ModelRegistered")
def _model_registered(context: Context, event: ChainEvent, args: Mapping[str, Any]) -> None:
    context.state.create(
        "models",
        {
            "model_id": hash_text(args["model_id"]),
            "publisher": args["publisher"],
            "registered_by": args["publisher"],
            "pending_publisher": ZERO_ADDRESS,
            "payee": args["publisher"],
            "name": args["name"],
            "metadata_uri": clean_text(args["metadata_uri"]),
            "version_count": 0,
            "created_at": event.timestamp,
            **placed(event),
        },
    )


@on("ModelRegistry", "MetadataUriChanged")
def _metadata_uri_changed(context: Context, event: ChainEvent, args: Mapping[str, Any]) -> None:
    context.state.update("models", hash_text(args["model_id"]), metadata_uri=clean_text(args["new_uri"]))


@on("ModelRegistry", "RoyaltyPayeeChanged")
def _royalty_payee_changed(context: Context, event: ChainEvent, args: Mapping[str, Any]) -> None:
    context.state.update("models", hash_text(args["model_id"]), payee=args["new_payee"])


@on("ModelRegistry", "ModelTransferStarted")
def _model_transfer_started(context: Context, event: ChainEvent, args: Mapping[str, Any]) -> None:
    context.state.update("models", hash_text(args["model_id"]), pending_publisher=args["new_publisher"])


@on("ModelRegistry", "ModelTransferred")
def _model_transferred(context: Context, event: ChainEvent, args: Mapping[str, Any]) -> None:
    new = args["new_publisher"]
    context.state.update(
        "models", hash_text(args["model_id"]), publisher=new, payee=new, pending_publisher=ZERO_ADDRESS
    )


@on("ModelRegistry", "VersionPublished")
def _version_published(context: Context, event: ChainEvent, args: Mapping[str, Any]) -> None:
    hashes = ("version_id", "model_id", "artifact", "program_root", "manifest_hash")
    context.state.update("models", hash_text(args["model_id"]), version_count=args["number"])
    context.state.create(
        "versions",
        {
            **{name: hash_text(args[name]) for name in hashes},
            "number": args["number"],
            "royalty_bps": args["royalty_bps"],
            "uri": clean_text(args["uri"]),
            "status": 1,
            "assurance": str(context.deployment.assurance_of(has_program=args["program_root"] != ZERO_HASH)),
            "published_at": event.timestamp,
            **placed(event),
        },
    )


@on("ModelRegistry", "VersionStatusChanged")
def _version_status_changed(context: Context, event: ChainEvent, args: Mapping[str, Any]) -> None:
    context.state.update("versions", hash_text(args["version_id"]), status=int(args["new_status"]))


# --- NodeRegistry ---


@on("NodeRegistry", "NodeRegistered")
def _node_registered(context: Context, event: ChainEvent, args: Mapping[str, Any]) -> None:
    context.state.create(
        "nodes",
        {
            "node": args["node"],
            "signer": args["signer"],
            "endpoint": clean_text(args["endpoint"]),
            **dict.fromkeys(("stake", "thawing", "thaw_at", "frozen", "slashed"), 0),
            "registered_at": event.timestamp,
            **placed(event),
        },
    )
    _signer_added(context, event, args["node"], args["signer"])


def _signer_added(context: Context, event: ChainEvent, node: str, signer: str) -> None:
    context.state.create(
        "signers", {"signer": signer, "node": node, "valid_from": event.timestamp, "valid_to": 0}
    )


@on("NodeRegistry", "EndpointChanged")
def _endpoint_changed(context: Context, event: ChainEvent, args: Mapping[str, Any]) -> None:
    context.state.update("nodes", args["node"], endpoint=clean_text(args["new_endpoint"]))


@on("NodeRegistry", "SignerRotated")
def _signer_rotated(context: Context, event: ChainEvent, args: Mapping[str, Any]) -> None:
    context.state.update("signers", args["old_signer"], valid_to=event.timestamp)
    _signer_added(context, event, args["node"], args["new_signer"])
    context.state.update("nodes", args["node"], signer=args["new_signer"])


@on("NodeRegistry", "Staked")
def _staked(context: Context, event: ChainEvent, args: Mapping[str, Any]) -> None:
    context.state.update("nodes", args["node"], stake=args["stake"])


@on("NodeRegistry", "UnstakeBegun")
def _unstake_begun(context: Context, event: ChainEvent, args: Mapping[str, Any]) -> None:
    node = need(context, "nodes", args["node"])
    context.state.update(
        "nodes",
        args["node"],
        stake=node["stake"] - args["amount"],
        thawing=args["thawing"],
        thaw_at=args["thaw_at"],
    )


@on("NodeRegistry", "UnstakeCancelled")
def _unstake_cancelled(context: Context, event: ChainEvent, args: Mapping[str, Any]) -> None:
    node = need(context, "nodes", args["node"])
    context.state.update("nodes", args["node"], stake=node["stake"] + args["amount"], thawing=0, thaw_at=0)


@on("NodeRegistry", "StakeWithdrawn")
def _stake_withdrawn(context: Context, event: ChainEvent, args: Mapping[str, Any]) -> None:
    context.state.update("nodes", args["node"], thawing=0, thaw_at=0)


@on("NodeRegistry", "Slashed")
def _slashed(context: Context, event: ChainEvent, args: Mapping[str, Any]) -> None:
    """Takes from the stake first, from what is thawing last (SPEC.md §5)."""
    node = need(context, "nodes", args["node"])
    from_stake = min(node["stake"], args["amount"])
    context.state.update(
        "nodes",
        args["node"],
        stake=node["stake"] - from_stake,
        thawing=node["thawing"] - (args["amount"] - from_stake),
        slashed=node["slashed"] + args["amount"],
    )


@on("NodeRegistry", "Frozen", "Unfrozen")
def _frozen(context: Context, event: ChainEvent, args: Mapping[str, Any]) -> None:
    context.state.update("nodes", args["node"], frozen=args["count"])


@on("NodeRegistry", "OfferSet")
def _offer_set(context: Context, event: ChainEvent, args: Mapping[str, Any]) -> None:
    context.state.put(
        "offers",
        {
            "node": args["node"],
            "version_id": hash_text(args["version_id"]),
            "price": args["price"],
            "active": True,
            "changed_at": event.timestamp,
        },
    )


@on("NodeRegistry", "OfferWithdrawn")
def _offer_withdrawn(context: Context, event: ChainEvent, args: Mapping[str, Any]) -> None:
    context.state.update(
        "offers", args["node"], hash_text(args["version_id"]), active=False, changed_at=event.timestamp
    )


# --- Settlement ---


@on("Settlement", "Funded")
def _funded(context: Context, event: ChainEvent, args: Mapping[str, Any]) -> None:
    key = {"consumer": args["consumer"], "node": args["node"]}
    before = context.state.get("escrows", *key.values()) or {"thawing": 0, "thaw_at": 0}
    context.state.put("escrows", {**before, **key, "balance": args["balance"]})


@on("Settlement", "ThawBegun")
def _thaw_begun(context: Context, event: ChainEvent, args: Mapping[str, Any]) -> None:
    context.state.update(
        "escrows", args["consumer"], args["node"], thawing=args["amount"], thaw_at=args["thaw_at"]
    )


@on("Settlement", "ThawCancelled")
def _thaw_cancelled(context: Context, event: ChainEvent, args: Mapping[str, Any]) -> None:
    context.state.update("escrows", args["consumer"], args["node"], thawing=0, thaw_at=0)


@on("Settlement", "EscrowWithdrawn")
def _escrow_withdrawn(context: Context, event: ChainEvent, args: Mapping[str, Any]) -> None:
    escrow = need(context, "escrows", args["consumer"], args["node"])
    balance = escrow["balance"] - args["amount"]
    context.state.update("escrows", args["consumer"], args["node"], balance=balance, thawing=0, thaw_at=0)


@on("Settlement", "BatchPosted")
def _batch_posted(context: Context, event: ChainEvent, args: Mapping[str, Any]) -> None:
    payments = context.payments.of_batch(context.state, event)
    batch_id, version_id = hash_text(args["batch_id"]), hash_text(args["version_id"])
    context.state.create(
        "batches",
        {
            "batch_id": batch_id,
            "node": args["node"],
            "version_id": version_id,
            "receipts_root": hash_text(args["receipts_root"]),
            "amount": args["amount"],
            "count": args["count"],
            **dict.fromkeys(("voided", "voided_amount", "holds"), 0),
            "collected": False,
            "vouchers_known": payments is not None,
            "posted_at": event.timestamp,
            "tx_hash": event.tx_hash,
            **placed(event),
        },
    )
    for position, payment in enumerate(payments or ()):
        _pay(context, event, position, payment)


def _pay(context: Context, event: ChainEvent, position: int, payment: Payment) -> None:
    node, batch_id = event.args["node"], hash_text(event.args["batch_id"])
    version_id = hash_text(event.args["version_id"])
    escrow = context.state.get("escrows", payment.consumer, node)
    if escrow is not None and payment.paid:
        context.state.put("escrows", {**escrow, "balance": escrow["balance"] - payment.paid})
    channel = context.state.get("channels", payment.consumer, node, version_id)
    context.state.put(
        "channels",
        {
            "consumer": payment.consumer,
            "node": node,
            "version_id": version_id,
            "settled": (channel["settled"] if channel else 0) + payment.paid,
            "amount": max(channel["amount"] if channel else 0, payment.amount),
            "count": payment.count,
            "updated_block": event.number,
        },
    )
    context.state.create("batch_vouchers", _voucher_row(batch_id, position, payment, skipped=False, reason=0))


def _voucher_row(
    batch_id: str, position: int, payment: Payment, *, skipped: bool, reason: int
) -> dict[str, Any]:
    return {
        "batch_id": batch_id,
        "skipped": skipped,
        "position": position,
        "consumer": payment.consumer,
        "amount": payment.amount,
        "count": payment.count,
        "paid": payment.paid,
        "counted": payment.counted,
        "reason": reason,
    }


@on("Settlement", "VoucherSkipped")
def _voucher_skipped(context: Context, event: ChainEvent, args: Mapping[str, Any]) -> None:
    row = Payment(args["consumer"], args["amount"], args["count"], 0, 0)
    context.state.create(
        "batch_vouchers",
        _voucher_row(
            hash_text(args["batch_id"]), event.log_index, row, skipped=True, reason=int(args["reason"])
        ),
    )


@on("Settlement", "BatchCollected")
def _batch_collected(context: Context, event: ChainEvent, args: Mapping[str, Any]) -> None:
    context.state.update("batches", hash_text(args["batch_id"]), collected=True)


@on("Settlement", "BatchHeld", "BatchReleased")
def _batch_holds_changed(context: Context, event: ChainEvent, args: Mapping[str, Any]) -> None:
    context.state.update("batches", hash_text(args["batch_id"]), holds=args["holds"])


@on("Settlement", "ReceiptVoided")
def _receipt_voided(context: Context, event: ChainEvent, args: Mapping[str, Any]) -> None:
    batch_id, digest = hash_text(args["batch_id"]), hash_text(args["digest"])
    void = {"digest": digest, "batch_id": batch_id, "consumer": args["consumer"], "amount": args["amount"]}
    context.state.create("voids", void)
    if not any(args["batch_id"]):
        return  # only marks the digest
    batch = need(context, "batches", batch_id)
    context.state.update(
        "batches",
        batch_id,
        voided=batch["voided"] + 1,
        voided_amount=batch["voided_amount"] + args["amount"],
    )
    if args["amount"]:
        key = {"consumer": args["consumer"], "node": batch["node"]}
        escrow = context.state.get("escrows", *key.values())
        empty = {**key, "balance": 0, "thawing": 0, "thaw_at": 0}
        balance = min((escrow["balance"] if escrow else 0) + args["amount"], MAX_HELD)
        context.state.put("escrows", {**(escrow or empty), "balance": balance})
