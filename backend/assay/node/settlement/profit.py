"""Profit and loss of a node by version, from its log: what came in, what is on its way, what gas has cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from assay.node.receipts.database import Connection
from assay.node.receipts.schema import from_blob
from assay.node.receipts.unbatched import open_channels
from assay.node.settlement.spending import Kind
from assay.node.settlement.values import BatchState
from assay.node.settlement.worth import net_of_shares, profit_of
from assay.types import Hash32


@dataclass(slots=True)
class VersionProfit:
    """Amounts in base units, gas in wei. `collected` is the node's part of batches that were collected,
    `royalty` and `fee` what others had of them; `voided` went back to consumers. `pending` is the node's
    expected part of batches posted, `owed` what vouchers promise beyond what the chain has paid, `prepaid`
    what was paid outside the vouchers, `open` the prices of receipts in no posted batch, `slashed` stake lost
    in disputes."""

    version_id: Hash32 | None
    receipts: int = 0
    batches: int = 0
    collected: int = 0
    royalty: int = 0
    fee: int = 0
    voided: int = 0
    pending: int = 0
    owed: int = 0
    prepaid: int = 0
    open: int = 0
    slashed: int = 0
    gas: dict[Kind, int] = field(default_factory=lambda: dict.fromkeys(Kind, 0))

    @property
    def gas_wei(self) -> int:
        return sum(self.gas.values())

    def profit(self, native_price: int) -> int | None:
        """Earned so far: collected and prepaid, less gas and slashes, in base units; None if nobody said what
        an ether is worth."""
        return profit_of(self.collected + self.prepaid - self.slashed, self.gas_wei, native_price)

    def to_json(self, native_price: int, names: Mapping[Hash32, str]) -> dict[str, Any]:
        """Amounts as decimal strings; `version_id` null: costs of the node as a whole."""
        version_id = self.version_id
        profit = self.profit(native_price)
        amounts = {
            item.name: str(getattr(self, item.name))
            for item in fields(self)
            if item.name not in ("version_id", "receipts", "batches", "gas")
        }
        return {
            "version_id": None if version_id is None else "0x" + version_id.hex(),
            "model": None if version_id is None else names.get(version_id),
            "receipts": self.receipts,
            "batches": self.batches,
            **amounts,
            "gas_wei": {str(kind): str(wei) for kind, wei in self.gas.items()},
            "profit": None if profit is None else str(profit),
        }


def read_profit(connection: Connection, fee_bps: int, royalties: Mapping[Hash32, int]) -> list[VersionProfit]:
    """By version, costs of the node as a whole (claims) last. `fee_bps`, `royalties`: what is taken off what
    is posted and not collected yet."""
    found = _Rows()
    _add_channels(connection, found)
    _add_batches(connection, found, fee_bps, royalties)
    for version_id, kind, wei in connection.execute("SELECT version_id, kind, wei FROM spending"):
        found.of(version_id).gas[Kind(kind)] += from_blob(wei)
    for version_id, slashed in connection.execute(
        "SELECT r.version_id, d.slashed FROM disputes d LEFT JOIN receipts r ON r.digest = d.digest"
        " WHERE d.slashed IS NOT NULL"
    ):
        found.of(version_id).slashed += from_blob(slashed)
    return sorted(
        found.rows.values(), key=lambda row: (row.version_id is None, -row.collected, row.version_id or b"")
    )


@dataclass(slots=True)
class _Rows:
    rows: dict[Hash32 | None, VersionProfit] = field(default_factory=dict)

    def of(self, version_id: bytes | None) -> VersionProfit:
        key = None if version_id is None else Hash32(version_id)
        return self.rows.setdefault(key, VersionProfit(key))


def _add_channels(connection: Connection, found: _Rows) -> None:
    for version_id, sequence, amount, settled, prepaid in connection.execute(
        "SELECT version_id, sequence, amount, settled, prepaid FROM channels"
    ):
        row = found.of(version_id)
        row.receipts += sequence
        row.owed += max(from_blob(amount) - from_blob(settled), 0)
        row.prepaid += from_blob(prepaid)
    for channel in open_channels(connection):
        found.of(channel.version_id).open += channel.charged


def _add_batches(connection: Connection, found: _Rows, fee_bps: int, royalties: Mapping[Hash32, int]) -> None:
    for version_id, state, value, amount, mine, royalty, fee in connection.execute(
        "SELECT version_id, state, value, amount, node_amount, royalty, fee FROM batches"
    ):
        row = found.of(version_id)
        row.batches += 1
        if state == BatchState.CLOSED:
            row.open += from_blob(value)
        elif state == BatchState.POSTED:
            row.pending += net_of_shares(from_blob(amount), fee_bps, royalties.get(Hash32(version_id), 0))
        elif mine is not None:
            row.collected += from_blob(mine)
            row.royalty += from_blob(royalty)
            row.fee += from_blob(fee)
            row.voided += from_blob(amount) - from_blob(mine) - from_blob(royalty) - from_blob(fee)
