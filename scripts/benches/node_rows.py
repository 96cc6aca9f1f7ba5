"""From loads and references to the rows of the node's table. Pure."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from scripts.benches.load.cores import Cores
from scripts.benches.load.plan import Load
from scripts.benches.workloads import Raw

Row = dict[str, Any]
PEERS = ("mlserver", "mlserver_json", "litserve", "mosec")
OWN = ("mlp_signed", "mlp_signed_64", "mlp_paid", "mlp_paid_64", "cnn_paid", "digits_signed", "digits_paid")
LEAST = "least_"
HEADROOM = 3.0
"""How much more than it measures the generator must be able to do, or its figures say nothing."""


@dataclass(frozen=True)
class Beside:
    """A figure and raw, measured in turn with it: requests and rows a second, or milliseconds."""

    value: float
    raw: float


@dataclass
class Measured:
    """All rounds, by name; `_1`, `_64` at the end of a name: over so many connections instead of 16."""

    loads: dict[str, list[Load]] = field(default_factory=lambda: defaultdict(list))
    raws: dict[str, list[Raw]] = field(default_factory=lambda: defaultdict(list))
    required: dict[str, list[Beside]] = field(default_factory=lambda: defaultdict(list))
    in_turn: dict[str, list[Beside]] = field(default_factory=lambda: defaultdict(list))
    cores: Cores = field(default_factory=lambda: Cores((), ()))

    def add(self, name: str, load: Load) -> None:
        self.loads[name].append(load)

    def add_raw(self, name: str, raw: Raw) -> None:
        self.raws[name].append(raw)

    def add_required(self, name: str, beside: Beside) -> None:
        self.required[name].append(beside)

    def add_in_turn(self, name: str, beside: Beside) -> None:
        self.in_turn[name].append(beside)

    def middle(self, name: str) -> Beside:
        """Of the round with the middle ratio (of four the second), for in the best one raw had bad luck."""
        ordered = sorted(self.in_turn[name], key=lambda each: each.value / each.raw)
        return ordered[(len(ordered) - 1) // 2]

    def rate(self, name: str) -> float:
        """The best round's."""
        return max(load.rate for load in self.loads[name])

    def capacity(self, name: str) -> float:
        """The better of few connections and many."""
        return max(self.rate(name), self.rate(f"{name}_64"))

    def p50(self, name: str) -> float:
        """The best round's, in milliseconds."""
        return min(load.percentile(50) for load in self.loads[name])

    def raw_rate(self, name: str) -> float:
        return max(raw.rate for raw in self.raws[name])

    def raw_p50(self, name: str) -> float:
        return min(raw.p50 for raw in self.raws[name])

    def half_load(self, prefix: str = "") -> tuple[float, float]:
        """(p50, p99) at half load, of the round in which they are closest."""
        pairs = [(load.percentile(50), load.percentile(99)) for load in self.loads[f"{prefix}mlp_half"]]
        return min(pairs, key=lambda pair: pair[1] / pair[0])


def build_row(name: str, value: float, unit: str, reference: float | None = None) -> Row:
    ratio = None if not reference else round(value / reference, 3)
    shown = None if reference is None else _round(reference)
    return {"name": name, "value": _round(value), "unit": unit, "reference": shown, "ratio": ratio}


def _round(value: float) -> float:
    return round(value, 1 if abs(value) >= 100 else 4)


def build_rows(found: Measured) -> list[Row]:
    rounds = len(found.loads["mlp_paid"])
    best = f"best of {rounds} rounds"
    rows = [*_mlp_rows(found, best), *_least_rows(found), *_required_rows(found), *_other_rows(found)]
    for name in PEERS:
        if name in found.loads:
            rows += _peer_rows(found, name, best)
    return rows + _generator_rows(found)


def _mlp_rows(found: Measured, best: str) -> list[Row]:
    raw, raw_p50 = found.raw_rate("mlp"), found.raw_p50("mlp")
    signed, paid, alone = found.capacity("mlp_signed"), found.capacity("mlp_paid"), found.p50("mlp_paid_1")
    half_p50, half_p99 = found.half_load()
    rows = [
        build_row(
            "node_mlp_paid_rps",
            paid,
            f"requests/s, 1 core, 16 or 64 connections, {best}; reference: raw rows/s",
            raw,
        ),
        build_row("node_mlp_signed_rps", signed, "requests/s, price 0, the same; reference: raw rows/s", raw),
        build_row("node_mlp_paid_16_rps", found.rate("mlp_paid"), "requests/s, 16 connections", raw),
        build_row("node_mlp_signed_16_rps", found.rate("mlp_signed"), "requests/s, price 0, the same", raw),
        build_row("node_mlp_p50_ms", alone, "ms, paid, 1 connection; reference: raw", raw_p50),
        build_row("node_p50_overhead_ms", alone - raw_p50, "ms above raw, paid; reference: raw", raw_p50),
        build_row("node_mlp_p50_16_ms", found.p50("mlp_paid"), "ms, paid, 16 connections"),
        build_row(
            "node_mlp_half_load_p99_ms",
            half_p99,
            "ms, paid, at half of its round's rate, arrivals fixed; reference: p50",
            half_p50,
        ),
    ]
    for name in ("mlserver", "mlserver_json"):
        if name in found.loads:
            unit = f"requests/s; reference: MLServer's, {'JSON' if name.endswith('json') else 'gRPC'}"
            rows.append(build_row(f"node_mlp_paid_over_{name}", paid, unit, found.capacity(name)))
    return rows


