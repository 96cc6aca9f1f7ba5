"""The statistics extension of the Open Inference Protocol: what each version has done, as Triton tells it.

Source: Triton's `extension_statistics`. `success` and `fail` are requests since the node started, by whatever
protocol and payment; what was refused, however early, has failed. The rest are runs since the version was
last loaded. An inference is a row. Taking tensors apart and putting them together is part of
`compute_infer`; there is no response cache.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from assay.node.models.catalog import Catalog, Route, Served

NS: Final = 1_000_000_000


@dataclass(slots=True)
class RequestStatistics:
    """Requests of one version by their end. Seconds are summed; `last_at` is UNIX time."""

    succeeded: int = 0
    failed: int = 0
    succeeded_seconds: float = 0.0
    failed_seconds: float = 0.0
    last_at: float = 0.0

    def record(self, seconds: float, *, ok: bool) -> None:
        self.last_at = time.time()
        if ok:
            self.succeeded += 1
            self.succeeded_seconds += seconds
        else:
            self.failed += 1
            self.failed_seconds += seconds


def model_statistics(catalog: Catalog, route: Route | None) -> list[dict[str, Any]]:
    """`$model_stat` of the version or of all versions that a route names, of everything without one. Raises
    NotFound."""
    if route is None:
        return [version_statistics(served, served.full_name) for served in catalog]
    if route.number is not None:
        return [version_statistics(catalog.find(route), route.name)]
    versions = catalog.versions(route.name)
    return [version_statistics(versions[number], route.name) for number in sorted(versions)]


def version_statistics(served: Served, name: str) -> dict[str, Any]:
    """One `$model_stat`; `name` is what the model was asked for by."""
    requests = served.requests
    done = None if served.engine is None else served.engine.statistics
    by_rows = sorted(done.by_rows.items()) if done else []
    runs = sum(count for _, (count, _) in by_rows)
    seconds = sum(total for _, (_, total) in by_rows)
    return {
        "name": name,
        "version": str(served.number),
        "last_inference": int(requests.last_at * 1000),
        "inference_count": sum(rows * count for rows, (count, _) in by_rows),
        "execution_count": runs,
        "inference_stats": {
            "success": _duration(requests.succeeded, requests.succeeded_seconds),
            "fail": _duration(requests.failed, requests.failed_seconds),
            "queue": _duration(done.jobs, done.queue_seconds) if done else _duration(),
            "compute_input": _duration(),
            "compute_infer": _duration(runs, seconds),
            "compute_output": _duration(),
            "cache_hit": _duration(),
            "cache_miss": _duration(),
        },
        "batch_stats": [
            {
                "batch_size": rows,
                "compute_input": _duration(),
                "compute_infer": _duration(count, total),
                "compute_output": _duration(),
            }
            for rows, (count, total) in by_rows
        ],
    }


def _duration(count: int = 0, seconds: float = 0.0) -> dict[str, int]:
    return {"count": count, "ns": round(seconds * NS)}
