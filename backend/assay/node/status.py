"""What `assay node status` tells: the chain's view of the node beside its own log."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from assay.chain.client import ChainClient
from assay.chain.errors import RpcError
from assay.errors import ConfigurationError
from assay.node.config import NodeConfig
from assay.node.disputes.dispute_log import read_disputes
from assay.node.doctor import MIN_POSTINGS, posting_price
from assay.node.operator_token import FILE as TOKEN_FILE
from assay.node.payments.chain_ledger import ChainLedger
from assay.node.receipts.database import Database
from assay.node.receipts.log_place import log_database
from assay.node.receipts.schema import from_blob
from assay.node.settlement.money import next_batches
from assay.node.settlement.prospects import Outlook
from assay.node.standing import PATH as STANDING


@dataclass(frozen=True, slots=True)
class LogFigures:
    """Sums over the log; amounts in base units, times Unix seconds."""

    receipts: int = 0
    open_receipts: int = 0
    last_receipt_at: int | None = None
    last_receipt: str | None = None
    unsettled: int = 0
    batches: dict[str, int] | None = None
    posted_amount: int = 0
    collectable_amount: int = 0
    collectable_batches: int = 0


def read_log(log: Database, chain_time: int, dispute_window: int) -> LogFigures:
    """Figures of the log at `chain_time`; zeros before the node first ran."""
    if not log.exists():
        return LogFigures(batches={})
    with log.session() as db:
        ((receipts,),) = db.execute("SELECT coalesce(sum(sequence), 0) FROM channels")
        ((open_receipts,),) = db.execute(
            "SELECT coalesce(sum(sequence - closed), 0) FROM channels WHERE sequence > closed"
        )
        last = db.execute("SELECT executed_at, digest FROM receipts ORDER BY id DESC LIMIT 1").fetchone()
        owed = db.execute("SELECT amount, settled FROM channels WHERE amount > settled").fetchall()
        states: dict[str, int] = dict(
            db.execute("SELECT state, count(*) FROM batches GROUP BY state").fetchall()
        )
        posted = db.execute("SELECT amount, posted_at FROM batches WHERE state = 'posted'").fetchall()
    ripe = [from_blob(amount) for amount, at in posted if chain_time >= at + dispute_window]
    return LogFigures(
        receipts=int(receipts),
        open_receipts=open_receipts,
        last_receipt_at=last[0] if last else None,
        last_receipt="0x" + last[1].hex() if last else None,
        unsettled=sum(from_blob(amount) - from_blob(settled) for amount, settled in owed),
        batches=states,
        posted_amount=sum(from_blob(amount) for amount, _ in posted),
        collectable_amount=sum(ripe),
        collectable_batches=len(ripe),
    )


def fetch_status(folder: Path, config: NodeConfig, ledger: ChainLedger) -> dict[str, Any]:
    """Everything that the command prints. Amounts are decimal strings. Raises RetryableError without a
    chain."""
    block = ledger.client.get_block("latest")
    node = ledger.nodes.node(config.node, block.number)
    if not node.is_registered:
        raise ConfigurationError(
            f"node {config.node} is not registered; run `assay node init --data {folder}`"
        )
    minimum = ledger.nodes.min_stake(block.number)
    log = log_database(folder, config)
    figures = read_log(log, block.timestamp, ledger.settlement.dispute_window(block.number))
    running = _ask_self(config)
    standing = None if running is None else _ask_standing(folder, config)
    gas = ledger.client.get_balance(node.signer, block.number)
    return {
        "node": config.node,
        "endpoint": node.endpoint,
        "running": running is not None,
        "ready": bool(running),
        "settles": None if standing is None else standing["settles"],
        "synced": _is_synced(ledger.client),
        "block": block.number,
        "block_age_seconds": max(0, round(time.time() - block.timestamp)),
        "registered": True,
        "signer": node.signer,
        "stake": str(node.stake),
        "min_stake": str(minimum),
        "staked": node.stake >= minimum,
        "thawing": str(node.thawing),
        "frozen": node.frozen,
        "signer_wei": str(gas),
        "funded": gas >= posting_price(ledger.client) * MIN_POSTINGS,
        "receipts": figures.receipts,
        "open_receipts": figures.open_receipts,
        "last_receipt": figures.last_receipt,
        "last_receipt_at": figures.last_receipt_at,
        "unsettled": str(figures.unsettled),
        "batches": figures.batches,
        "pending": str(figures.posted_amount - figures.collectable_amount),
        "collectable": str(figures.collectable_amount),
        "collectable_batches": figures.collectable_batches,
        "disputes": [row.to_json() for row in read_disputes(log)],
        "claimable": str(ledger.settlement.claimable(config.node, block.number)),
        "versions": [] if standing is None else standing["versions"],
        **(next_batches(log, config, Outlook(ledger.settlement, config.node)) if log.exists() else {}),
    }


def _is_synced(client: ChainClient) -> bool | None:
    """Whether the RPC's own node follows the chain; None if it does not say."""
    try:
        return client.request("eth_syncing") is False
    except RpcError:
        return None


def _ask_self(config: NodeConfig) -> bool | None:
    """Whether the node's process is ready; None if nothing answers, or what answers is no node."""
    try:
        answer = httpx.get(f"http://{config.host}:{config.port}/v2/health/ready", timeout=2.0)
    except (httpx.HTTPError, httpx.InvalidURL):
        return None
    return {200: True, 503: False}.get(answer.status_code)


def _ask_standing(folder: Path, config: NodeConfig) -> dict[str, Any] | None:
    """What the node's process tells its operator of itself (`standing`); None if it does not."""
    token = folder / TOKEN_FILE
    try:
        answer = httpx.get(
            f"http://{config.host}:{config.port}{STANDING}",
            headers={"authorization": f"Bearer {token.read_text().strip()}"},
            timeout=2.0,
        )
        return dict(answer.json()) if answer.status_code == 200 else None
    except (httpx.HTTPError, OSError, ValueError):
        return None