def _least_rows(found: Measured) -> list[Row]:
    """What the least that a server in Python can do reaches of the same."""
    alone = found.p50(f"{LEAST}mlp_paid_1") - found.raw_p50("mlp")
    half_p50, half_p99 = found.half_load(LEAST)
    what = "the least that a server in Python can do"
    rows = []
    for name in ("paid", "signed"):
        for many, suffix in ((found.capacity, ""), (found.rate, "_16")):
            value, own = many(f"{LEAST}mlp_{name}"), many(f"mlp_{name}")
            unit = f"requests/s, {what}; reference: the node's"
            rows.append(build_row(f"least_mlp_{name}{suffix}_rps", value, unit, own))
    cnn = found.middle(f"{LEAST}cnn_paid")
    return [
        *rows,
        build_row(
            "least_p50_overhead_ms", alone, f"ms above raw, {what}; reference: raw", found.raw_p50("mlp")
        ),
        build_row("least_mlp_half_load_p99_ms", half_p99, f"ms, {what}; reference: p50", half_p50),
        build_row(
            "least_cnn_paid_over_raw", cnn.value, f"requests/s, {what}; reference: raw, in turn", cnn.raw
        ),
    ]


def _required_rows(found: Measured) -> list[Row]:
    """What any server needs that calls the same libraries; each row is of the round that asks for least."""
    needs = found.required
    whose, raw = "for any server with these libraries", "reference: raw, in turn"
    rows = []
    for name in ("paid", "signed"):
        best = max(needs[f"mlp_{name}"], key=lambda each: each.value)
        unit = f"requests/s, at most, {whose}{', price 0' if name == 'signed' else ''}; {raw}"
        rows.append(build_row(f"required_mlp_{name}_rps", best.value, unit, best.raw))
    cnn = max(needs["cnn_paid"], key=lambda each: each.value / each.raw)
    alone = min(needs["mlp_alone"], key=lambda each: each.value - each.raw)
    rested = min(needs["mlp_rested"], key=lambda each: each.value - each.raw)
    return [
        *rows,
        build_row("required_cnn_paid_over_raw", cnn.value, f"requests/s, at most, {whose}; {raw}", cnn.raw),
        build_row(
            "required_p50_overhead_ms",
            alone.value - alone.raw,
            f"ms above raw, paid, at least, {whose}; {raw}",
            alone.raw,
        ),
        build_row("raw_rested_p50_ms", rested.value, f"ms, raw after a rest of 0.3 ms; {raw}", rested.raw),
    ]


def _other_rows(found: Measured) -> list[Row]:
    cnn = found.middle("cnn_paid")
    unit = "requests/s, exact version, the middle round; reference: raw rows/s, in turn, optimised graph"
    rows = [build_row("node_cnn_paid_over_raw", cnn.value, unit, cnn.raw)]
    for row, name in (("node_over_raw", "digits_signed"), ("node_paid_over_raw", "digits_paid")):
        unit = "requests/s, digits; reference: raw rows/s"
        rows.append(build_row(row, found.rate(name), unit, found.raw_rate("digits")))
        best_round = max(found.loads[name], key=lambda load: load.rate)
        for which in (50, 99):
            short = row.removesuffix("_over_raw")
            rows.append(build_row(f"{short}_p{which}_ms", best_round.percentile(which), "ms, 16 connections"))
    return rows


def _peer_rows(found: Measured, name: str, best: str) -> list[Row]:
    raw, raw_p50 = found.raw_rate("mlp"), found.raw_p50("mlp")
    return [
        build_row(f"{name}_mlp_rps", found.capacity(name), f"requests/s, {best}; reference: raw rows/s", raw),
        build_row(f"{name}_mlp_p50_ms", found.p50(f"{name}_1"), "ms, 1 connection; reference: raw", raw_p50),
    ]


def _generator_rows(found: Measured) -> list[Row]:
    """What the generator could do at most, beside the most that it measured; and how busy it was, at most."""
    fastest = max(found.rate(name) for name in OWN)
    busiest = max(load.busy for name in OWN for load in found.loads[name])
    ceiling = found.rate("generator")
    enough = "enough" if ceiling >= HEADROOM * fastest else f"below {HEADROOM:g}: it may hold the node back"
    cores = str(found.cores)
    return [
        build_row("generator_rps", ceiling, f"requests/s to a bare responder; {enough}", fastest),
        build_row("generator_p50_ms", found.p50("generator_1"), "ms to it and back, 1 connection"),
        build_row("generator_busy", busiest, f"of its core, at most, under the node's loads; {cores}", 1.0),
    ]
