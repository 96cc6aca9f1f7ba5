"""What a consumer keeps of an exact version's answer: enough to re-execute it, and to show what is wrong."""

from __future__ import annotations

from assay.client.requests import Answer, Work
from assay.commitments.public_data import ReceiptData, named_tensors
from assay.commitments.receipts import receipt_digest
from assay.types import Domain


def copy_of(domain: Domain, answer: Answer, work: Work) -> tuple[str, bytes]:
    """The receipt's digest (0x hex) and its tensors, as `Store.keep_copy` takes them."""
    inputs, outputs = ([spec.name for spec in specs] for specs in (work.inputs, work.outputs))
    data = ReceiptData(
        named_tensors(inputs, [work.arrays[name] for name in inputs]),
        named_tensors(outputs, [answer.outputs[name] for name in outputs]),
    )
    return "0x" + receipt_digest(domain, answer.receipt.receipt).hex(), data.to_bytes()
