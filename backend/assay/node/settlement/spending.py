"""What each transaction of the node has cost in gas, in its log as it happens: by batch, so by version."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from assay.chain.client import hex_bytes
from assay.chain.values import TxReceipt
from assay.node.receipts.database import Connection
from assay.node.receipts.schema import to_blob
from assay.types import Hash32


class Kind(StrEnum):
    POST = "post"
    COLLECT = "collect"
    CLAIM = "claim"
    DEFEND = "defend"


def record(
    connection: Connection, kind: Kind, receipt: TxReceipt, shares: Sequence[tuple[int, Hash32 | None]]
) -> None:
    """A mined transaction, its cost in equal parts for `shares`: (batch or 0, version or None if for all).

    Recorded again, as after a crash, it is what it was.
    """
    wei = receipt.gas_used * receipt.effective_gas_price
    gases, weis = _parts(receipt.gas_used, len(shares)), _parts(wei, len(shares))
    connection.executemany(
        "INSERT INTO spending (tx_hash, batch, version_id, kind, gas, wei) VALUES (?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (tx_hash, batch) DO NOTHING",
        [
            (hex_bytes(receipt.transaction_hash), batch, version_id, str(kind), gas, to_blob(part))
            for (batch, version_id), gas, part in zip(shares, gases, weis, strict=True)
        ],
    )


def forget(connection: Connection, batch: int, kind: Kind) -> None:
    """A reorg took a batch's transaction away; it will be mined again."""
    connection.execute("DELETE FROM spending WHERE batch = ? AND kind = ?", (batch, str(kind)))


def _parts(total: int, count: int) -> list[int]:
    """`total` in `count` parts that differ by at most one."""
    return [total * (i + 1) // count - total * i // count for i in range(count)]
