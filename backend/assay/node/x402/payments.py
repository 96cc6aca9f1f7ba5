"""The payments of the node's log: noted before they are settled, found again after a crash."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from assay.commitments.authorizations import Authorization, authorization_to_json
from assay.node.receipts.database import Database, IntegrityError, Row
from assay.node.receipts.schema import from_blob, to_blob
from assay.node.x402.wire import authorization_from_json
from assay.types import Hash32

_ROW: Final = "payment, identifier, version_id, input_hash, amount, content, tx_hash, statement"


@dataclass(frozen=True, slots=True)
class PaymentRow:
    """A payment as the log has it. `price` is what the request cost; `tx_hash` None until it was found on the
    chain; `statement`: the signature that it bought its receipt, once there is one."""

    payment: Hash32
    identifier: str | None
    version_id: Hash32
    input_hash: Hash32
    price: int
    authorization: Authorization
    tx_hash: Hash32 | None = None
    statement: bytes | None = None


class PaymentStore:
    """SYNC, with a connection of its own: call in threads. Raises RetryableError, FatalError."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._db = database.connect()
        self._clock = clock
        self._lock = threading.Lock()

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def find(self, payment: Hash32) -> PaymentRow | None:
        return self._one("payment = ?", payment)

    def identified(self, payer: str, identifier: str) -> PaymentRow | None:
        """The payment that a payer gave this identifier to."""
        return self._one("payer = ? AND identifier = ?", payer, identifier)

    def of_receipt(self, digest: Hash32) -> PaymentRow | None:
        """What bought a receipt; None if a voucher did, or nobody."""
        return self._one("payment = (SELECT voucher FROM receipts WHERE digest = ?)", digest)

    def unstated(self, limit: int) -> list[tuple[Hash32, Hash32]]:
        """(payment, digest of the receipt that it bought) of those without a statement."""
        with self._lock:
            rows = self._db.execute(
                "SELECT p.payment, r.digest FROM payments p JOIN receipts r ON r.voucher = p.payment"
                " WHERE p.statement IS NULL LIMIT ?",
                (limit,),
            ).fetchall()
        return [(Hash32(payment), Hash32(digest)) for payment, digest in rows]

    def note(self, row: PaymentRow) -> bool:
        """Durable when this returns; a payment that is known stays as it was noted. False: nothing was noted,
        its identifier names another payment already, of another process."""
        values = (
            row.payment,
            row.authorization.payer,
            row.identifier,
            row.version_id,
            row.input_hash,
            to_blob(row.price),
            json.dumps(authorization_to_json(row.authorization)),
            int(self._clock()),
        )
        with self._lock:
            try:
                self._db.execute(
                    "INSERT INTO payments (payment, payer, identifier, version_id, input_hash, amount,"
                    " content, noted_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (payment) DO NOTHING",
                    values,
                )
            except IntegrityError:
                return False
        return True

    def forget_identifier(self, payment: Hash32) -> None:
        """The identifier of a payment that never went through may name another one."""
        self._set("identifier = NULL", payment)

    def settled(self, payment: Hash32, tx_hash: Hash32) -> None:
        self._set("tx_hash = ?", payment, "0x" + tx_hash.hex())

    def stated(self, payment: Hash32, statement: bytes) -> None:
        self._set("statement = ?", payment, statement)

    def _set(self, change: str, payment: Hash32, *values: object) -> None:
        with self._lock:
            self._db.execute(f"UPDATE payments SET {change} WHERE payment = ?", (*values, payment))  # noqa: S608

    def _one(self, where: str, *values: object) -> PaymentRow | None:
        with self._lock:
            row = self._db.execute(f"SELECT {_ROW} FROM payments WHERE {where}", values).fetchone()  # noqa: S608
        return None if row is None else _parse(row)


def _parse(row: Row) -> PaymentRow:
    payment, identifier, version_id, input_hash, amount, content, tx_hash, statement = row
    return PaymentRow(
        Hash32(payment),
        identifier,
        Hash32(version_id),
        Hash32(input_hash),
        from_blob(amount),
        authorization_from_json(json.loads(content)),
        None if tx_hash is None else Hash32(bytes.fromhex(tx_hash[2:])),
        statement,
    )
