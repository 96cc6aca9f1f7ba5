"""What `Client.infer` gives: the outputs, the receipt that was checked, and how they came about."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from assay.client.wire import Arrays
from assay.commitments.receipts import receipt_digest, receipt_file_to_json
from assay.errors import AssayError
from assay.types import Address, Assurance, Domain, Hash32, SignedReceipt


@dataclass(frozen=True, slots=True)
class Result:
    """An answer whose receipt checked. `price` in base units; `attempts`: what went wrong at nodes tried
    before.
    """

    outputs: Arrays = field(repr=False)
    receipt: SignedReceipt
    domain: Domain
    model: str
    """`publisher/name@number`."""
    assurance: Assurance
    endpoint: str
    latency_ms: float
    is_recovered: bool = False
    """The answer to an earlier, interrupted request for the same inputs: paid once."""
    attempts: tuple[AssayError, ...] = ()
    payment: dict[str, Any] | None = None
    """The x402 payment that bought it (SPEC.md §12); None where a voucher or nobody paid."""

    @property
    def node(self) -> Address:
        return self.receipt.receipt.node

    @property
    def price(self) -> int:
        return self.receipt.receipt.price

    @property
    def digest(self) -> Hash32:
        return receipt_digest(self.domain, self.receipt.receipt)

    def receipt_file(self) -> dict[str, Any]:
        """The receipt file's content (SPEC.md §7), for `assay receipt verify`."""
        return receipt_file_to_json(self.domain, self.receipt)

    def save_receipt(self, path: Path | str) -> None:
        Path(path).write_text(json.dumps(self.receipt_file(), indent=2) + "\n", encoding="utf-8")
