"""Whether a batch's published receipts are what its root commits to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from assay.commitments.signing import recover
from assay.errors import VerificationError
from assay.index.batch_file import UNLISTED, BatchFile
from assay.types import Address, BatchKey, Domain, Hash32

CLOCK_SKEW = 3_600
"""Seconds that `executed_at` may be after the posting: a node's clock is not the chain's."""


@dataclass(frozen=True, slots=True)
class Validity:
    """valid_from <= t < valid_to; valid_to 0 = still."""

    valid_from: int
    valid_to: int

    def covers(self, timestamp: int) -> bool:
        return self.valid_from <= timestamp and (self.valid_to == 0 or timestamp < self.valid_to)


@dataclass(frozen=True, slots=True)
class BatchClaim:
    """What the chain says of the batch, and which keys were the node's when."""

    domain: Domain
    batch_id: Hash32
    key: BatchKey
    posted_at: int
    signers: Mapping[Address, Validity]


def verify_batch(claim: BatchClaim, batch: BatchFile) -> None:
    """Whether the batch is what the chain says.

    Raises VerificationError; its `step` is the first that failed: `format`, `header`, `count`, `receipt`,
    `membership`, `duplicate`, `root`, `signature`, `signer`, `time`, `sequence`.
    """
    if not batch.lines:
        if batch.problem is not None:
            raise batch.problem
        found = 1 if batch.header else 0
        raise VerificationError(
            f"expected a header line and at least one receipt, got {found} lines", step="format"
        )
    _check_header(claim, _parse_header(batch.header), batch.lines)
    if batch.problem is not None:
        raise batch.problem
    if batch.has_duplicates:
        raise VerificationError("a receipt is in the batch twice", step="duplicate")
    if batch.root != claim.key.receipts_root:
        raise VerificationError(
            f"{len(batch)} receipts do not give the posted root: missing, added, changed or misplaced",
            step="root",
        )
    _check_signatures(claim, batch)
    _ = batch.spans


def _parse_header(line: bytes) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise VerificationError("line 1 is not JSON", step="format") from error


def _check_header(claim: BatchClaim, header: Any, receipts: int) -> None:
    expected = {
        "batch_id": "0x" + claim.batch_id.hex(),
        "node": claim.key.node,
        "version_id": "0x" + claim.key.version_id.hex(),
        "receipts_root": "0x" + claim.key.receipts_root.hex(),
    }
    if not isinstance(header, dict):
        raise VerificationError("line 1 is not the batch's header object", step="header")
    for name, value in expected.items():
        if header.get(name) != value:
            raise VerificationError(
                f"header's {name} is {str(header.get(name))[:80]}, not {value}", step="header"
            )
    if header.get("count") != receipts:
        raise VerificationError(
            f"header counts {str(header.get('count'))[:20]} receipts, {receipts} follow", step="count"
        )


def _check_signatures(claim: BatchClaim, batch: BatchFile) -> None:
    """Raises VerificationError about the first receipt that no key of the node's signed in its time."""
    numbers, names = batch.signers
    validities = [claim.signers.get(name) for name in names]
    latest = claim.posted_at + CLOCK_SKEW
    for index, (number, executed_at) in enumerate(zip(numbers, batch.executed_at, strict=True)):
        validity = validities[number] if number < UNLISTED else None
        if validity is None or not validity.covers(executed_at) or executed_at > latest:
            raise _bad_signature(batch, index, validity)


def _bad_signature(batch: BatchFile, index: int, validity: Validity | None) -> VerificationError:
    digest, executed_at = batch.digest(index), batch.executed_at[index]
    name = f"receipt 0x{digest.hex()}"
    try:
        signer = recover(digest, batch.signature(index))
    except VerificationError as error:
        return VerificationError(f"{name}: {error}", step="signature")
    if validity is None or not validity.covers(executed_at):
        return VerificationError(
            f"{name} is signed by {signer}, which was not the node's signer at {executed_at}", step="signer"
        )
    return VerificationError(f"{name} says it was executed after its batch was posted", step="time")
