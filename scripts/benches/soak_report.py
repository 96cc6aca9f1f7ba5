"""What a soak must have shown: shares, memory, receipts, refusals, latency. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from assay.node.config import EnginesConfig
from numpy.typing import NDArray

from scripts.benches.load.overload import Overloaded
from scripts.benches.load.plan import percentile
from scripts.benches.node_rows import Row, build_row

RECEIPT = np.dtype([("caller", "<u4"), ("sequence", "<u8"), ("digest", "u1", (32,))])
"""As `overload.RECEIPT`."""
LEAST_OFFERED = 1.4
"""Of the measured capacity; 1.5 is asked for, and arrivals are counted."""
LEAST_SHARE = 0.85
"""Of what is fair: a consumer below it was pushed aside."""
MOST_P99 = 1.0
"""Seconds, of requests that were let in: the deadline that a node's requests are counted by. Or twice what
all that a node lets wait for a version takes at the rate of its answers, if that is more."""
WARM = 0.25
"""Of a run, before memory is looked at; at most WARM_SECONDS."""
WARM_SECONDS = 90.0
MIB = 1 << 20
GROWTH = 0.03
"""Of memory, over the rest of the run; or GROWTH_BYTES, if that is more."""
GROWTH_BYTES = 8 * MIB
ALLOWED = {"503", "402 unacknowledged"}
"""Refusals that overload may bring: a busy node's, and that of a consumer too far behind its receipts."""


@dataclass(frozen=True)
class Comparison:
    """Receipts of one consumer, answered and logged."""

    lost: int
    """Answered with 200, and not in the log with that sequence and digest."""
    doubled: int
    """Sequences that were answered, or are in the log, more than once."""
    gaps: int
    """Sequences missing in the log below its last."""
    unanswered: int
    """In the log, and not answered."""


def compare(answered: NDArray[Any], logged: NDArray[Any]) -> Comparison:
    """Both of dtype RECEIPT, of one caller, in any order."""
    heard, heard_again = _unique(answered)
    kept, kept_again = _unique(logged)
    last = int(kept["sequence"][-1]) if len(kept) else 0
    at = np.searchsorted(kept["sequence"], heard["sequence"])
    found = at < len(kept)
    found[found] = (kept["sequence"][at[found]] == heard["sequence"][found]) & (
        kept["digest"][at[found]] == heard["digest"][found]
    ).all(axis=1)
    return Comparison(
        lost=int((~found).sum()),
        doubled=heard_again + kept_again,
        gaps=last - len(kept),
        unanswered=len(kept) - int(found.sum()),
    )


def _unique(receipts: NDArray[Any]) -> tuple[NDArray[Any], int]:
    """(by sequence, each once; how many came again)."""
    _, first = np.unique(receipts["sequence"], return_index=True)
    return receipts[first], len(receipts) - len(first)


def fair_shares(demands: Sequence[float], capacity: float) -> list[float]:
    """Max-min fairness: nobody gets more than it asks for; what is left is parted evenly among the others."""
    shares = [0.0] * len(demands)
    left = capacity
    order = sorted(range(len(demands)), key=lambda i: demands[i])
    for position, i in enumerate(order):
        shares[i] = min(demands[i], left / (len(order) - position))
        left -= shares[i]
    return shares


@dataclass(frozen=True)
class Memory:
    """Of the node's processes together: (seconds since the load began, bytes)."""

    samples: tuple[tuple[float, int], ...]

    @property
    def warm(self) -> list[tuple[float, int]]:
        """Without the start."""
        if not self.samples:
            return []
        begin = min(WARM * self.samples[-1][0], WARM_SECONDS)
        return [sample for sample in self.samples if sample[0] >= begin]

    @property
    def growth(self) -> float:
        """Bytes over the time after the start, by the straight line nearest to the samples."""
        warm = self.warm
        if len(warm) < 3:
            return 0.0
        times, sizes = (np.array(column, dtype=float) for column in zip(*warm, strict=True))
        slope = np.polyfit(times - times[0], sizes, 1)[0]
        return float(slope * (times[-1] - times[0]))

    @property
    def bound(self) -> float:
        return max(GROWTH_BYTES, GROWTH * float(np.mean([size for _, size in self.warm or [(0, 0)]])))


@dataclass(frozen=True)
class Soak:
    """Everything measured. `capacity`: paid answers a second in a closed loop before. The last caller is the
    greedy one."""

    capacity: float
    load: Overloaded
    memory: Memory
    comparisons: tuple[Comparison, ...]
    exit_status: int
    asked_seconds: float
    failures: list[str] = field(default_factory=list, compare=False)

    @property
    def offered(self) -> float:
        return sum(self.load.tally.offered) / self.load.seconds

    @property
    def served(self) -> float:
        return sum(self.load.tally.served) / self.load.seconds

    def shares(self) -> list[float]:
        """What each caller was served, of what would have been fair."""
        tally = self.load.tally
        fair = fair_shares(tally.offered, sum(tally.served))
        return [got / due if due else 1.0 for got, due in zip(tally.served, fair, strict=True)]

    def refusals(self) -> dict[str, int]:
        """By kind; `503` whatever its code."""
        found: dict[str, int] = {}
        for one in self.load.tally.refused:
            for kind, count in one.items():
                name = "503" if kind.startswith("503") else kind
                found[name] = found.get(name, 0) + count
        return found

    @property
    def most_p99(self) -> float:
        """Seconds."""
        return max(MOST_P99, 2 * EnginesConfig().max_waiting / self.served)

    @property
    def p99(self) -> float:
        """Seconds, of what was let in."""
        return percentile(self.load.latencies.astype(float), 99)

    @property
    def honest_p99(self) -> float:
        """Seconds, of what was let in of all but the greedy one."""
        honest = self.load.callers < len(self.load.tally.offered) - 1
        return percentile(self.load.latencies[honest].astype(float), 99)

    def total(self, name: str) -> int:
        return sum(getattr(one, name) for one in self.comparisons)


