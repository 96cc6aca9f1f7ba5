"""How a watch stands: nodes and what they give, receipts judged, disputes, profit and loss."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from assay.chain.dispute_game import DisputeGame
from assay.chain.outbox import Outbox
from assay.types import Address
from assay.watch.economics import ProfitAndLoss, summarise
from assay.watch.ledger import Ledger
from assay.watch.store import Store
from assay.watch.values import DataState, NodeSummary, Verdict


@dataclass(frozen=True, slots=True)
class Summary:
    nodes: tuple[NodeSummary, ...]
    skipped: dict[str, int]
    """Why receipts could not be judged, and how many."""
    challenges: dict[str, int]
    frauds: dict[str, int]
    money: ProfitAndLoss

    def to_json(self) -> dict[str, Any]:
        return {
            "nodes": [
                {
                    "node": n.node,
                    "withholds": is_withholding(n),
                    "batches": n.batches,
                    "public_data": n.data,
                    "verdicts": n.verdicts,
                }
                for n in self.nodes
            ],
            "skipped": self.skipped,
            "challenges": self.challenges,
            "frauds": self.frauds,
            "profit_and_loss": self.money.to_json(),
        }


def summarise_store(store: Store, game: DisputeGame, outbox: Outbox, me: Address | None) -> Summary:
    """`me` None: a watcher without a key, which has no money."""
    ledger, bond = Ledger(game, store, me), game.bond()
    gas = [] if me is None else outbox.gas_spent(game.client.chain_id, me)
    return Summary(
        nodes=node_summaries(store),
        skipped=dict(
            store.rows(
                "SELECT reason, count(*) FROM receipts WHERE verdict = ? GROUP BY reason", (Verdict.SKIPPED,)
            )
        ),
        challenges=dict(store.rows("SELECT state, count(*) FROM challenges GROUP BY state")),
        frauds=dict(store.rows("SELECT kind || ' ' || state, count(*) FROM frauds GROUP BY kind, state")),
        money=summarise(ledger.stakes(bond), ledger.earned_by_reports(), gas),
    )


def node_summaries(store: Store) -> tuple[NodeSummary, ...]:
    """`data` counts chosen public receipts: of those nobody asked for, nothing is known."""
    batches: dict[str, dict[str, int]] = defaultdict(dict)
    data: dict[str, dict[str, int]] = defaultdict(dict)
    verdicts: dict[str, dict[str, int]] = defaultdict(dict)
    for node, state, count in store.rows("SELECT node, state, count(*) FROM batches GROUP BY node, state"):
        batches[node][state] = count
    rows = store.rows(
        "SELECT node, data, verdict, count(*) FROM receipts WHERE is_chosen = 1 GROUP BY node, data, verdict"
    )
    for node, state, verdict, count in rows:
        data[node][state] = data[node].get(state, 0) + count
        verdicts[node][verdict] = verdicts[node].get(verdict, 0) + count
    return tuple(
        NodeSummary(Address(node), batches[node], data[node], verdicts[node])
        for node in sorted({*batches, *data})
    )


def is_withholding(summary: NodeSummary) -> bool:
    """Whether a node does not give what it has to: a batch, or a public receipt's data."""
    missing = summary.batches.get("unavailable", 0) + summary.batches.get("inconsistent", 0)
    data = summary.data
    return bool(missing + data.get(DataState.WITHHELD, 0) + data.get(DataState.INCONSISTENT, 0))
