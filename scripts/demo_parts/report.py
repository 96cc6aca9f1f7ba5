"""What the demo says at its end: tables for a newcomer, JSON for machines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from . import checks
from .checks import Check
from .evidence import Evidence
from .world import UNIT, World

NOTE = (
    "`checked` counts receipts whose every step holds from the chain alone: signature, signer, version, "
    "inclusion, finality. `verified` are those of them whose model is in the exact profile, so that anybody "
    "could have overturned them and nobody did; the others are worth their node's signature and stake."
)


def build_report(
    world: World, evidence: Evidence, judged: Sequence[Check], network: dict[str, Any], seconds: float
) -> dict[str, Any]:
    """The JSON report. Amounts are decimal strings in base units, latencies milliseconds."""
    receipts = len(evidence.issued)
    post = sum(batch.post_gas for batch in evidence.batches)
    waited = [answer.latency_ms for answer in evidence.answers]
    reached = {
        model: checks.accuracy(a for a in evidence.answers if a.model == model)
        for model in checks.models(evidence)
    }
    return {
        "ok": all(check.ok for check in judged),
        "accuracy": reached.get("digits", 0.0),
        "accuracy_by_model": reached,
        "receipts": {
            "issued": receipts,
            "checked": checks.verified(evidence),
            "verified": network["verified_inferences"],
            "void": len(evidence.void),
            "lost": len(checks.lost(evidence)),
            "doubled": checks.doubled(evidence),
            "note": NOTE,
        },
        "frauds": [
            {
                "dispute": one.dispute_id,
                "receipt": "0x" + one.digest.hex(),
                "node": one.node,
                "sentence": one.sentence,
                "moves": one.moves,
                "gas": {"node": one.node_gas, "challenger": one.challenger_gas},
                "slashed": str(one.slashed),
                "to_challenger": str(one.to_challenger),
                "to_consumer": str(one.to_consumer),
                "to_treasury": str(one.to_treasury),
            }
            for one in evidence.frauds
        ],
        "gas": {
            "post_batch": post,
            "collect": evidence.collect_gas,
            "batches": len(evidence.batches),
            "vouchers": sum(batch.vouchers for batch in evidence.batches),
            "per_receipt": (post + evidence.collect_gas) / receipts if receipts else None,
        },
        "latency_ms": {
            "p50": percentile(waited, 50),
            "p99": percentile(waited, 99),
            "of": "the consumer's whole call: two durable writes, inference, receipt and its checks",
        },
        "checks": [{"name": check.name, "ok": check.ok, "detail": check.detail} for check in judged],
        "money": {
            "supply": str(evidence.money.supply),
            "paid": str(sum(batch.amount for batch in evidence.batches)),
            "royalties": str(sum(batch.royalty for batch in evidence.batches)),
            "fees": str(sum(batch.fee for batch in evidence.batches)),
        },
        "network": network,
        "addresses": {
            **world.deployment.addresses,
            **{person.name: person.address for person in world.people.values()},
        },
        "urls": world.urls,
        "folder": str(world.folder),
        "seconds": round(seconds, 1),
    }


def percentile(values: Sequence[float], share: float) -> float | None:
    return round(float(np.percentile(values, share)), 3) if values else None


def write_report(path: Path, report: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n")


def print_report(console: Console, report: dict[str, Any], symbol: str) -> None:
    console.print(facts_table(report, symbol))
    console.print()
    console.print(checks_table(report))
    console.print()
    console.print(places_table(report))
    console.print()
    for one in report["frauds"]:
        console.print(f"[bold]{escape(one['sentence'])}[/bold]", soft_wrap=True)
    console.print(
        f"The network's verified inferences: {report['network']['verified_inferences']}. Only models in the "
        "exact profile, whose wrong answers can be proven to the contracts, count there; the others' "
        "receipts are signed ones.",
        soft_wrap=True,
    )
    verdict = "[green]everything checks[/green]" if report["ok"] else "[red]a check failed[/red]"
    console.print(f"{verdict} after {report['seconds']:.0f} s", soft_wrap=True)


def facts_table(report: dict[str, Any], symbol: str) -> Table:
    receipts, gas, latency, money = (report[key] for key in ("receipts", "gas", "latency_ms", "money"))
    table = _table("What happened", "what", "result", "in words")
    for model, share in report["accuracy_by_model"].items():
        table.add_row(f"accuracy of {model}", f"{share:.1%}", "held-out rows that the model got right")
    table.add_row("receipts", f"{receipts['issued']:,}", "answers that a staked node signed for")
    table.add_row(
        "checked from the chain",
        f"{receipts['checked']:,}",
        "signature, signer, version, inclusion, finality",
    )
    table.add_row("verified", f"{receipts['verified']:,}", "of them exact: anybody could dispute them")
    table.add_row("void", f"{receipts['void']:,}", "proven wrong on the chain; their price went back")
    for one in report["frauds"]:
        spent = f"{one['moves']} moves, {(one['gas']['node'] + one['gas']['challenger']) / 1e6:.2f}M gas"
        table.add_row(f"dispute {one['dispute']}", spent, f"{int(one['slashed']) / UNIT:g} {symbol} slashed")
    table.add_row(
        "lost or doubled", f"{receipts['lost']} / {receipts['doubled']}", "although a node was killed"
    )
    table.add_row("batches", f"{gas['batches']}", f"settled with {gas['vouchers']} vouchers in all")
    table.add_row(
        "gas per receipt", _number(gas["per_receipt"]), "posting and collecting, shared by all receipts"
    )
    table.add_row(
        "latency p50 / p99", f"{_number(latency['p50'])} / {_number(latency['p99'])} ms", "per paid answer"
    )
    table.add_row("paid", f"{int(money['paid']) / UNIT:g} {symbol}", "by the consumers, answer by answer")
    shares = f"{int(money['royalties']) / UNIT:.6f} / {int(money['fees']) / UNIT:.6f} {symbol}"
    table.add_row("royalty / protocol fee", shares, "of it, to the publisher and to the treasury")
    return table


def checks_table(report: dict[str, Any]) -> Table:
    table = _table("Checks", "", "check", "found")
    for check in report["checks"]:
        mark = "[green]ok[/green]" if check["ok"] else "[red]FAILED[/red]"
        table.add_row(mark, check["name"], escape(check["detail"]))
    return table


def places_table(report: dict[str, Any]) -> Table:
    table = _table("Where", "what", "address or URL")
    for name, place in (*report["addresses"].items(), *report["urls"].items()):
        table.add_row(name, place)
    table.add_row("logs and state", report["folder"])
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", show_edge=False, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
