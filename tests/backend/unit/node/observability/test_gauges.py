"""Metrics that are looked up when Prometheus asks."""

from __future__ import annotations

import asyncio

import numpy as np
from assay.node.models.catalog import Catalog, Served
from assay.node.observability.gauges import read_engines
from assay.node.observability.metrics import Metrics
from assay.types import Address, Assurance, Hash32

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
    assert "linear@2" not in text
    loaded.engine = None
    read_engines(metrics, catalog)
    assert "linear@1" not in metrics.render().decode()
