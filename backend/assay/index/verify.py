"""Whether a batch's published receipts are what its root commits to. Pure."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from assay.commitments.merkle import merkle_root
from assay.commitments.receipts import receipt_digest, receipt_from_json
from assay.commitments.signing import recover
from assay.errors import RequestError, VerificationError
from assay.types import Address, BatchKey, Domain, Hash32, SignedReceipt

MAX_LINE = 4_096
MAX_SEQUENCE = 2**63 - 1
"""What a database's integer holds; Settlement counts to 2^40 - 1."""
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


@dataclass(frozen=True, slots=True)
class CheckedReceipt:
    signed: SignedReceipt
    digest: Hash32
    signer: Address


def verify_batch(claim: BatchClaim, body: bytes) -> list[CheckedReceipt]:
    """The receipts in leaf order.

    Raises VerificationError; its `step` is the first that failed: `format`, `header`, `count`, `receipt`,
    `membership`, `duplicate`, `root`, `signature`, `signer`, `time`, `sequence`.
    """
    lines = body.split(b"\n")
    if lines and not lines[-1]:
        lines.pop()
    if len(lines) < 2:
        raise VerificationError(
            f"expected a header line and at least one receipt, got {len(lines)} lines", step="format"
        )
    _check_header(claim, _parse(lines[0], 1), len(lines) - 1)
    receipts = [_parse_receipt(claim, line, number) for number, line in enumerate(lines[1:], start=2)]
    digests = [receipt_digest(claim.domain, signed.receipt) for signed in receipts]
    if len(set(digests)) != len(digests):
        raise VerificationError("a receipt is in the batch twice", step="duplicate")
    if merkle_root(digests) != claim.key.receipts_root:
        raise VerificationError(
            f"{len(digests)} receipts do not give the posted root: missing, added, changed or misplaced",
            step="root",
        )
    checked = [
        _check_signature(claim, signed, digest) for signed, digest in zip(receipts, digests, strict=True)
    ]
    sequences_of(checked)
    return checked


def sequences_of(receipts: Sequence[CheckedReceipt]) -> dict[Address, tuple[int, int]]:
    """First and last sequence of each consumer's channel. Raises VerificationError, step `sequence`, on
    gaps.
    """
    found: dict[Address, list[int]] = defaultdict(list)
    for checked in receipts:
        found[checked.signed.receipt.consumer].append(checked.signed.receipt.sequence)
    for consumer, numbers in found.items():
        numbers.sort()
        if numbers[0] < 1:
            raise VerificationError(
                f"sequence {numbers[0]} of consumer {consumer} is below 1", step="sequence"
            )
        if numbers[-1] > MAX_SEQUENCE:
            raise VerificationError(
                f"sequence {numbers[-1]} of consumer {consumer} is above {MAX_SEQUENCE}", step="sequence"
            )
        for before, after in itertools.pairwise(numbers):
            if after == before:
                raise VerificationError(
                    f"two receipts of consumer {consumer} have sequence {after}: equivocation",
                    step="sequence",
                )
            if after != before + 1:
                raise VerificationError(
                    f"sequences of consumer {consumer} jump from {before} to {after}", step="sequence"
                )
    return {consumer: (numbers[0], numbers[-1]) for consumer, numbers in found.items()}


def _parse(line: bytes, number: int) -> Any:
    if len(line) > MAX_LINE:
        raise VerificationError(f"line {number} is longer than {MAX_LINE} bytes", step="format")
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise VerificationError(f"line {number} is not JSON", step="format") from error


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


def _parse_receipt(claim: BatchClaim, line: bytes, number: int) -> SignedReceipt:
    try:
        signed = receipt_from_json(claim.domain, _parse(line, number))
    except RequestError as error:
        raise VerificationError(f"line {number}: {error}", step="receipt") from error
    if (signed.receipt.node, signed.receipt.version_id) != (claim.key.node, claim.key.version_id):
        raise VerificationError(f"line {number}: receipt of another node or version", step="membership")
    return signed


def _check_signature(claim: BatchClaim, signed: SignedReceipt, digest: Hash32) -> CheckedReceipt:
    name = f"receipt 0x{digest.hex()}"
    try:
        signer = recover(digest, signed.signature)
    except VerificationError as error:
        raise VerificationError(f"{name}: {error}", step="signature") from error
    executed_at = signed.receipt.executed_at
    validity = claim.signers.get(signer)
    if validity is None or not validity.covers(executed_at):
        raise VerificationError(
            f"{name} is signed by {signer}, which was not the node's signer at {executed_at}", step="signer"
        )
    if executed_at > claim.posted_at + CLOCK_SKEW:
        raise VerificationError(f"{name} says it was executed after its batch was posted", step="time")
    return CheckedReceipt(signed, digest, signer)
