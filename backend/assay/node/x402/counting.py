"""What a node counts of payments by x402."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

from assay.node.observability.metrics import Metrics


class PaymentCounters:
    """Prometheus metrics beside the node's."""

    def __init__(self, metrics: Metrics) -> None:
        registry = metrics.registry
        self._requests = Counter(
            "assay_node_x402_requests",
            "Requests with PAYMENT-SIGNATURE, by outcome: sold, repeated, or the refusal's code",
            ["outcome"],
            registry=registry,
        )
        self._requests.labels("payment_unavailable")  # an alert asks for its growth, from 0 on
        self._income = Counter(
            "assay_node_x402_income_base_units",
            "What x402 payments brought, in base units",
            registry=registry,
        )
        self.proven = Gauge(
            "assay_node_x402_versions_proven",
            "Priced versions whose unpaid requests this node saw refused",
            registry=registry,
        )
        self.unguarded = Gauge(
            "assay_node_x402_versions_unguarded",
            "Priced versions that answered an unpaid request, and are closed for it",
            registry=registry,
        )

    def sold(self, price: int, *, repeated: bool) -> None:
        self._requests.labels("repeated" if repeated else "sold").inc()
        if not repeated:
            self._income.inc(price)

    def refused(self, code: str) -> None:
        self._requests.labels(code).inc()
