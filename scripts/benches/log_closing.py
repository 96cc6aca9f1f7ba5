"""Closes, posts and publishes one batch in a process of its own, whose memory is measured:
`python -m scripts.benches.log_closing URL DEPLOYMENTS FOLDER NODE RECEIPTS`."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from pathlib import Path

from assay.chain.keys import load_key
from assay.node.receipts.database import SqliteDatabase
from assay.node.settlement.worth import SettlerRules
from assay.node.views import batch_lines
from assay.types import Address, Domain

from tests.support.nodes import PASSWORD
from tests.support.settle_once import open_settler


def peak_mib() -> float:
    """The most memory that the process had since `forget_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def forget_peak() -> None:
    """proc(5): 5 resets the peak resident set."""
    Path("/proc/self/clear_refs").write_text("5")


def main() -> None:
    url, deployments, folder, operator, receipts = sys.argv[1:]
    node = Address(operator)
    signer = load_key(Path(folder) / "signer.json", PASSWORD)
    times: dict[str, float] = {}
    base = peak_mib()

    def note(step: str) -> None:
        times.setdefault(step, time.perf_counter())

    rules = SettlerRules(max_receipts=int(receipts))
    with open_settler(url, Path(deployments), Path(folder), node, signer, rules, note) as settler:
        forget_peak()
        started = time.perf_counter()
        (batch,) = settler.close_due(close_all=True)
        closing_peak = peak_mib()
        settler.post_closed()
    database = SqliteDatabase(Path(folder) / "receipts.sqlite3")
    with contextlib.closing(database.connect()) as db:
        ((gas, skipped),) = db.execute(
            "SELECT (SELECT sum(gas) FROM spending WHERE batch = ?),"
            " (SELECT count(*) FROM batch_vouchers WHERE batch = ? AND skip_reason IS NOT NULL)",
            (batch.id, batch.id),
        ).fetchall()
    forget_peak()
    publishing = time.perf_counter()
    lines = batch_lines(database, Domain(1, node), batch.batch_id)
    published = sum(len(page) for page in lines)
    found = {
        "receipts": batch.receipts,
        "close_seconds": times["closed"] - started,
        "write_seconds": times["closed"] - times["hashed"],
        "base_mib": base,
        "peak_mib": closing_peak,
        "publish_seconds": time.perf_counter() - publishing,
        "publish_bytes": published,
        "publish_peak_mib": peak_mib(),
        "gas": gas,
        "skipped": skipped,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
