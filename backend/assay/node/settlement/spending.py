"""What each transaction of the node has cost in gas, in its log as it happens: by batch, so by version; and
the sums of all by kind, so that whoever asks often reads four rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from assay.chain.client import hex_bytes
from assay.chain.outbox import Intent, IntentState
from assay.chain.values import TxReceipt, parse_tx_receipt
from assay.node.receipts.database import Connection
from assay.node.receipts.schema import from_blob, to_blob
from assay.types import Hash32


class Kind(StrEnum):
    POST = "post"
    COLLECT = "collect"
    CLAIM = "claim"
    DEFEND = "defend"


@dataclass(frozen=True, slots=True)
class Total:
    """All of a kind: mined transactions, their gas, the wei paid for it."""

    transactions: int
    gas: int
    wei: int


def totals(connection: Connection) -> dict[str, Total]:
    """By kind; those that there are."""
    query = "SELECT kind, transactions, gas, wei FROM spending_totals"
    return {kind: Total(number, gas, from_blob(wei)) for kind, number, gas, wei in connection.execute(query)}


def record(
    connection: Connection, kind: Kind, receipt: TxReceipt, shares: Sequence[tuple[int, Hash32 | None]]
) -> None:
    """A mined transaction, its cost in equal parts for `shares`: (batch or 0, version or None if for all).
    Belongs into a transaction of the log.

    Recorded again, as after a crash, or for other shares, it is what it was: each is paid once.
    """
    tx_hash = hex_bytes(receipt.transaction_hash)
    wei = receipt.gas_used * receipt.effective_gas_price
    gases, weis = _parts(receipt.gas_used, len(shares)), _parts(wei, len(shares))
    _hold(connection, kind)
    if connection.execute("SELECT 1 FROM spending WHERE tx_hash = ? LIMIT 1", (tx_hash,)).fetchone():
        return
    connection.executemany(
        "INSERT INTO spending (tx_hash, batch, version_id, kind, gas, wei) VALUES (?, ?, ?, ?, ?, ?)",
        [
            (tx_hash, batch, version_id, str(kind), gas, to_blob(part))
            for (batch, version_id), gas, part in zip(shares, gases, weis, strict=True)
        ],
    )
    _add(connection, kind, Total(1, receipt.gas_used, wei))


def correct(connection: Connection, intent: Intent) -> None:
    """After a reorg a transaction may have been mined again, at another price, with another outcome or under
    another hash: one that is booked gets what it has cost in the end. Belongs into a transaction of the
    log."""
    if intent.state is not IntentState.MINED or intent.receipt is None:
        return
    receipt = parse_tx_receipt(intent.receipt)
    wei = receipt.gas_used * receipt.effective_gas_price
    for attempt in intent.attempts:
        rows = connection.execute(
            "SELECT batch, version_id, kind, wei FROM spending WHERE tx_hash = ? ORDER BY batch",
            (hex_bytes(attempt.hash),),
        ).fetchall()
        is_same = attempt.hash == receipt.transaction_hash
        if rows and not (is_same and sum(from_blob(row[3]) for row in rows) == wei):
            forget(connection, hex_bytes(attempt.hash))
            shares = [(row[0], None if row[1] is None else Hash32(row[1])) for row in rows]
            record(connection, Kind(rows[0][2]), receipt, shares)


def forget(connection: Connection, tx_hash: str) -> None:
    """A reorg took a transaction away: what it costs where it is mined again is recorded then. Those that
    were mined before it, and reverted, have cost what they did. Belongs into a transaction of the log."""
    rows = connection.execute(
        "DELETE FROM spending WHERE tx_hash = ? RETURNING kind, gas, wei", (tx_hash,)
    ).fetchall()
    if rows:
        gas, wei = sum(row[1] for row in rows), sum(from_blob(row[2]) for row in rows)
        _add(connection, Kind(rows[0][0]), Total(-1, -gas, -wei))


def _hold(connection: Connection, kind: Kind) -> None:
    """Its row, until the transaction ends: two who record the same transaction do so one after the other."""
    _add(connection, kind, Total(0, 0, 0))


def _add(connection: Connection, kind: Kind, more: Total) -> None:
    """The first statement holds the row until the transaction ends, so that nobody's wei are lost between
    its reading and its writing."""
    row = connection.execute(
        "INSERT INTO spending_totals (kind, transactions, gas, wei) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (kind) DO UPDATE SET transactions = spending_totals.transactions"
        " + excluded.transactions, gas = spending_totals.gas + excluded.gas RETURNING wei",
        (str(kind), more.transactions, more.gas, to_blob(0)),
    ).fetchone()
    assert row is not None
    wei = to_blob(from_blob(row[0]) + more.wei)
    connection.execute("UPDATE spending_totals SET wei = ? WHERE kind = ?", (wei, str(kind)))


def _parts(total: int, count: int) -> list[int]:
    """`total` in `count` parts that differ by at most one."""
    return [total * (i + 1) // count - total * i // count for i in range(count)]
