"""Profit and loss of a node day by day (UTC), from its log and its outbox, which knows when each transaction
was first sent."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from assay.chain.client import hex_bytes
from assay.node.receipts.database import Connection
from assay.node.receipts.schema import from_blob
from assay.node.settlement.spending import Kind
from assay.node.settlement.values import BatchState
from assay.node.settlement.worth import profit_of
from assay.types import Hash32

DAY_SECONDS: Final = 86_400


@dataclass(slots=True)
class DayProfit:
    """Of one version on one day, in days since 1970; None: of transactions that no outbox knows the time of.
    Amounts in base units. `charged`: prices of the receipts issued, `prepaid` of those that were paid for at
    once, outside the vouchers; `posted`: what batches of the day paid; the rest by the day of their
    collection. `version_id` None: costs of the node as a whole."""

    day: int | None
    version_id: Hash32 | None
    receipts: int = 0
    charged: int = 0
    prepaid: int = 0
    posted: int = 0
    collected: int = 0
    royalty: int = 0
    fee: int = 0
    voided: int = 0
    slashed: int = 0
    gas: dict[Kind, int] = field(default_factory=lambda: dict.fromkeys(Kind, 0))

    def profit(self, native_price: int) -> int | None:
        """As `VersionProfit.profit`, of the day."""
        income = self.collected + self.prepaid - self.slashed
        return profit_of(income, sum(self.gas.values()), native_price)

    def to_json(self, native_price: int, names: Mapping[Hash32, str]) -> dict[str, Any]:
        """Amounts as decimal strings."""
        version_id, profit = self.version_id, self.profit(native_price)
        amounts = ("charged", "prepaid", "posted", "collected", "royalty", "fee", "voided", "slashed")
        return {
            "day": None if self.day is None else date_of(self.day),
            "version_id": None if version_id is None else "0x" + version_id.hex(),
            "model": None if version_id is None else names.get(version_id),
            "receipts": self.receipts,
            **{name: str(getattr(self, name)) for name in amounts},
            "gas_wei": {str(kind): str(wei) for kind, wei in self.gas.items()},
            "profit": None if profit is None else str(profit),
        }


def date_of(day: int) -> str:
    return datetime.fromtimestamp(day * DAY_SECONDS, UTC).strftime("%Y-%m-%d")


@dataclass(frozen=True, slots=True)
class Times:
    """When transactions were first sent, by hash in hex, and blocks were made, in Unix seconds."""

    sent: Mapping[str, int]
    block: Callable[[int], int]


def times_of(log: Connection, outbox: Path | None, block: Callable[[int], int]) -> Times:
    """`outbox` None: it is in the shared log. A file that is not there, or no outbox, knows nothing."""
    query = "SELECT hash, created_at FROM attempts"
    if outbox is None:
        return Times(_sent(log.execute(query).fetchall()), block)
    if not outbox.exists():
        return Times({}, block)
    with closing(sqlite3.connect(f"{outbox.resolve().as_uri()}?mode=ro", uri=True, timeout=30)) as file:
        return Times(_sent(file.execute(query).fetchall()), block)


def _sent(rows: list[Any]) -> dict[str, int]:
    return {hex_bytes(Hash32(bytes(tx_hash))): int(created_at) for tx_hash, created_at in rows}


class _Days:
    def __init__(self, first: int) -> None:
        self.first = first
        self.rows: dict[tuple[int | None, Hash32 | None], DayProfit] = {}

    def of(self, at: int | None, version_id: bytes | None) -> DayProfit:
        """The row of a moment in Unix seconds; one that nobody sees if that is before the first day."""
        day = None if at is None else at // DAY_SECONDS
        version = None if version_id is None else Hash32(version_id)
        if day is not None and day < self.first:
            return DayProfit(day, version)
        return self.rows.setdefault((day, version), DayProfit(day, version))

    def __iter__(self) -> Iterator[DayProfit]:
        rows = self.rows.values()
        return iter(sorted(rows, key=_order))


def _order(row: DayProfit) -> tuple[int, bool, bytes]:
    return -1 if row.day is None else row.day, row.version_id is None, row.version_id or b""


def read_days(log: Connection, times: Times, first: int = 0) -> list[DayProfit]:
    """From day `first` (since 1970) on, the oldest first; what has no time before all."""
    days = _Days(first)
    _add_receipts(log, days)
    collected = _add_spending(log, days, times)
    _add_batches(log, days, collected)
    for version_id, slashed, block in log.execute(
        "SELECT r.version_id, d.slashed, d.closed_block FROM disputes d"
        " LEFT JOIN receipts r ON r.digest = d.digest WHERE d.slashed IS NOT NULL"
    ).fetchall():
        days.of(None if block is None else times.block(block), version_id).slashed += from_blob(slashed)
    return list(days)


def _add_receipts(log: Connection, days: _Days) -> None:
    """Those that are kept, counted by their prices, of which a version has few."""
    sold = log.execute("SELECT 1 FROM payments LIMIT 1").fetchone() is not None
    prepaid = "p.payment IS NOT NULL" if sold else "0 = 1"
    join = "LEFT JOIN payments p ON p.payment = r.voucher" if sold else ""
    query = (
        f"SELECT r.executed_at / {DAY_SECONDS}, r.version_id, r.price, {prepaid}, count(*)"  # noqa: S608
        f" FROM receipts r {join} WHERE r.executed_at >= ? GROUP BY 1, 2, 3, 4"
    )
    with log.stream(query, (days.first * DAY_SECONDS,)) as rows:
        for day, version_id, price, is_prepaid, count in rows:
            row = days.of(day * DAY_SECONDS, version_id)
            row.receipts += count
            row.charged += from_blob(price) * count
            row.prepaid += from_blob(price) * count if is_prepaid else 0


def _add_spending(log: Connection, days: _Days, times: Times) -> dict[int, int]:
    """When each batch was collected."""
    collected: dict[int, int] = {}
    posted: dict[int, int | None] = dict(log.execute("SELECT id, posted_at FROM batches").fetchall())
    for tx_hash, batch, version_id, kind, wei in log.execute(
        "SELECT tx_hash, batch, version_id, kind, wei FROM spending"
    ).fetchall():
        at = times.sent.get(tx_hash)
        if at is None and kind == Kind.POST:
            at = posted.get(batch)
        if kind == Kind.COLLECT and at is not None:
            collected[batch] = at
        days.of(at, version_id).gas[Kind(kind)] += from_blob(wei)
    return collected


def _add_batches(log: Connection, days: _Days, collected: Mapping[int, int]) -> None:
    for number, version_id, state, at, amount, mine, royalty, fee in log.execute(
        "SELECT id, version_id, state, posted_at, amount, node_amount, royalty, fee FROM batches"
    ).fetchall():
        if state == BatchState.CLOSED or amount is None:
            continue
        days.of(at, version_id).posted += from_blob(amount)
        if mine is not None:
            row = days.of(collected.get(number), version_id)
            parts = [from_blob(part) for part in (mine, royalty, fee)]
            row.collected += parts[0]
            row.royalty += parts[1]
            row.fee += parts[2]
            row.voided += from_blob(amount) - sum(parts)
