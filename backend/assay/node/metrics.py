"""What a node counts about itself: Prometheus metrics, and the request counters of `GET /v1/node`."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Metrics:
    """Infer requests that reached the node, and what became of them. `deadline_seconds` bounds
    `in_deadline`."""

    def __init__(self, deadline_seconds: float) -> None:
        self.deadline_seconds = deadline_seconds
        self.received = 0
        self.in_deadline = 0
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "assay_node_requests", "Infer requests by HTTP status", ["status"], registry=self.registry
        )
        self._failures = Counter(
            "assay_node_failures",
            "Refused or failed infer requests by code",
            ["code"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "assay_node_request_seconds",
            "Time from request to response",
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.receipts = Counter("assay_node_receipts", "Receipts issued", registry=self.registry)
        self.repeats = Counter(
            "assay_node_repeats", "Repeated requests answered with the stored receipt", registry=self.registry
        )
        self.concurrent = Gauge(
            "assay_node_requests_in_progress", "Infer requests in progress", registry=self.registry
        )
        self.open_receipts = Gauge(
            "assay_node_open_receipts", "Receipts not in a batch yet", registry=self.registry
        )
        self.batches = Gauge("assay_node_batches", "Batches by state", ["state"], registry=self.registry)
        self.disputes_open = Gauge(
            "assay_node_disputes_open", "Disputes of this node's receipts", registry=self.registry
        )
        self.disputes_unanswered = Gauge(
            "assay_node_disputes_unanswered",
            "Open disputes that the node cannot answer",
            registry=self.registry,
        )
        self._ok = self._requests.labels("200")

    def record(self, status: int, code: str, seconds: float) -> None:
        """One infer request ended. Busy and not-ready answers, and failures of the node, are not within any
        deadline."""
        self.received += 1
        self.in_deadline += status < 500 and seconds <= self.deadline_seconds
        self._seconds.observe(seconds)
        if status == 200:
            self._ok.inc()
            return
        self._requests.labels(str(status)).inc()
        self._failures.labels(code).inc()

    def render(self) -> bytes:
        """Prometheus text format."""
        return generate_latest(self.registry)
