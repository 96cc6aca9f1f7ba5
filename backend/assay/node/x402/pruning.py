"""Which payments of the log may be forgotten: those that can never become good again, nor are owed anything.

A payment whose receipt is kept is kept with it. One whose receipt went, and one that was never seen to move,
goes once the token would let its authorization through no more: that was used or taken back under so many
blocks that no reorg brings it back, or has expired. One that moved and bought nothing yet is the payer's, and
stays.
"""

from __future__ import annotations

import json
from typing import Final, Protocol

from assay.commitments.authorizations import Authorization
from assay.node.receipts.database import Connection, Row
from assay.node.x402.transfers import Fate
from assay.node.x402.wire import authorization_from_json
from assay.types import Hash32

ROWS_A_STEP: Final = 2_000
LOOKS_A_STEP: Final = 16
"""At the chain."""
SETTLE_SECONDS: Final = 3_600
"""How long a payment is left alone: whoever sells it, or brings it to the chain, is done by then."""
_PAGE: Final = (
    "SELECT p.payment, p.content, p.noted_at, p.tx_hash, p.statement,"
    " EXISTS (SELECT 1 FROM receipts r WHERE r.voucher = p.payment)"
    " FROM payments p WHERE p.payment > ? ORDER BY p.payment LIMIT ?"
)


class Chain(Protocol):
    """`transfers.Transfers`."""

    def fate(self, given: Authorization, since: int) -> tuple[Fate, Hash32 | None]:
        """Raises RetryableError."""


class PaymentPruner:
    """SYNC, of one thread. Goes through the payments page by page, a page a call, and begins again."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._after = b""

    def prune(self, connection: Connection, chain_time: int) -> int:
        """The number dropped, at `chain_time`. Raises RetryableError while the chain is out of sight."""
        rows = connection.execute(_PAGE, (self._after, ROWS_A_STEP)).fetchall()
        looks = dropped = 0
        for row in rows:
            payment, content, noted_at, tx_hash, statement, has_receipt = row
            is_credit = statement is None and tx_hash is not None
            if has_receipt or is_credit or noted_at + SETTLE_SECONDS > chain_time:
                self._after = payment
                continue
            given = authorization_from_json(json.loads(content))
            if statement is not None and given.valid_before + SETTLE_SECONDS <= chain_time:
                dropped += _drop(connection, row)
            elif looks == LOOKS_A_STEP:
                return dropped
            else:
                looks += 1
                dropped += self._look(connection, row, given)
            self._after = payment
        if len(rows) < ROWS_A_STEP:
            self._after = b""
        return dropped

    def _look(self, connection: Connection, row: Row, given: Authorization) -> int:
        payment, _, noted_at, _, statement, _ = row
        fate, tx_hash = self._chain.fate(given, noted_at)
        if fate in (Fate.SPENT, Fate.EXPIRED) or (statement is not None and fate is not Fate.OPEN):
            return _drop(connection, row)
        if tx_hash is not None:  # paid, and nothing given for it yet
            connection.execute(
                "UPDATE payments SET tx_hash = ? WHERE payment = ? AND tx_hash IS NULL",
                ("0x" + tx_hash.hex(), payment),
            )
        return 0


def _drop(connection: Connection, row: Row) -> int:
    """Unless it has bought a receipt, or was seen on the chain, meanwhile."""
    payment, _, _, tx_hash, statement, _ = row
    stated = "NULL" if statement is None else "NOT NULL"
    gone = connection.execute(
        "DELETE FROM payments WHERE payment = ? AND coalesce(tx_hash, '') = ?"  # noqa: S608
        f" AND statement IS {stated}"
        " AND NOT EXISTS (SELECT 1 FROM receipts r WHERE r.voucher = payments.payment)",
        (payment, tx_hash or ""),
    )
    return gone.rowcount
