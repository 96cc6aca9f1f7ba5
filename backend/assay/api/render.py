"""Database rows as the API's objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from assay.api.figures import MISSED_PERIODS
from assay.api.schemas import (
    BatchItem,
    BatchStatus,
    ChannelItem,
    ModelItem,
    NodeItem,
    OfferItem,
    ProbeItem,
    ReceiptItem,
    ReceiptState,
    VersionItem,
    VersionState,
    VoucherItem,
)
from assay.commitments.identifiers import cid
from assay.db.repositories.network import NO_PROGRAM
from assay.db.tables import (
    Batch,
    BatchVoucher,
    Channel,
    Cursor,
    Dispute,
    Escrow,
    Model,
    Node,
    Offer,
    Probe,
    Receipt,
    Version,
)
from assay.types import (
    ZERO_ADDRESS,
    Assurance,
    BatchAvailability,
    DisputeState,
    ProgramOutcome,
    SkipReason,
)

STATES: dict[int, VersionState] = {1: "active", 2: "deprecated", 3: "revoked"}


def model_item(model: Model) -> ModelItem:
    pending = None if model.pending_publisher == ZERO_ADDRESS else model.pending_publisher
    return ModelItem(
        model_id=model.model_id,
        publisher=model.publisher,
        registered_by=model.registered_by,
        pending_publisher=pending,
        payee=model.payee,
        name=model.name,
        metadata_uri=model.metadata_uri,
        version_count=model.version_count,
        created_at=model.created_at,
    )


def assurance_of(version: Version | None) -> Assurance:
    """`exact` needs a program, a dispute game to step through it, and an artifact that lowers to it; `proven`
    needs a verifier, which no contract has yet.
    """
    if version is None or assurance_reason(version):
        return Assurance.SIGNED
    return Assurance(version.assurance)


def assurance_reason(version: Version) -> str:
    """Why a version that names a program is worth `signed`; empty if it names none, or is `exact`."""
    if version.program_root == NO_PROGRAM:
        return ""
    if version.assurance == Assurance.SIGNED:
        return "this deployment has no dispute game, so no receipt can be overturned"
    check = version.program_check
    if check is None:
        return "its program has not been recomputed from the artifact yet"
    if check.outcome != ProgramOutcome.LOWERED:
        return f"its program cannot be recomputed from the artifact ({check.outcome}): {check.reason}"
    if check.program_root != version.program_root:
        return f"its artifact lowers to program {check.program_root}, which is not the published one"
    return ""


def version_item(version: Version, active_offers: int) -> VersionItem:
    return VersionItem(
        version_id=version.version_id,
        model_id=version.model_id,
        publisher=version.model.publisher,
        name=version.model.name,
        number=version.number,
        artifact=version.artifact,
        artifact_cid=cid(bytes.fromhex(version.artifact[2:])),
        program_root=None if version.program_root == NO_PROGRAM else version.program_root,
        manifest_hash=version.manifest_hash,
        royalty_bps=version.royalty_bps,
        uri=version.uri,
        status=STATES[version.status],
        assurance=assurance_of(version),
        assurance_reason=assurance_reason(version),
        published_at=version.published_at,
        active_offers=active_offers,
    )


def is_answering(probe: Probe | None, now: int, period: float) -> bool:
    return probe is not None and probe.answered and now - probe.at <= MISSED_PERIODS * period


def node_item(node: Node, cursor: Cursor, probe: Probe | None, now: int, period: float) -> NodeItem:
    seen = (
        None
        if probe is None
        else ProbeItem(at=probe.at, answered=probe.answered, latency_ms=probe.latency_ms, reason=probe.reason)
    )
    return NodeItem(
        node=node.node,
        signer=node.signer,
        endpoint=node.endpoint,
        stake=str(node.stake),
        thawing=str(node.thawing),
        thaw_at=node.thaw_at or None,
        slashed=str(node.slashed),
        open_disputes=node.frozen,
        is_active=node.stake >= cursor.min_stake,
        is_answering=is_answering(probe, now, period),
        last_probe=seen,
        registered_at=node.registered_at,
    )


def offer_item(offer: Offer, node: NodeItem | None, listed: list[str]) -> OfferItem:
    is_live = node is not None and node.is_active and node.is_answering and offer.version_id in listed
    return OfferItem(
        node=offer.node,
        endpoint=node.endpoint if node else "",
        version_id=offer.version_id,
        price=str(offer.price),
        is_active=offer.active,
        is_live=offer.active and is_live,
        changed_at=offer.changed_at,
    )


def channel_item(channel: Channel, escrow: Escrow | None) -> ChannelItem:
    return ChannelItem(
        consumer=channel.consumer,
        node=channel.node,
        version_id=channel.version_id,
        settled=str(channel.settled),
        amount=str(channel.amount),
        owed=str(max(0, channel.amount - channel.settled)),
        count=str(channel.count),
        escrow=str(escrow.balance if escrow else 0),
        escrow_thawing=str(escrow.thawing if escrow else 0),
        escrow_thaw_at=(escrow.thaw_at or None) if escrow else None,
    )


def batch_status(batch: Batch, cursor: Cursor) -> BatchStatus:
    """As `receipt_status` would say at the indexed block's time (SPEC.md §6)."""
    if batch.holds:
        return "held"
    return "final" if cursor.timestamp >= batch.posted_at + cursor.dispute_window else "pending"


