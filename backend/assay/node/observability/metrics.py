"""What a node counts about itself: Prometheus metrics, and the request counters of `GET /v1/node`.

What the hot path counts is in `counting` (plain integers); what is read from log, chain and engines is set by
`views` when Prometheus asks.
"""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, generate_latest

from assay.node.observability.counting import POWERS, Count, Counters, Distribution

STAGES: Final = ("admit", "run", "log", "total")
"""From the whole request read to its admission; queue and run; durable; all of it up to the answer."""


REPORTED: Final = "not_reproducible"
"""The code that somebody is woken for: counted from 0, so that its first time is a growth, too."""


class Metrics:
    """Infer requests that reached the node, and what became of them. `deadline_seconds` bounds
    `in_deadline`."""

    def __init__(self, deadline_seconds: float) -> None:
        self.deadline_seconds = deadline_seconds
        self.received = 0
        self.in_deadline = 0
        self.registry = CollectorRegistry()
        self._add_requests(Counters(self.registry))
        self._add_models(Counters(self.registry))
        self._add_settlement(Counters(self.registry))

    def _add_requests(self, counters: Counters) -> None:
        """What the event loop counts, request by request."""
        self._requests = counters.counter("assay_node_requests", "Infer requests by HTTP status", ["status"])
        self._failures = counters.counter(
            "assay_node_failures", "Refused or failed infer requests by code", ["code"]
        )
        self._failures.labels(REPORTED)
        seconds = counters.histogram(
            "assay_node_request_seconds", "Time from request to response, and of its stages", ["stage"]
        )
        self.stages: dict[str, Distribution] = {stage: seconds.labels(stage) for stage in STAGES}
        self._seconds = self.stages["total"]
        self._ok = self._requests.labels("200")
        self.receipts = counters.counter("assay_node_receipts", "Receipts issued").labels()
        self.repeats = counters.counter(
            "assay_node_repeats", "Repeated requests answered with the stored receipt"
        ).labels()
        self.concurrent = counters.gauge(
            "assay_node_requests_in_progress", "Infer requests in progress"
        ).labels()
        self.commit_group = counters.histogram(
            "assay_node_commit_group", "Receipts that one transaction of the log took", (), POWERS
        ).labels()
        self.log_queue = counters.gauge("assay_node_log_queue", "Receipts that wait to be written").labels()

    def _add_models(self, counters: Counters) -> None:
        """What engines and the lifecycle of versions count themselves, looked up when Prometheus asks."""
        by = ["model"]
        self.batch_rows = counters.histogram(
            "assay_node_batch_rows", "Rows that one run of a model took", by, POWERS
        )
        self.run_seconds = counters.histogram("assay_node_run_seconds", "Time of one run of a model", by)
        self.queue = counters.gauge(
            "assay_node_queue_jobs", "Requests that wait for a model or are in it", by
        )
        self.batch_limit = counters.gauge(
            "assay_node_batch_limit_rows", "Rows that may run together now; 1: requests run one by one", by
        )
        self.loaded_bytes = counters.gauge("assay_node_model_bytes", "Memory that a loaded version holds", by)
        self.memory_budget = counters.gauge(
            "assay_node_memory_budget_bytes", "What loaded versions may take together"
        ).labels()
        self.versions = counters.gauge("assay_node_versions", "Versions by state", ["state"])
        self.loads = counters.counter(
            "assay_node_model_loads", "Attempts to load a version, by what came of them", ["model", "outcome"]
        )
        self.load_seconds = counters.gauge(
            "assay_node_model_load_seconds", "How long the last load of a version took", by
        )
        self.evictions = counters.counter(
            "assay_node_model_evictions", "Times that a version made room for others", by
        )
        self.executor_up = counters.gauge(
            "assay_node_executor_up", "1 while the server that runs a version is in use", by
        )
        self.executor_seconds = counters.histogram(
            "assay_node_executor_seconds", "Time of an executor's answer", by
        )
        self.executor_failures = counters.counter(
            "assay_node_executor_failures", "What went wrong with an executor, by kind", ["model", "kind"]
        )

    def _add_settlement(self, counters: Counters) -> None:
        """What is looked up when Prometheus asks. Amounts are in the token's base units."""

        def gauge(name: str, help_text: str) -> Count:
            return counters.gauge(name, help_text).labels()

        self.settles = gauge(
            "assay_node_settles", "1 in the process that settles and defends, of all that share a log"
        )
        self.open_receipts = gauge("assay_node_open_receipts", "Receipts not in a batch yet")
        self.batches = counters.gauge("assay_node_batches", "Batches by state", ["state"])
        self.oldest_unposted = gauge(
            "assay_node_oldest_unposted_seconds", "Age of the oldest batch that is closed and not posted"
        )
        self.disputes_open = gauge("assay_node_disputes_open", "Disputes of this node's receipts")
        self.disputes_unanswered = gauge(
            "assay_node_disputes_unanswered", "Open disputes that the node cannot answer"
        )
        self.dispute_deadline = gauge(
            "assay_node_dispute_deadline_seconds", "Until the next deadline of a move that the node owes"
        )
        self.owed = gauge("assay_node_owed", "What consumers owe on vouchers that the chain has not paid")
        self.covered = gauge("assay_node_owed_covered", "Of what is owed, what their escrows cover for now")
        self.stake = gauge("assay_node_stake", "Stake of the node")
        self.min_stake = gauge("assay_node_min_stake", "Stake below which the node is inactive")
        self.view_age = gauge("assay_node_view_age_seconds", "Age of the node's view of the chain")
        self.signer_wei = gauge("assay_node_signer_wei", "Wei that the signer has for gas")
        self.transactions = counters.gauge(
            "assay_node_transactions", "Mined transactions of the node by kind, over its log", ["kind"]
        )
        self.gas_used = counters.gauge("assay_node_gas_used", "Gas of those transactions", ["kind"])
        self.gas_wei = counters.gauge("assay_node_gas_wei", "Wei paid for those transactions", ["kind"])

    def record(self, status: int, code: str, seconds: float) -> None:
        """One infer request ended. Busy and not-ready answers, and failures of the node, are not within any
        deadline."""
        self.received += 1
        self.in_deadline += status < 500 and seconds <= self.deadline_seconds
        self._seconds.observe(seconds)
        if status == 200:
            self._ok.value += 1
            return
        self._requests.labels(status).inc()
        self._failures.labels(code).inc()

    def render(self) -> bytes:
        """Prometheus text format."""
        return generate_latest(self.registry)
