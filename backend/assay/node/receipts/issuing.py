"""Issues receipts into the SQLite log: sequence, signature and voucher in one transaction.

The next sequence is read inside the transaction that writes the receipt, and (channel, sequence) is unique,
so two receipts of one sequence cannot exist, whatever crashes and however many processes open the file.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Final

from assay.commitments.receipts import receipt_digest
from assay.commitments.signing import SigningKey
from assay.node.receipts.entries import Acknowledge, ChannelKey, HeldVoucher, Issue, LoggedReceipt
from assay.node.receipts.schema import from_blob, to_blob
from assay.types import Address, Domain, Receipt, SignedReceipt

UINT128_MAX: Final = (1 << 128) - 1


class LocalIssuer:
    """Writes through `connection`, one thread at a time."""

    def __init__(
        self, connection: sqlite3.Connection, domain: Domain, node: Address, clock: Callable[[], float]
    ) -> None:
        self._write = connection
        self.domain = domain
        self.node = node
        self._clock = clock

    def close(self) -> None:
        self._write.close()

    def write(self, items: Sequence[Issue | Acknowledge], key: SigningKey) -> list[LoggedReceipt | None]:
        """Sign and store all of `items` in one transaction; what is returned is on disk. All or nothing.

        Raises sqlite3.IntegrityError if a voucher has paid for a receipt already; nothing was then written.
        """
        self._write.execute("BEGIN IMMEDIATE")
        try:
            results = [self._apply(item, key) for item in items]
            self._write.execute("COMMIT")
        except BaseException:
            if self._write.in_transaction:
                self._write.execute("ROLLBACK")
            raise
        return results

    def _apply(self, item: Issue | Acknowledge, key: SigningKey) -> LoggedReceipt | None:
        if isinstance(item, Issue):
            return self._issue(item, key)
        channel, _, _ = self._channel_row(item.key)
        self._keep_voucher(channel, item.voucher)
        return None

    def _channel_row(self, key: ChannelKey) -> tuple[int, int, int]:
        """(row id, sequence, charged) of a channel, made if it is new."""
        select = "SELECT id, sequence, charged FROM channels WHERE version_id = ? AND consumer = ?"
        row = self._write.execute(select, (key.version_id, key.consumer)).fetchone()
        if row is None:
            insert = "INSERT INTO channels (version_id, consumer) VALUES (?, ?)"
            return int(self._write.execute(insert, (key.version_id, key.consumer)).lastrowid or 0), 0, 0
        return row[0], row[1], from_blob(row[2])

    def _issue(self, item: Issue, key: SigningKey) -> LoggedReceipt:
        channel, last, charged = self._channel_row(item.key)
        receipt = Receipt(
            node=self.node,
            consumer=item.key.consumer,
            version_id=item.key.version_id,
            input_hash=item.input_hash,
            output_hash=item.output_hash,
            price=item.price,
            sequence=last + 1,
            executed_at=int(self._clock()),
        )
        digest = receipt_digest(self.domain, receipt)
        signature = key.sign(digest)
        row = self._write.execute(
            "INSERT INTO receipts (channel, sequence, version_id, digest, input_hash, output_hash, price,"
            " executed_at, signature, voucher, public) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                channel,
                receipt.sequence,
                receipt.version_id,
                digest,
                receipt.input_hash,
                receipt.output_hash,
                to_blob(receipt.price),
                receipt.executed_at,
                signature,
                item.payment,
                item.public,
            ),
        ).lastrowid
        if item.data is not None:
            self._write.execute("INSERT INTO receipt_data VALUES (?, ?)", (row, item.data))
        self._write.execute(
            "UPDATE channels SET sequence = ?, unpaid = unpaid + ?, charged = ? WHERE id = ?",
            (
                receipt.sequence,
                not item.has_voucher,
                to_blob(min(charged + (0 if item.prepaid else item.price), UINT128_MAX)),
                channel,
            ),
        )
        if item.prepaid:
            self._add_prepaid(channel, item.price)
        if item.voucher is not None:
            self._keep_voucher(channel, item.voucher)
        return LoggedReceipt.of(SignedReceipt(receipt, signature), digest, item.public)

    def _add_prepaid(self, channel: int, price: int) -> None:
        ((before,),) = self._write.execute("SELECT prepaid FROM channels WHERE id = ?", (channel,))
        after = min(from_blob(before) + price, UINT128_MAX)
        self._write.execute("UPDATE channels SET prepaid = ? WHERE id = ?", (to_blob(after), channel))

    def _keep_voucher(self, channel: int, voucher: HeldVoucher) -> None:
        amount = to_blob(voucher.amount)
        self._write.execute(
            "UPDATE channels SET amount = ?, count = ?, signature = ?, wallet = ? WHERE id = ?"
            " AND amount <= ? AND count <= ? AND (amount < ? OR count < ? OR signature IS NULL)",
            (
                amount,
                voucher.count,
                voucher.signature,
                voucher.wallet,
                channel,
                amount,
                voucher.count,
                amount,
                voucher.count,
            ),
        )
