"""Metrics that are looked up when Prometheus asks."""

from __future__ import annotations

import asyncio
import contextlib

import numpy as np
from assay.chain.values import TxReceipt
from assay.node.engines.engine import ExecutorStatistics
from assay.node.models.catalog import Catalog, Served, VersionState
from assay.node.observability.gauges import read_engines, read_log
from assay.node.observability.metrics import Metrics
from assay.node.receipts.database import Database
from assay.node.receipts.log import ReceiptLog
from assay.node.settlement.spending import Kind, record
from assay.types import Address, Assurance, Domain, Hash32

from tests.support.engines import engine_of, run_all
from tests.support.onnx_models import linear_model

PUBLISHER = Address("0x" + "11" * 20)


def served(number: int) -> Served:
    return Served(Hash32(bytes([number]) * 32), PUBLISHER, "linear", number, Assurance.SIGNED)


def test_read_engines__two_versions_of_which_one_is_loaded__shows_what_its_engine_did() -> None:
    loaded, other = served(1), served(2)
    metrics, catalog = Metrics(1.0), Catalog([loaded, other])

    async def scenario() -> None:
        loaded.engine = engine = engine_of(linear_model())
        await run_all(engine, [(np.zeros((rows, 4), np.float32),) for rows in (1, 2)])

    asyncio.run(scenario())
    read_engines(metrics, catalog)
    text = metrics.render().decode()
    name = f'model="{PUBLISHER}/linear@1"'
    assert f"assay_node_batch_rows_sum{{{name}}} 3.0" in text
    assert f"assay_node_run_seconds_count{{{name}}} 1.0" in text
    assert f"assay_node_queue_jobs{{{name}}} 0.0" in text
    assert f"assay_node_batch_limit_rows{{{name}}} 8.0" in text
    assert 'linear@2"} 1' not in text
    loaded.engine = None
    read_engines(metrics, catalog)
    text = metrics.render().decode()
    assert f"run_seconds_count{{{name}" not in text
    assert f"batch_limit_rows{{{name}" not in text


def test_read_engines__loads_evictions_and_states__are_counted_by_version() -> None:
    ready, gone = served(1), served(2)
    ready.state, gone.state = VersionState.READY, VersionState.UNAVAILABLE
    for outcome in ("failed", "loaded"):
        ready.loads.ended(outcome)
    ready.loads.seconds, gone.loads.evictions = 1.5, 3
    metrics = Metrics(1.0)
    for _ in range(2):  # looked at twice, counted once
        read_engines(metrics, Catalog([ready, gone]))
    text = metrics.render().decode()
    one, two = (f'model="{PUBLISHER}/linear@{number}"' for number in (1, 2))
    assert f'assay_node_model_loads_total{{{one},outcome="failed"}} 1.0' in text
    assert f'assay_node_model_loads_total{{{one},outcome="loaded"}} 1.0' in text
    assert f"assay_node_model_load_seconds{{{one}}} 1.5" in text
    assert f"assay_node_model_evictions_total{{{two}}} 3.0" in text
    assert 'assay_node_versions{state="ready"} 1.0' in text
    assert 'assay_node_versions{state="unavailable"} 1.0' in text


def test_read_engines__executor_that_is_down__is_told_with_its_failures() -> None:
    """Also while the version has no engine for it."""
    one, metrics = served(1), Metrics(1.0)
    one.executor = ExecutorStatistics("http://127.0.0.1:9", "it is gone")
    one.executor.failed("connection")
    one.executor.seconds.observe(0.01)
    read_engines(metrics, Catalog([one]))
    name = f'model="{PUBLISHER}/linear@1"'
    text = metrics.render().decode()
    assert f"assay_node_executor_up{{{name}}} 0.0" in text
    assert f'assay_node_executor_failures_total{{kind="connection",{name}}} 1.0' in text
    assert f"assay_node_executor_seconds_count{{{name}}} 1.0" in text
    one.executor.problem = ""
    read_engines(metrics, Catalog([one]))
    assert f"assay_node_executor_up{{{name}}} 1.0" in metrics.render().decode()


def test_read_log__transactions_of_several_batches__are_counted_once_with_all_their_gas(
    database: Database,
) -> None:
    log = ReceiptLog(database, Domain(1, PUBLISHER), PUBLISHER)
    receipt = TxReceipt(Hash32(b"\x05" * 32), 1, Hash32(b"\x06" * 32), 1, 100, 7, None, ())
    metrics = Metrics(1.0)
    with contextlib.closing(database.connect()) as connection:
        record(connection, Kind.COLLECT, receipt, [(1, None), (2, None), (3, None)])
        for _ in range(2):
            read_log(metrics, connection)
    log.close()
    text = metrics.render().decode()
    assert 'assay_node_transactions{kind="collect"} 1.0' in text
    assert 'assay_node_gas_used{kind="collect"} 100.0' in text
    assert 'assay_node_gas_wei{kind="collect"} 700.0' in text
