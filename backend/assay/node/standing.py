"""How a running node stands, for its operator: `GET /v1/node/status`, which `assay node status` reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from assay.node.engines.engine import ExecutorStatistics
from assay.node.http.messages import Reply, Request, json_reply
from assay.node.http.routes import Routes
from assay.node.models.catalog import Catalog, Served
from assay.node.operator_token import OperatorToken

PATH = "/v1/node/status"


class StandingRoute:
    """`settles`: whether this process is the one of the node's that settles and defends."""

    def __init__(self, catalog: Catalog, token: OperatorToken, settles: Callable[[], bool]) -> None:
        self._catalog = catalog
        self._token = token
        self._settles = settles

    def register(self, routes: Routes) -> None:
        routes.add("GET", PATH, self.standing)

    async def standing(self, request: Request) -> Reply:
        """Raises OperatorOnly."""
        value = request.headers.get(b"authorization")
        self._token.check(None if value is None else value.decode("latin-1"), "how the node stands")
        versions = sorted(self._catalog, key=lambda served: (served.full_name, served.number))
        return json_reply({"settles": self._settles(), "versions": [version_standing(v) for v in versions]})


def version_standing(served: Served) -> dict[str, Any]:
    """One version: its state, why it is not served, what is batched and why not, who runs it. `batching` is
    null while it is not in memory."""
    engine, loads = served.engine, served.loads
    return {
        "version_id": "0x" + served.version_id.hex(),
        "model": f"{served.full_name}@{served.number}",
        "state": str(served.state),
        "problem": served.problem,
        "batching": None if engine is None else engine.statistics.batching.to_json(),
        "waiting": 0 if engine is None else engine.waiting,
        "memory_bytes": 0 if engine is None else engine.memory_bytes,
        "executor": None if served.executor is None else _executor(served.executor),
        "loads": dict(loads.outcomes),
        "evictions": loads.evictions,
        "load_seconds": round(loads.seconds, 3),
    }


def _executor(found: ExecutorStatistics) -> dict[str, Any]:
    """`p99_seconds` null: it has answered nothing yet."""
    return {
        "url": found.url,
        "up": not found.problem,
        "problem": found.problem,
        "failures": dict(found.failures),
        "p99_seconds": found.seconds.quantile(0.99),
    }
