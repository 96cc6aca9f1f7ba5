"""The consumer's check of a receipt against what it sent and got (design: path of one inference, step 3).

Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from assay.client.wire import Arrays
from assay.commitments.receipts import receipt_digest, receipt_from_json
from assay.commitments.signing import recover
from assay.commitments.tensors import commit_tensors
from assay.errors import AssayError, VerificationError
from assay.types import Address, Domain, Hash32, SignedReceipt, TensorSpec

MAX_AGE_SECONDS = 300
"""A receipt dated further back could be out of reach of a dispute before it is posted."""

WasSigner = Callable[[Address, Address, int], bool]
"""(node, signer, Unix time) → whether the signer was registered for the node then."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What the receipt of a request must say; `price` at most.

    `sequence` None: any (an unpaid request belongs to no channel).
    """

    node: Address
    consumer: Address
    version_id: Hash32
    input_hash: Hash32
    price: int
    sequence: int | None
    sent_at: int
    """Unix time at which the request was first sent: a stored receipt may be that old."""


def parse_receipt(domain: Domain, parameters: dict[str, Any]) -> SignedReceipt:
    """The receipt in a reply's `parameters`. Raises VerificationError, step `form`."""
    text = parameters.get("receipt")
    try:
        return receipt_from_json(domain, orjson.loads(text) if isinstance(text, str) else text)
    except (AssayError, ValueError, RecursionError) as error:
        what = "the reply carries no receipt" if text is None else f"the receipt is malformed: {error}"
        raise VerificationError(what, step="form") from None


def order_outputs(specs: Sequence[TensorSpec], arrays: Arrays) -> Arrays:
    """Outputs in signature order. Raises VerificationError, step `outputs`."""
    if set(arrays) != {spec.name for spec in specs}:
        wanted = ", ".join(spec.name for spec in specs)
        raise VerificationError(
            f"outputs are {', '.join(arrays)}; the model returns {wanted}", step="outputs"
        )
    return {spec.name: arrays[spec.name] for spec in specs}


def check_receipt(  # noqa: PLR0917 - one value each
    domain: Domain,
    signed: SignedReceipt,
    expected: Expected,
    outputs: Arrays,
    was_signer: WasSigner,
    now: int,
) -> None:
    """Raises VerificationError with the step that fails; `outputs` in signature order."""
    receipt = signed.receipt
    for step, got, wanted in (
        ("node", receipt.node, expected.node),
        ("consumer", receipt.consumer, expected.consumer),
        ("version", receipt.version_id.hex(), expected.version_id.hex()),
        ("input_hash", receipt.input_hash.hex(), expected.input_hash.hex()),
        ("output_hash", receipt.output_hash.hex(), commit_tensors(outputs.values()).hex()),
    ):
        if got != wanted:
            raise VerificationError(f"the receipt's {step} is {got}, expected {wanted}", step=step)
    if receipt.price > expected.price:  # less is charged, and paid, if the node lowered its offer meanwhile
        raise VerificationError(
            f"the receipt charges {receipt.price} base units, {expected.price} were agreed", step="price"
        )
    if expected.sequence is not None and receipt.sequence != expected.sequence:
        raise VerificationError(
            f"the receipt's sequence is {receipt.sequence}, expected {expected.sequence}", step="sequence"
        )
    oldest = min(now, expected.sent_at) - MAX_AGE_SECONDS
    if not oldest <= receipt.executed_at <= now + MAX_AGE_SECONDS:
        raise VerificationError(
            f"the receipt says executed_at {receipt.executed_at}, but the request went out at "
            f"{expected.sent_at} and"
            f" it is {now} now; check this machine's clock",
            step="executed_at",
        )
    signer = recover(receipt_digest(domain, receipt), signed.signature)
    if not was_signer(receipt.node, signer, receipt.executed_at):
        raise VerificationError(
            f"signed by {signer}, which was not the signer of node {receipt.node} at {receipt.executed_at}",
            step="signer",
        )