def build_rows(soak: Soak) -> list[Row]:
    load, tally, refusals = soak.load, soak.load.tally, soak.refusals()
    shares = soak.shares()
    latencies = load.latencies.astype(float)
    return [
        build_row(
            "soak_minutes", load.seconds / 60, "minutes; reference: asked for", soak.asked_seconds / 60
        ),
        build_row(
            "soak_offered_rps", soak.offered, "requests/s; reference: measured capacity", soak.capacity
        ),
        build_row(
            "soak_served_rps", soak.served, "paid answers/s; reference: measured capacity", soak.capacity
        ),
        build_row("soak_refused", refusals.get("503", 0), "requests with 503"),
        build_row("soak_retry_after_missing", tally.without_retry_after, "503s without Retry-After"),
        build_row("soak_p50_ms", percentile(latencies, 50) * 1e3, "ms, requests let in"),
        build_row("soak_p99_ms", soak.p99 * 1e3, "ms; reference: bound", soak.most_p99 * 1e3),
        build_row("soak_longest_ms", float(latencies.max()) * 1e3, "ms, the longest that one let in took"),
        build_row("soak_honest_p99_ms", soak.honest_p99 * 1e3, "ms, of all but the greedy consumer"),
        build_row("soak_honest_share", min(shares[:-1]), "of its fair share, the least of them", LEAST_SHARE),
        build_row("soak_honest_mean_share", float(np.mean(shares[:-1])), "of its fair share, all of them"),
        build_row("soak_greedy_share", shares[-1], "of its fair share"),
        build_row(
            "soak_memory_growth_mib",
            soak.memory.growth / MIB,
            "MiB after the start, by the line through all samples; reference: bound",
            soak.memory.bound / MIB,
        ),
        build_row("soak_receipts", float(sum(tally.served)), "answered, each looked up in the log"),
        build_row("soak_receipts_lost", soak.total("lost"), "answered and not in the log"),
        build_row("soak_receipts_doubled", soak.total("doubled"), "sequences that came twice"),
        build_row("soak_sequence_gaps", soak.total("gaps"), "sequences missing in the log"),
        build_row(
            "soak_receipts_unanswered", soak.total("unanswered"), "in the log; their connections broke"
        ),
        build_row("soak_connections_broken", sum(tally.broken), "under a request"),
        build_row("soak_generator_busy", load.busy, "of its core", 1.0),
    ]


def find_failures(soak: Soak) -> list[str]:
    """What did not hold, each with its figures."""
    load, tally = soak.load, soak.load.tally
    found = []

    def expect(holds: bool, text: str) -> None:
        if not holds:
            found.append(text)

    over = soak.offered / soak.capacity
    least = min(soak.shares()[:-1])
    others = {kind: n for kind, n in soak.refusals().items() if kind not in ALLOWED}
    unexplained = [
        one.unanswered - broken
        for one, broken in zip(soak.comparisons, tally.broken, strict=True)
        if one.unanswered > broken
    ]
    expect(over >= LEAST_OFFERED, f"only {over:.2f} × capacity was offered: {sum(tally.held_back)} held back")
    expect(bool(soak.refusals().get("503")), "nothing was refused with 503: the node was not at its limit")
    expect(not others, f"refused otherwise than by load: {others}; the first: {tally.sample!r}")
    expect(not tally.without_retry_after, f"{tally.without_retry_after} of the 503s had no Retry-After")
    expect(not tally.without_receipt, f"{tally.without_receipt} answers had no receipt")
    expect(not soak.total("lost"), f"{soak.total('lost')} answered receipts are not in the log")
    expect(not soak.total("doubled"), f"{soak.total('doubled')} sequences came twice")
    expect(not soak.total("gaps"), f"{soak.total('gaps')} sequences are missing in the log")
    expect(not unexplained, f"{sum(unexplained)} receipts in the log were never answered")
    expect(not load.undrained, f"{load.undrained} requests had no answer when the load had ended")
    expect(least >= LEAST_SHARE, f"an honest consumer got {least:.2f} of its fair share")
    expect(soak.p99 <= soak.most_p99, f"p99 of the requests let in was {soak.p99 * 1e3:.0f} ms")
    growth, bound = soak.memory.growth / MIB, soak.memory.bound / MIB
    expect(growth <= bound, f"memory grew by {growth:.1f} MiB, more than {bound:.1f}")
    expect(soak.exit_status == 0, f"the node ended with status {soak.exit_status}")
    return found


def describe_refusals(soak: Soak) -> str:
    """A line of what the refusals said, the most frequent first."""
    reasons = soak.load.tally.reasons.most_common()
    return "refused: " + "; ".join(f"{count:,} × {reason}" for reason, count in reasons)
