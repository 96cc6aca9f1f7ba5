"""Group commit into a log that other processes write to as well: what came of an item may be another's
doing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from assay.commitments.signing import SigningKey
from assay.errors import FatalError
from assay.node.errors import NotReproducible, PaymentError
from assay.node.payments.shared_gate import SharedGate
from assay.node.receipts.entries import AlreadyIssued, Issue, LoggedReceipt
from assay.node.receipts.log import ReceiptLog
from assay.node.receipts.writer import Item, Writer


class SharedWriter(Writer):
    """A writer whose items carry what the gate knows of the escrow."""

    def __init__(
        self, log: ReceiptLog, key: SigningKey, on_failure: Callable[[FatalError], None], gate: SharedGate
    ) -> None:
        super().__init__(log, key, on_failure)
        self._gate = gate

    def submit(self, item: Item) -> asyncio.Future[LoggedReceipt | None]:
        """As `Writer.submit`. What was issued for the same payment elsewhere is the answer, if it fits; an
        item that fails on what the gate did not know yet is tried once more. Raises also NotReproducible."""
        first = super().submit(self._limited(item))
        return asyncio.ensure_future(self._follow(first, item))

    async def _follow(self, first: asyncio.Future[LoggedReceipt | None], item: Item) -> LoggedReceipt | None:
        try:
            return await first
        except AlreadyIssued as found:
            return _fitting(item, found.receipt)
        except PaymentError as error:
            await self._gate.look(item.key.consumer)
            if error.code != "escrow_short":
                raise
        await self._gate.refresh(item.key.consumer)
        try:
            return await super().submit(self._limited(item))
        except AlreadyIssued as found:
            return _fitting(item, found.receipt)

    def _limited(self, item: Item) -> Item:
        if item.voucher is None:
            return item
        return replace(item, ceiling=self._gate.ceiling(item.key.consumer))


def _fitting(item: Item, receipt: LoggedReceipt) -> LoggedReceipt:
    if isinstance(item, Issue) and item.output_hash != receipt.issued.output_hash:
        raise NotReproducible(
            f"the inputs of receipt 0x{receipt.digest.hex()} gave another output this time, so the "
            "stored receipt does not fit it; nothing was charged again. GET /v1/receipts has the receipt"
        )
    return receipt
