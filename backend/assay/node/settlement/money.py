"""What a node's money does, for its operator: the next batch of each version, and profit and loss."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs

from assay.chain.client import ChainClient
from assay.commitments.identifiers import model_id, version_id
from assay.commitments.parsing import UINT32_MAX, FieldError, parse_decimal
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
DAYS: Final = 30
"""Shown where nobody says how many."""


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
    """`days_report` of the node in `folder`. Raises ConfigurationError, RetryableError."""
    log = log_database(folder, config)
    if not log.exists():
        return []
    price, outbox = config.settlement.native_price, outbox_file(folder, log)
    return days_report(log, outbox, ledger.client, days, native_price=price, names=_names_of(config))


def outbox_file(folder: Path, log: Database) -> Path | None:
    """Where the outbox is; None: in the shared log."""
    return None if log.is_shared else folder / OUTBOX_FILE


def days_report(
    log: Database,
    outbox: Path | None,
    client: ChainClient,
    days: int,
    *,
    native_price: int,
    names: Mapping[Hash32, str],
) -> list[dict[str, Any]]:
    """By day and version, as `DayProfit.to_json`, of the last `days`, today included; 0: of all. Raises
    RetryableError."""
    first = int(time.time()) // DAY_SECONDS - days + 1 if days else 0
    with log.session() as connection:
        times = times_of(connection, outbox, lambda number: client.get_block(number).timestamp)
        rows = read_days(connection, times, first)
    return [row.to_json(native_price, names) for row in rows]


def _names_of(config: NodeConfig) -> dict[Hash32, str]:
    return {
        version_id(model_id(Address(one.publisher), one.name), one.number): str(one)
        for one in config.versions
    }


class ProfitRoute:
    """`GET /v1/node/profit`, for the operator alone: `{"native_price", "versions": […]}`, or with `?by=day`
    `{"native_price", "days": […]}`. `outbox` as `outbox_file` has it."""

    def __init__(
        self,
        log: Database,
        ledger: ChainLedger,
        native_price: int,
        token: OperatorToken,
        names: Callable[[], Mapping[Hash32, str]],
        *,
        outbox: Path | None,
    ) -> None:
        self._log = log
        self._ledger = ledger
        self._outlook = Outlook(ledger.settlement, ledger.node)
        self._native_price = native_price
        self._token = token
        self._names = names
        self._outbox = outbox
        self._one = asyncio.Lock()

    def register(self, routes: Routes) -> None:
        routes.add("GET", PATH, self.profit)

    async def profit(self, request: Request) -> Reply:
        """Raises OperatorOnly, FieldError, RetryableError."""
        value = request.headers.get(b"authorization")
        self._token.check(None if value is None else value.decode("latin-1"), "profit and loss")
        days = parse_days(request.query)
        async with self._one:
            found = await asyncio.to_thread(self._read, days, self._names())
        return json_reply({"native_price": str(self._native_price), **found})

    def _read(self, days: int | None, names: Mapping[Hash32, str]) -> dict[str, Any]:
        price = self._native_price
        if days is None:
            return {"versions": profit_report(self._log, self._outlook, price, names)}
        client = self._ledger.client
        rows = days_report(self._log, self._outbox, client, days, native_price=price, names=names)
        return {"days": rows}


def parse_days(query: bytes) -> int | None:
    """The days that `by=day&days=N` asks for, 0 for all; None: by version. Raises FieldError."""
    try:
        given = parse_qs(query.decode("ascii"), keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        raise FieldError("query", "expected name=value pairs, as in ?by=day&days=30") from None
    for name, values in given.items():
        if name not in ("by", "days") or len(values) > 1:
            raise FieldError(name[:80], "expected by and days alone, each once")
    by, days = given.get("by", ["version"])[0], given.get("days", [None])[0]
    if by not in ("version", "day"):
        raise FieldError("by", f"expected version or day, got {by[:80]!r}")
    if by == "version":
        if days is not None:
            raise FieldError("days", "is for by=day")
        return None
    return DAYS if days is None else parse_decimal(days, "days", UINT32_MAX)
