"""Sets the metrics that are looked up when Prometheus asks: from the log, from the engines, and from what was
last seen of the chain."""

from __future__ import annotations

import time
from collections.abc import Callable
from math import nan
from typing import Any

from assay.node.engines.engine import Engine, ExecutorStatistics
from assay.node.models.catalog import Catalog, Loads
from assay.node.observability.counting import Family
from assay.node.observability.metrics import Metrics
from assay.node.payments.follower import Follower
from assay.node.payments.ledger import safe_balance
from assay.node.receipts.database import Connection
from assay.node.receipts.unbatched import count_open
from assay.node.settlement import spending


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
    _read_spending(metrics, connection)


def _read_spending(metrics: Metrics, connection: Connection) -> None:
    """Each transaction once, however many batches share it."""
    for family in (metrics.transactions, metrics.gas_used, metrics.gas_wei):
        family.clear()
    for kind, total in spending.totals(connection).items():
        metrics.transactions.labels(kind).set(total.transactions)
        metrics.gas_used.labels(kind).set(total.gas)
        metrics.gas_wei.labels(kind).set(total.wei)


def read_engines(metrics: Metrics, catalog: Catalog) -> None:
    """What versions and their engines count themselves. Belongs to the event loop."""
    families: tuple[Family[Any], ...] = (
        *(metrics.batch_rows, metrics.run_seconds, metrics.queue, metrics.loaded_bytes, metrics.batch_limit),
        *(metrics.versions, metrics.executor_up, metrics.executor_seconds, metrics.executor_failures),
    )
    for family in families:
        family.clear()
    for served in catalog:
        name = f"{served.full_name}@{served.number}"
        metrics.versions.labels(str(served.state).lower()).inc()
        _read_loads(metrics, name, served.loads)
        if served.executor is not None:
            _read_executor(metrics, name, served.executor)
        if served.engine is not None:
            _read_engine(metrics, name, served.engine)


def _read_engine(metrics: Metrics, name: str, engine: Engine) -> None:
    metrics.batch_rows.series[name,] = engine.statistics.batch_rows
    metrics.run_seconds.series[name,] = engine.statistics.run_seconds
    metrics.queue.labels(name).set(engine.waiting)
    metrics.loaded_bytes.labels(name).set(engine.memory_bytes)
    metrics.batch_limit.labels(name).set(engine.statistics.batching.max_rows)


def _read_loads(metrics: Metrics, name: str, loads: Loads) -> None:
    for outcome, number in loads.outcomes.items():
        metrics.loads.labels(name, outcome).set(number)
    metrics.evictions.labels(name).set(loads.evictions)
    if loads.seconds:
        metrics.load_seconds.labels(name).set(loads.seconds)


def _read_executor(metrics: Metrics, name: str, executor: ExecutorStatistics) -> None:
    metrics.executor_up.labels(name).set(not executor.problem)
    metrics.executor_seconds.series[name,] = executor.seconds
    for kind, number in tuple(executor.failures.items()):
        metrics.executor_failures.labels(name, kind).set(number)


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
