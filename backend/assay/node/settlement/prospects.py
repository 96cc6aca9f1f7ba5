"""What the next batch of each version would be: the log's open receipts and vouchers beside what the chain
says of escrows, gas, shares and stake. Read-only; the settler acts on it, `status` shows it."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, Final

from assay.chain.contracts import ModelRegistry, NodeRegistry, Settlement
from assay.chain.fees import fetch_fees
from assay.chain.settlement import MAX_VOUCHERS, MAX_WALLET_VOUCHERS
from assay.chain.values import Block
from assay.chain.views import Escrow
from assay.errors import AssayError, RetryableError
from assay.node.payments.ledger import NO_ESCROW
from assay.node.receipts.unbatched import OpenChannel
from assay.node.settlement.batches import BatchStore
from assay.node.settlement.escrows import EscrowBook
from assay.node.settlement.values import Owing
from assay.node.settlement.worth import Decision, Prospect, Rows, SettlerRules, decide, net_of_shares
from assay.types import Address, Hash32

FEE_BLOCKS: Final = 100
GAS_PRICE_SECONDS: Final = 12.0
TERMS_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class GasPrice:
    """Wei for a unit of gas: now, and usually (the median of the last `FEE_BLOCKS` blocks)."""

    now: int
    usual: int


class Outlook:
    """The chain's side, each thing asked for as rarely as it may change. Used by one thread."""

    def __init__(
        self, settlement: Settlement, node: Address, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settlement = settlement
        self._models = ModelRegistry(settlement.client, settlement.deployment)
        self._nodes = NodeRegistry(settlement.client, settlement.deployment)
        self._node = node
        self._clock = clock
        self._royalties: dict[Hash32, int] = {}
        self._kept: dict[str, tuple[float, Any]] = {}
        self._head: Block | None = None
        self._keeps_head = False
        self.escrows = EscrowBook(settlement, node, lambda: self.head().number, clock)

    @contextlib.contextmanager
    def one_head(self) -> Iterator[None]:
        """Within it the chain is asked for its newest block at most once, when that is first wanted."""
        self._keeps_head = True
        try:
            yield
        finally:
            self._head, self._keeps_head = None, False

    def head(self) -> Block:
        """The newest block. Raises RetryableError."""
        if self._head is not None:
            return self._head
        found = self._settlement.client.get_block("latest")
        self._head = found if self._keeps_head else None
        return found

    def gas_price(self) -> GasPrice:
        """Raises RetryableError."""
        return self._keep("gas", GAS_PRICE_SECONDS, self._fetch_gas_price)  # type: ignore[no-any-return]

    def fee_bps(self) -> int:
        return int(self._keep("fee", TERMS_SECONDS, self._settlement.fee_bps))

    def cover(self) -> int | None:
        """The active stake in base units; None on a deployment where nothing can take it."""
        if not self._settlement.deployment.has_disputes:
            return None
        return int(self._keep("stake", GAS_PRICE_SECONDS, lambda: self._nodes.node(self._node).stake))

    def royalty_bps(self, version_id: Hash32) -> int:
        if version_id not in self._royalties:
            self._royalties[version_id] = self._models.version(version_id).royalty_bps
        return self._royalties[version_id]

    def net(self, amount: int, version_id: Hash32) -> int:
        """The node's part of what a batch of the version would be paid."""
        return net_of_shares(amount, self.fee_bps(), self.royalty_bps(version_id))

    def _keep(self, name: str, seconds: float, fetch: Callable[[], Any]) -> Any:
        kept = self._kept.get(name)
        if kept is None or self._clock() - kept[0] >= seconds:
            kept = self._kept[name] = (self._clock(), fetch())
        return kept[1]

    def _fetch_gas_price(self) -> GasPrice:
        client = self._settlement.client
        try:
            found = client.request("eth_feeHistory", [hex(FEE_BLOCKS), "latest", [50]])
            bases = [int(fee, 16) for fee in found["baseFeePerGas"]]
            tips = [int(row[0], 16) for row in found.get("reward") or [] if row]
        except RetryableError:
            raise
        except (AssayError, KeyError, TypeError, ValueError, IndexError):  # a chain without EIP-1559
            price = fetch_fees(client).max_fee
            return GasPrice(price, price)
        tip = round(median(tips)) if tips else 0
        return GasPrice(bases[-1] + tip, round(median(bases)) + tip)


def eligible(
    channels: Sequence[OpenChannel], owing: Sequence[Owing], max_receipts: int, *, free: bool
) -> list[OpenChannel]:
    """Of a version's open channels those that call for a batch: where something is paid, or all of them if
    unpaid receipts are posted, too.

    A batch has receipts, so a voucher that is owed for receipts posted before needs a carrier: then unpaid
    ones will do. They also go when they are as many as a batch takes in channels that have paid before, for a
    gap in those would make later batches look incomplete.
    """
    paid = [channel for channel in channels if channel.charged]
    if free or paid:
        return list(channels) if free else paid
    kept = [channel for channel in channels if channel.has_paid]
    if any(row.amount > row.settled for row in owing):
        return kept or list(channels)
    return kept if sum(channel.receipts for channel in kept) >= max_receipts else []


@dataclass(frozen=True, slots=True)
class Forecast:
    """The next batch of a version: its channels, the vouchers it could carry, whether it closes now."""

    version_id: Hash32
    channels: Sequence[OpenChannel]
    owing: Sequence[Owing]
    prospect: Prospect
    decision: Decision


def forecasts(
    store: BatchStore, outlook: Outlook, rules: SettlerRules, now: float, *, close_all: bool = False
) -> Iterator[Forecast]:
    """Of each version that something speaks for. Raises RetryableError."""
    versions = by_version(store.open_channels())
    if not versions:
        return
    owing, exposure = store.owing(), store.exposure()
    escrows = outlook.escrows.read(row.consumer for row in owing)
    thawing = leaving(owing, escrows)
    for version_id, channels in versions.items():
        owed = [row for row in owing if row.version_id == version_id]
        chosen = eligible(channels, owed, rules.max_receipts, free=rules.free_receipts)
        if not chosen:
            continue
        paying = choose_owing(owed, escrows)
        seen = replace(
            prospect(version_id, chosen, paying, escrows, outlook),
            thawing=any(row.consumer in thawing and row.payable(1) for row in paying),
            at_risk=exposure.total,
            cover=outlook.cover(),
        )
        if rules.free_receipts or not seen.is_idle(rules.max_receipts):
            yield Forecast(version_id, chosen, owed, seen, decide(seen, rules, now, close_all=close_all))


def prospect(
    version_id: Hash32,
    channels: Sequence[OpenChannel],
    paying: Sequence[Owing],
    escrows: Mapping[Address, Escrow],
    outlook: Outlook,
) -> Prospect:
    """`channels`: the version's, not none. `paying`: its vouchers that go along."""
    gross = sum(row.payable(escrows.get(row.consumer, NO_ESCROW).balance) for row in paying)
    wallets = sum(row.wallet for row in paying)
    return Prospect(
        receipts=sum(channel.receipts for channel in channels),
        oldest=min(channel.oldest for channel in channels),
        newest=max(channel.newest for channel in channels),
        charged=sum(channel.charged for channel in channels),
        payable=outlook.net(gross, version_id) if gross else 0,
        rows=Rows(len(paying) - wallets, wallets, sum(row.is_first for row in paying)),
        gas_price=outlook.gas_price().now,
        acknowledged=all(channel.is_acknowledged for channel in channels),
    )


def by_version(channels: Sequence[OpenChannel]) -> dict[Hash32, list[OpenChannel]]:
    """In their order."""
    found: dict[Hash32, list[OpenChannel]] = {}
    for channel in channels:
        found.setdefault(channel.version_id, []).append(channel)
    return found


def choose_owing(owing: Iterable[Owing], escrows: Mapping[Address, Escrow]) -> list[Owing]:
    """Those that a batch can carry and the chain would take, the most valuable first."""

    def worth(row: Owing) -> int:
        return row.payable(escrows.get(row.consumer, NO_ESCROW).balance)

    room = [MAX_VOUCHERS, MAX_WALLET_VOUCHERS]
    chosen = []
    for row in sorted(owing, key=worth, reverse=True):
        grows = worth(row) > 0 or (row.amount == row.settled and row.count > row.settled_count)
        if grows and room[row.wallet] > 0:
            room[row.wallet] -= 1
            chosen.append(row)
    return chosen


def leaving(owing: Iterable[Owing], escrows: Mapping[Address, Escrow]) -> set[Address]:
    """Consumers who have begun to take out what they owe, for all versions together."""
    debts = Counter[Address]()
    for row in owing:
        debts[row.consumer] += max(row.amount - row.settled, 0)
    found = set()
    for consumer, debt in debts.items():
        escrow = escrows.get(consumer, NO_ESCROW)
        if escrow.thawing and escrow.balance - escrow.thawing < min(debt, escrow.balance):
            found.add(consumer)
    return found
