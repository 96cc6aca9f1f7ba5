"""What a node published for a batch, receipt by receipt. Pure.

`assay.index.verify` says whether a batch as a whole is what its root commits to; a watcher also wants the
receipts of a batch that is not: each signature is evidence by itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from assay.commitments.merkle import merkle_root
from assay.commitments.receipts import receipt_digest, receipt_from_json
from assay.commitments.signing import recover
from assay.errors import RequestError, VerificationError
from assay.index.verify import MAX_LINE, Validity
from assay.types import Address, Domain, Hash32, SignedReceipt
from assay.watch.values import PostedBatch, SeenReceipt

MAX_RECEIPTS: Final = 200_000
MAX_SIGNERS: Final = 64
"""More keys than a node rotates through in a batch's time; signatures by others are not looked up."""


@dataclass(frozen=True, slots=True)
class PublishedReceipt:
    """A parsed line. `signer` is whom the signature recovers to, None if it is no signature."""

    signed: SignedReceipt
    digest: Hash32
    signer: Address | None
    is_public: bool


def read_receipts(domain: Domain, batch: PostedBatch, body: bytes) -> tuple[list[PublishedReceipt], bool]:
    """The lines that are receipts of the batch's node and version; whether they are the root's leaves.

    Lines that are not are left out: they are nobody's evidence.
    """
    lines = body.split(b"\n")[1 : MAX_RECEIPTS + 2]
    if lines and not lines[-1]:
        lines.pop()
    found = [_read(domain, batch, line) for line in lines]
    receipts = [receipt for receipt in found if receipt is not None]
    is_whole = bool(found) and len(receipts) == len(found)
    return receipts, is_whole and merkle_root([r.digest for r in receipts]) == batch.key.receipts_root


def signers_of(receipts: Sequence[PublishedReceipt]) -> list[Address]:
    """Distinct signers, the most frequent first, at most MAX_SIGNERS."""
    counts: dict[Address, int] = {}
    for receipt in receipts:
        if receipt.signer is not None:
            counts[receipt.signer] = counts.get(receipt.signer, 0) + 1
    return sorted(counts, key=lambda signer: -counts[signer])[:MAX_SIGNERS]


def signed_by_node(
    batch: PostedBatch,
    receipts: Sequence[PublishedReceipt],
    validities: Mapping[Address, Validity],
    *,
    is_root: bool,
) -> list[SeenReceipt]:
    """Those that a key of the node's signed while it was valid; with their leaf, if the root is theirs."""
    seen: dict[Hash32, SeenReceipt] = {}
    for position, receipt in enumerate(receipts):
        validity = validities.get(receipt.signer) if receipt.signer is not None else None
        if validity is not None and validity.covers(receipt.signed.receipt.executed_at):
            leaf = position if is_root else None
            seen.setdefault(
                receipt.digest,
                SeenReceipt(receipt.digest, receipt.signed, batch.batch_id, leaf, receipt.is_public),
            )
    return list(seen.values())


def _read(domain: Domain, batch: PostedBatch, line: bytes) -> PublishedReceipt | None:
    try:
        data: Any = json.loads(line) if len(line) <= MAX_LINE else None
        signed = receipt_from_json(domain, data)
    except (ValueError, RecursionError, RequestError):
        return None
    if (signed.receipt.node, signed.receipt.version_id) != (batch.key.node, batch.key.version_id):
        return None
    digest = receipt_digest(domain, signed.receipt)
    try:
        signer: Address | None = recover(digest, signed.signature)
    except VerificationError:
        signer = None
    return PublishedReceipt(signed, digest, signer, data.get("public") is True)