def batch_item(batch: Batch, cursor: Cursor) -> BatchItem:
    check = batch.check
    return BatchItem(
        batch_id=batch.batch_id,
        node=batch.node,
        version_id=batch.version_id,
        receipts_root=batch.receipts_root,
        amount=str(batch.amount),
        count=str(batch.count),
        voided=batch.voided,
        status=batch_status(batch, cursor),
        final_at=batch.posted_at + cursor.dispute_window,
        collected=batch.collected,
        availability=BatchAvailability(check.availability) if check else BatchAvailability.UNCHECKED,
        availability_reason=check.reason if check else "",
        receipts=check.receipts if check else 0,
        assurance=assurance_of(batch.version),
        posted_at=batch.posted_at,
        posted_block=batch.block_number,
        tx_hash=batch.tx_hash,
    )


def voucher_item(row: BatchVoucher) -> VoucherItem:
    reasons = {reason.value: reason.name for reason in SkipReason}
    return VoucherItem(
        consumer=row.consumer,
        amount=str(row.amount),
        count=str(row.count),
        paid=str(row.paid),
        counted=str(row.counted),
        skipped=reasons.get(row.reason, str(row.reason)) if row.skipped else None,
    )


@dataclass(frozen=True, slots=True)
class Marks:
    """What is known of a page's receipts beside their batches: the void ones, the disputes by digest."""

    voided: set[str]
    disputes: Mapping[str, Sequence[Dispute]]

    def status(self, receipt: Receipt, cursor: Cursor) -> ReceiptState:
        if receipt.digest in self.voided:
            return "void"
        if any(d.state == DisputeState.OPEN for d in self.disputes.get(receipt.digest, ())):
            return "disputed"
        return "final" if batch_status(receipt.batch, cursor) == "final" else "pending"


def receipt_item(receipt: Receipt, cursor: Cursor, marks: Marks) -> ReceiptItem:
    status = marks.status(receipt, cursor)
    assurance = assurance_of(receipt.batch.version)
    return ReceiptItem(
        node=receipt.node,
        consumer=receipt.consumer,
        version_id=receipt.version_id,
        input_hash=receipt.input_hash,
        output_hash=receipt.output_hash,
        price=str(receipt.price),
        sequence=receipt.sequence,
        executed_at=receipt.executed_at,
        signature=receipt.signature,
        digest=receipt.digest,
        signer=receipt.signer,
        batch_id=receipt.batch_id,
        index=receipt.position,
        status=status,
        disputes=[dispute.dispute_id for dispute in marks.disputes.get(receipt.digest, ())],
        assurance=assurance,
        verified=status == "final" and assurance is not Assurance.SIGNED,
    )
