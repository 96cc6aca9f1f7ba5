"""What a node's money does, for its operator: the next batch of each version, and profit and loss."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from assay.commitments.identifiers import model_id, version_id
from assay.node.config import OUTBOX_FILE, NodeConfig
from assay.node.http.messages import Reply, Request, json_reply
from assay.node.http.routes import Routes
from assay.node.operator_token import OperatorToken
from assay.node.payments.chain_ledger import ChainLedger
from assay.node.receipts.database import Database
from assay.node.receipts.log_place import log_database
from assay.node.settlement.batches import BatchStore
from assay.node.settlement.daily import DAY_SECONDS, read_days, times_of
from assay.node.settlement.profit import read_profit
from assay.node.settlement.prospects import Outlook, forecasts
from assay.node.settlement.sending import settler_rules
from assay.types import Address, Hash32

PATH = "/v1/node/profit"


def next_batches(
    log: Database, config: NodeConfig, outlook: Outlook, clock: Callable[[], float] = time.time
) -> dict[str, Any]:
    """`at_risk` beside `cover`, and what each version waits for, in words too. Raises RetryableError."""
    with contextlib.closing(BatchStore(log, config.node)) as store:
        rows = [
            {
                "version_id": "0x" + forecast.version_id.hex(),
                "receipts": forecast.prospect.receipts,
                "value": str(forecast.decision.value),
                "needed": None if forecast.decision.needed is None else str(forecast.decision.needed),
                "cost": str(forecast.decision.cost),
                "seconds": round(forecast.decision.wait_seconds),
                "reason": str(forecast.decision.reason),
                "text": forecast.decision.text,
            }
            for forecast in forecasts(store, outlook, settler_rules(config), clock())
        ]
        exposure = store.exposure()
    cover = outlook.cover()
    return {
        "at_risk": str(exposure.total),
        "cover": None if cover is None else str(cover),
        "next_batch": "; ".join(f"{str(row['version_id'])[:10]}…: {row['text']}" for row in rows) or "none",
        "next_batches": rows,
    }


def profit_report(
    log: Database, outlook: Outlook, native_price: int, names: Mapping[Hash32, str]
) -> list[dict[str, Any]]:
    """By version, as `VersionProfit.to_json`. Raises RetryableError."""
    with log.session() as connection:
        versions = {Hash32(row[0]) for row in connection.execute("SELECT DISTINCT version_id FROM batches")}
        royalties = {version_id: outlook.royalty_bps(version_id) for version_id in versions}
        rows = read_profit(connection, outlook.fee_bps(), royalties)
    return [row.to_json(native_price, names) for row in rows]


def read_profit_of(folder: Path, config: NodeConfig, ledger: ChainLedger) -> list[dict[str, Any]]:
    """`profit_report` of the node in `folder`. Raises ConfigurationError, RetryableError."""
    log = log_database(folder, config)
    if not log.exists():
        return []
    names = _names_of(config)
    outlook = Outlook(ledger.settlement, ledger.node)
    return profit_report(log, outlook, config.settlement.native_price, names)


def read_days_of(folder: Path, config: NodeConfig, ledger: ChainLedger, days: int) -> list[dict[str, Any]]:
    """By day and version, as `DayProfit.to_json`, of the last `days` (0: all) of the node in `folder`. Raises
    ConfigurationError, RetryableError."""
    log = log_database(folder, config)
    if not log.exists():
        return []
    first = int(time.time()) // DAY_SECONDS - days + 1 if days else 0
    outbox = None if log.is_shared else folder / OUTBOX_FILE
    with log.session() as connection:
        times = times_of(connection, outbox, lambda number: ledger.client.get_block(number).timestamp)
        rows = read_days(connection, times, first)
    price, names = config.settlement.native_price, _names_of(config)
    return [row.to_json(price, names) for row in rows]


def _names_of(config: NodeConfig) -> dict[Hash32, str]:
    return {
        version_id(model_id(Address(one.publisher), one.name), one.number): str(one)
        for one in config.versions
    }


class ProfitRoute:
    """`GET /v1/node/profit`, for the operator alone: `{"native_price", "versions": […]}`."""

    def __init__(
        self,
        log: Database,
        ledger: ChainLedger,
        native_price: int,
        token: OperatorToken,
        names: Callable[[], Mapping[Hash32, str]],
    ) -> None:
        self._log = log
        self._outlook = Outlook(ledger.settlement, ledger.node)
        self._native_price = native_price
        self._token = token
        self._names = names
        self._one = asyncio.Lock()

    def register(self, routes: Routes) -> None:
        routes.add("GET", PATH, self.profit)

    async def profit(self, request: Request) -> Reply:
        """Raises OperatorOnly, RetryableError."""
        value = request.headers.get(b"authorization")
        self._token.check(None if value is None else value.decode("latin-1"), "profit and loss")
        async with self._one:
            rows = await asyncio.to_thread(
                profit_report, self._log, self._outlook, self._native_price, self._names()
            )
        return json_reply({"native_price": str(self._native_price), "versions": rows})
