"""The network figures of SPEC.md §8, from rows. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from assay.db.repositories.network import BatchRow, NodeRow, ProbeRow

WINDOW = 300
"""Seconds that *present load* means."""
MISSED_PERIODS = 3


def _groups() -> dict[str, Counter[str]]:
    return {"day": Counter(), "node": Counter(), "version": Counter()}


@dataclass(slots=True)
class Inferences:
    """Settled and verified inferences, in total and by day (UTC), node and version."""

    settled: int = 0
    settled_paid: int = 0
    verified: int = 0
    verified_paid: int = 0
    settled_by: dict[str, Counter[str]] = field(default_factory=_groups)
    verified_by: dict[str, Counter[str]] = field(default_factory=_groups)


def count_inferences(batches: Iterable[BatchRow]) -> Inferences:
    """`batches`: FINAL ones in posting order."""
    result = Inferences()
    acknowledged: Counter[tuple[str, str]] = Counter()
    published: Counter[tuple[str, str]] = Counter()
    for batch in batches:
        settled = max(0, batch.count - batch.voided)
        result.settled += settled
        result.settled_paid += settled if batch.is_paid else 0
        _add(result.settled_by, batch, settled)
        if not batch.is_provable or batch.receipts is None:
            continue
        line = (batch.node, batch.version_id)
        before = min(acknowledged[line], published[line])
        acknowledged[line] += settled
        published[line] += max(0, batch.receipts - batch.voided - batch.disputed)
        verified = min(acknowledged[line], published[line]) - before
        result.verified += verified
        result.verified_paid += verified if batch.is_paid else 0
        _add(result.verified_by, batch, verified)
    return result


def _add(groups: dict[str, Counter[str]], batch: BatchRow, number: int) -> None:
    if number:
        day = datetime.fromtimestamp(batch.posted_at, UTC).date().isoformat()
        groups["day"][day] += number
        groups["node"][batch.node] += number
        groups["version"][batch.version_id] += number


def is_answering(node: NodeRow, now: int, period: float) -> bool:
    return (
        node.newest_at is not None
        and node.newest_answered
        and now - node.newest_at <= MISSED_PERIODS * period
    )


def live_versions(nodes: Iterable[NodeRow], now: int, period: float) -> set[str]:
    """Versions with at least one live node."""
    live: set[str] = set()
    for node in nodes:
        if is_answering(node, now, period):
            live |= node.offers & node.listed
    return live


def served_share(nodes: Sequence[NodeRow]) -> float:
    """Scalability: min(own counters, what the prober saw), weighted by stake."""
    total = sum(node.stake for node in nodes)
    if total == 0:
        return 0.0
    return sum(node.stake * min(own_share(node.probes), probed_share(node.probes)) for node in nodes) / total


def probed_share(probes: Sequence[ProbeRow]) -> float:
    return sum(probe.answered for probe in probes) / len(probes) if probes else 0.0


def own_share(probes: Sequence[ProbeRow]) -> float:
    """Growth of the node's counters between its probes; a counter that fell was restarted at 0. 1 if nobody
    asked.
    """
    received = in_deadline = 0
    before: ProbeRow | None = None
    for probe in probes:
        if probe.received is None or probe.in_deadline is None:
            continue
        if before is not None and before.received is not None and before.in_deadline is not None:
            restarted = probe.received < before.received or probe.in_deadline < before.in_deadline
            received += probe.received - (0 if restarted else before.received)
            in_deadline += probe.in_deadline - (0 if restarted else before.in_deadline)
        before = probe
    return min(1.0, in_deadline / received) if received else 1.0


def share(part: int, whole: int) -> float:
    """A share of nothing is 0."""
    return part / whole if whole else 0.0
