"""What a running node does now, read from its /metrics twice: rates, percentiles, queues. Pure but for
`scrape`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any, Final

import httpx
from prometheus_client.parser import text_string_to_metric_families

from assay.node.config import NodeConfig
from assay.node.observability.metrics import STAGES

MAX_METRICS: Final = 4 << 20

Series = Mapping[tuple[str, ...], float]
"""(sample's name, its labels' values in their names' order) → value."""


def scrape(config: NodeConfig) -> Series | None:
    """Every sample of the node's process; None if nothing answers, or what answers is no node."""
    try:
        answer = httpx.get(f"http://{config.host}:{config.port}/metrics", timeout=2.0)
        if answer.status_code != 200 or len(answer.content) > MAX_METRICS:
            return None
        return parse_metrics(answer.text)
    except (httpx.HTTPError, ValueError):
        return None


def parse_metrics(text: str) -> Series:
    """Raises ValueError if it is not Prometheus' text format."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@dataclass(frozen=True, slots=True)
class Model:
    """One version: `rows` is the mean of a run, `memory` in bytes, `batch_limit` in rows. `executor_up` None:
    this process runs it."""

    name: str
    rows: float | None
    run_p99: float | None
    waiting: int
    memory: int
    batch_limit: int | None = None
    executor_up: bool | None = None
    executor_p99: float | None = None


@dataclass(frozen=True, slots=True)
class Live:
    """Of the time between two looks: rates a second; percentiles in seconds, None where nothing happened."""

    answers: float
    refusals: float
    in_progress: int
    p50: float | None
    p99: float | None
    stages: Mapping[str, float | None] = field(default_factory=dict)
    codes: Mapping[str, float] = field(default_factory=dict)
    models: tuple[Model, ...] = ()
    log_queue: int = 0
    settles: bool | None = None
    evictions: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return {
            "answers_per_second": round(self.answers, 1),
            "refusals_per_second": round(self.refusals, 1),
            "in_progress": self.in_progress,
            "p50_seconds": self.p50,
            "p99_seconds": self.p99,
            "stage_p50_seconds": dict(self.stages),
            "refusals": {code: round(rate, 2) for code, rate in self.codes.items()},
            "models": [
                {
                    "model": model.name,
                    "rows_per_run": model.rows and round(model.rows, 2),
                    "run_p99_seconds": model.run_p99,
                    "waiting": model.waiting,
                    "memory_bytes": model.memory,
                    "batch_limit_rows": model.batch_limit,
                    "executor_up": model.executor_up,
                    "executor_p99_seconds": model.executor_p99,
                }
                for model in self.models
            ],
            "log_queue": self.log_queue,
            "settles": self.settles,
            "evictions_per_second": round(self.evictions, 4),
        }


def compare(before: Series, after: Series, seconds: float) -> Live:
    """What happened in the `seconds` between two scrapes; a node started anew counts from zero."""
    if any(after.get(key, 0.0) < value for key, value in before.items() if key[0].endswith("_total")):
        before = {}
    grown = {key: value - before.get(key, 0.0) for key, value in after.items()}

    def rates(name: str) -> dict[str, float]:
        return {
            key[1]: value / seconds
            for key, value in grown.items()
            if key[0] == name and value and len(key) > 1
        }

    statuses = rates("assay_node_requests_total")
    answered = statuses.pop("200", 0.0)
    request = "assay_node_request_seconds"
    return Live(
        answers=answered,
        refusals=sum(statuses.values()),
        in_progress=int(after.get(("assay_node_requests_in_progress",), 0)),
        p50=quantile(grown, request, "total", 0.5),
        p99=quantile(grown, request, "total", 0.99),
        stages={stage: quantile(grown, request, stage, 0.5) for stage in STAGES if stage != "total"},
        codes=rates("assay_node_failures_total"),
        models=tuple(_models(grown, after)),
        log_queue=int(after.get(("assay_node_log_queue",), 0)),
        settles=_flag(after.get(("assay_node_settles",))),
        evictions=sum(rates("assay_node_model_evictions_total").values()),
    )


def _models(grown: Series, after: Series) -> list[Model]:
    names = {key[1] for key in after if key[0] in ("assay_node_queue_jobs", "assay_node_model_bytes")}
    names |= {key[1] for key in after if key[0] in ("assay_node_batch_rows_count", "assay_node_executor_up")}
    found = []
    for name in sorted(names):
        runs = grown.get(("assay_node_batch_rows_count", name), 0)
        found.append(
            Model(
                name=name,
                rows=grown[("assay_node_batch_rows_sum", name)] / runs if runs else None,
                run_p99=quantile(grown, "assay_node_run_seconds", name, 0.99),
                waiting=int(after.get(("assay_node_queue_jobs", name), 0)),
                memory=int(after.get(("assay_node_model_bytes", name), 0)),
                batch_limit=_whole(after.get(("assay_node_batch_limit_rows", name))),
                executor_up=_flag(after.get(("assay_node_executor_up", name))),
                executor_p99=quantile(grown, "assay_node_executor_seconds", name, 0.99),
            )
        )
    return found


def _flag(value: float | None) -> bool | None:
    return None if value is None else value > 0


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def quantile(series: Series, name: str, label: str, share: float) -> float | None:
    """The value below which `share` of a histogram's observations lie, straight lines between its bounds;
    None without any. The histogram's one label sorts after `le`."""
    buckets = sorted(
        (float(key[1]), value)
        for key, value in series.items()
        if key[0] == f"{name}_bucket" and key[2:] == (label,)
    )
    total = buckets[-1][1] if buckets else 0
    if not total:
        return None
    lower, seen = 0.0, 0.0
    for bound, count in buckets:
        if count >= share * total:
            if bound == inf:
                return lower
            return lower + (bound - lower) * (share * total - seen) / (count - seen)
        lower, seen = bound, count
    return lower
