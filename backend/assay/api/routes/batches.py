"""/v1/batches, /v1/receipts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated

from eth_abi.abi import encode
from fastapi import APIRouter, Query
from sqlalchemy.orm import Session

from assay.api.context import (
    ERRORS,
    NOT_FOUND,
    AddressIn,
    ContextIn,
    CursorIn,
    HashIn,
    NotFound,
    PageIn,
    SessionIn,
    page_out,
    stamp_of,
)
from assay.api.render import Marks, batch_item, receipt_item, voucher_item
from assay.api.schemas import BatchItem, BatchOut, PageOut, ProofOut, ReceiptItem, ReceiptOut
from assay.api.tagging import TaggedRoute
from assay.commitments.identifiers import keccak
from assay.db.repositories import batches
from assay.db.repositories.disputes import disputes_of
from assay.db.tables import Cursor, Receipt
from assay.types import BatchAvailability

router = APIRouter(prefix="/v1", route_class=TaggedRoute, responses=ERRORS)
RECEIPT_TYPE = "(address,address,bytes32,bytes32,bytes32,uint128,uint64,uint64)"
RECEIPT_STATUS_TYPES = ("bytes32", RECEIPT_TYPE, "bytes32[]", "uint256")
RECEIPT_STATUS = keccak(f"receipt_status({','.join(RECEIPT_STATUS_TYPES)})".encode())[:4]


@router.get("/batches", operation_id="list_batches", tags=["batches"])
def list_batches(
    *,
    session: SessionIn,
    cursor: CursorIn,
    page: PageIn,
    node: Annotated[AddressIn | None, Query()] = None,
    version_id: Annotated[HashIn | None, Query()] = None,
    availability: Annotated[BatchAvailability | None, Query()] = None,
) -> PageOut[BatchItem]:
    """Posted batches, newest first."""
    found = batches.list_batches(session, batches.BatchFilter(node, version_id, availability), page)
    return page_out(found, cursor, lambda batch: batch_item(batch, cursor))


@router.get("/batches/{batch_id}", operation_id="get_batch", tags=["batches"], responses=NOT_FOUND)
def get_batch(session: SessionIn, cursor: CursorIn, batch_id: HashIn) -> BatchOut:
    """One batch with the vouchers that it presented."""
    batch = batches.get_batch(session, batch_id)
    if batch is None:
        raise NotFound(f"no batch {batch_id} up to block {cursor.number}", "batch_unknown")
    vouchers = [voucher_item(row) for row in batches.vouchers_of(session, batch_id)]
    return BatchOut(
        **batch_item(batch, cursor).model_dump(),
        vouchers_known=batch.vouchers_known,
        vouchers=vouchers,
        **stamp_of(cursor),
    )


@router.get("/receipts", operation_id="list_receipts", tags=["receipts"])
def list_receipts(
    *,
    session: SessionIn,
    cursor: CursorIn,
    page: PageIn,
    digest: Annotated[HashIn | None, Query()] = None,
    consumer: Annotated[AddressIn | None, Query()] = None,
    node: Annotated[AddressIn | None, Query()] = None,
    version_id: Annotated[HashIn | None, Query()] = None,
    batch_id: Annotated[HashIn | None, Query()] = None,
) -> PageOut[ReceiptItem]:
    """Receipts of available batches, newest batch first."""
    wanted = batches.ReceiptFilter(digest, node, consumer, version_id, batch_id)
    found = batches.list_receipts(session, wanted, page)
    marks = _marks(session, [receipt.digest for receipt in found.items])
    return page_out(found, cursor, lambda receipt: receipt_item(receipt, cursor, marks))


@router.get("/receipts/{digest}", operation_id="get_receipt", tags=["receipts"], responses=NOT_FOUND)
def get_receipt(session: SessionIn, cursor: CursorIn, digest: HashIn) -> ReceiptOut:
    """One receipt; with `chain_id` and `settlement` it is a receipt file (SPEC.md §7)."""
    item = receipt_item(*_find(session, cursor, digest))
    return ReceiptOut(
        **item.model_dump(), chain_id=cursor.chain_id, settlement=cursor.settlement, **stamp_of(cursor)
    )


@router.get(
    "/receipts/{digest}/proof", operation_id="get_receipt_proof", tags=["receipts"], responses=NOT_FOUND
)
def get_receipt_proof(session: SessionIn, cursor: CursorIn, context: ContextIn, digest: HashIn) -> ProofOut:
    """What a contract or a third party needs to check a receipt without trusting this API."""
    receipt, _, marks = _find(session, cursor, digest)
    digests = partial(batches.digests_of, session, receipt.batch_id)
    siblings = context.proofs.siblings(receipt.batch_id, receipt.position, digests)
    return ProofOut(
        chain_id=cursor.chain_id,
        settlement=cursor.settlement,
        receipt=receipt_item(receipt, cursor, marks),
        batch_id=receipt.batch_id,
        node=receipt.node,
        version_id=receipt.version_id,
        receipts_root=receipt.batch.receipts_root,
        siblings=["0x" + sibling.hex() for sibling in siblings],
        index=receipt.position,
        receipt_status_calldata="0x" + _calldata(receipt, siblings).hex(),
        **stamp_of(cursor),
    )


def _find(session: Session, cursor: Cursor, digest: str) -> tuple[Receipt, Cursor, Marks]:
    receipt = batches.get_receipt(session, digest)
    if receipt is None:
        raise NotFound(
            f"no receipt {digest} in an available batch up to block {cursor.number}; a receipt appears here "
            "once its node has posted it and the index has checked the batch",
            "receipt_unknown",
        )
    return receipt, cursor, _marks(session, [digest])


def _marks(session: Session, digests: Sequence[str]) -> Marks:
    return Marks(batches.voided_among(session, digests), disputes_of(session, digests))


def _calldata(receipt: Receipt, siblings: Sequence[bytes]) -> bytes:
    def raw(text: str) -> bytes:
        return bytes.fromhex(text[2:])

    row = (
        receipt.node,
        receipt.consumer,
        raw(receipt.version_id),
        raw(receipt.input_hash),
        raw(receipt.output_hash),
        receipt.price,
        receipt.sequence,
        receipt.executed_at,
    )
    arguments = (raw(receipt.batch_id), row, siblings, receipt.position)
    return RECEIPT_STATUS + encode(RECEIPT_STATUS_TYPES, arguments)
