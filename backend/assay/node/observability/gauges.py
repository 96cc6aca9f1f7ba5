"""Sets the metrics that are looked up when Prometheus asks: from the log, from the engines, and from what was
last seen of the chain."""

from __future__ import annotations

import time
from collections.abc import Callable
from math import nan

from assay.node.models.catalog import Catalog
from assay.node.observability.metrics import Metrics
from assay.node.payments.follower import Follower
from assay.node.payments.ledger import safe_balance
from assay.node.receipts.database import Connection
from assay.node.receipts.unbatched import count_open


def read_log(metrics: Metrics, connection: Connection, clock: Callable[[], float] = time.time) -> None:
    """Receipts, batches, disputes. Runs in a worker thread."""
    metrics.open_receipts.set(count_open(connection))
    metrics.batches.clear()
    for state, number in connection.execute("SELECT state, count(*) FROM batches GROUP BY state"):
        metrics.batches.labels(state).set(number)
    ((oldest,),) = connection.execute("SELECT min(closed_at) FROM batches WHERE state = 'closed'")
    metrics.oldest_unposted.set(max(clock() - oldest, 0.0) if oldest is not None else 0.0)
    rows = connection.execute(
        "SELECT problem, is_ours, deadline FROM disputes WHERE outcome IS NULL"
    ).fetchall()
    metrics.disputes_open.set(len(rows))
    metrics.disputes_unanswered.set(sum(problem is not None for problem, _, _ in rows))
    deadlines = [deadline for _, is_ours, deadline in rows if is_ours]
    metrics.dispute_deadline.set(min(deadlines) - clock() if deadlines else nan)


def read_engines(metrics: Metrics, catalog: Catalog) -> None:
    """What the loaded versions' engines count themselves. Belongs to the event loop."""
    families = (metrics.batch_rows, metrics.run_seconds, metrics.queue, metrics.loaded_bytes)
    for family in families:
        family.clear()
    for served in catalog:
        if (engine := served.engine) is None:
            continue
        name = f"{served.full_name}@{served.number}"
        metrics.batch_rows.series[name,] = engine.statistics.batch_rows
        metrics.run_seconds.series[name,] = engine.statistics.run_seconds
        metrics.queue.labels(name).set(engine.waiting)
        metrics.loaded_bytes.labels(name).set(engine.memory_bytes)


def read_chain(metrics: Metrics, follower: Follower) -> None:
    """The node's view of the chain, however old. Belongs to the event loop."""
    metrics.view_age.set(follower.view_age)
    view = follower.last_view
    if view is None:
        return
    metrics.stake.set(view.stake)
    metrics.min_stake.set(view.min_stake)
    metrics.signer_wei.set(view.signer_wei)
    owed = covered = 0
    for account in follower.accounts():
        due = account.owed
        owed += due
        covered += min(due, safe_balance(account.escrow, view.timestamp))
    metrics.owed.set(owed)
    metrics.covered.set(covered)
