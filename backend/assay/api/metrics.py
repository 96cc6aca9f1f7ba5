"""Prometheus metrics of one app."""

from __future__ import annotations

import time
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Metrics:
    """Requests are counted by route, not by path: paths are the client's to choose."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ("route", "status")
        self.requests = Counter("assay_api_requests", "Requests answered", labels, registry=self.registry)
        self.seconds = Histogram(
            "assay_api_request_seconds", "Time to the first byte", ("route",), registry=self.registry
        )
        self._gauges: dict[str, Gauge] = {}

    def render(self, status: dict[str, Any]) -> bytes:
        for name, value in status.items():
            if isinstance(value, int) and name != "chain_id":
                if name not in self._gauges:
                    help_text = f"Index: {name.replace('_', ' ')}"
                    self._gauges[name] = Gauge(f"assay_index_{name}", help_text, registry=self.registry)
                self._gauges[name].set(value)
        return generate_latest(self.registry)


class MetricsMiddleware:
    """Pure ASGI, so that streams pass through as they come."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "none")
                self._metrics.requests.labels(route, str(message["status"])).inc()
                self._metrics.seconds.labels(route).observe(time.perf_counter() - started)
            await send(message)

        await self._app(scope, receive, counted)
