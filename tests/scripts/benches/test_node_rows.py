from __future__ import annotations

import numpy as np
import pytest

from scripts.benches.__main__ import check_rows
from scripts.benches.load.cores import Cores
from scripts.benches.load.plan import Load
from scripts.benches.node_rows import Beside, Measured, Row, build_row, build_rows
from scripts.benches.workloads import Raw


def load(rate: float, *times: float, busy: float = 0.2) -> Load:
    """`times` in milliseconds, as often as the rate needs."""
    repeated = np.resize(np.array(times or (1.0,)) / 1e3, int(rate * 2))
    return Load(2.0, repeated, {200: len(repeated)}, (len(repeated),), busy)


def measured(*, peers: bool = True, ceiling: float = 60_000.0) -> Measured:
    found = Measured(cores=Cores((0,), (1,)))
    for factor in (0.5, 1.0):  # the second round is the best
        for name, raw in (("mlp", 4_000), ("cnn", 600), ("digits", 20_000)):
            found.add_raw(name, Raw(raw * factor, 1e3 / raw / factor))
        for prefix, more in (("", 1.0), ("least_", 2.0)):
            found.add(f"{prefix}mlp_signed", load(8_000 * factor * more))
            found.add(f"{prefix}mlp_signed_64", load(9_000 * factor * more))
            found.add(f"{prefix}mlp_paid", load(6_000 * factor * more, 2.5 / factor))
            found.add(f"{prefix}mlp_paid_64", load(5_000 * factor * more, 2.5 / factor))
            found.add(f"{prefix}mlp_paid_1", load(1_500 * factor, 0.5 / factor / more))
            found.add(f"{prefix}mlp_half", load(3_000, *[0.8] * 98, 2.0 / factor, 2.0 / factor))
            found.add(f"{prefix}cnn_paid", load(570 * factor))
            for ratio in (1.2, 0.95) if factor == 1 else (0.5, 0.96):
                found.add_in_turn(f"{prefix}cnn_paid", Beside(600 * ratio, 600))
        for name, rate in (("mlp_paid", 4_800), ("mlp_signed", 7_000), ("cnn_paid", 594)):
            found.add_required(name, Beside(rate * factor, (600 if name == "cnn_paid" else 4_000) * factor))
        found.add_required("mlp_alone", Beside(1.0 / factor, 0.25))
        found.add_required("mlp_rested", Beside(0.35 / factor, 0.25))
        found.add("digits_signed", load(10_000 * factor))
        found.add("digits_paid", load(7_000 * factor, busy=0.31))
        found.add("generator", load(ceiling * factor))
        found.add("generator_1", load(9_000, 0.04))
        if peers:
            for name, rate in (
                ("mlserver", 1_000),
                ("mlserver_json", 500),
                ("litserve", 400),
                ("mosec", 12_000),
            ):
                found.add(name, load(rate * factor))
                found.add(f"{name}_64", load(rate * factor / 2))
                found.add(f"{name}_1", load(rate * factor, 1.1 / factor))
    return found


def by_name(rows: list[Row]) -> dict[str, Row]:
    assert len({row["name"] for row in rows}) == len(rows)
    return {row["name"]: row for row in check_rows("node", rows)}


def test_build_rows__two_rounds__give_each_its_best() -> None:
    rows = by_name(build_rows(measured()))
    assert rows["node_mlp_paid_rps"]["value"] == 6_000 and rows["node_mlp_paid_rps"]["ratio"] == 1.5
    assert rows["node_mlp_signed_rps"]["value"] == 9_000
    assert rows["node_mlp_paid_over_mlserver"]["ratio"] == 6
    assert rows["node_cnn_paid_over_raw"]["ratio"] == 0.95
    assert rows["node_p50_overhead_ms"]["value"] == pytest.approx(0.5 - 0.25)
    assert (
        rows["node_mlp_half_load_p99_ms"]["value"] == 2 and rows["node_mlp_half_load_p99_ms"]["ratio"] == 2.5
    )
    assert rows["node_mlp_signed_16_rps"]["value"] == 8_000
    assert rows["node_mlp_paid_over_mlserver_json"]["ratio"] == 12
    assert rows["least_mlp_paid_rps"]["value"] == 12_000 and rows["least_mlp_paid_rps"]["ratio"] == 2
    assert rows["least_mlp_signed_16_rps"]["reference"] == 8_000
    assert rows["least_p50_overhead_ms"]["value"] == pytest.approx(0.25 - 0.25)
    assert rows["least_mlp_half_load_p99_ms"]["ratio"] == 2.5
    assert rows["least_cnn_paid_over_raw"]["ratio"] == 0.95
    assert rows["required_mlp_paid_rps"]["value"] == 4_800 and rows["required_mlp_paid_rps"]["ratio"] == 1.2
    assert rows["required_mlp_signed_rps"]["ratio"] == 1.75
    assert rows["required_cnn_paid_over_raw"]["ratio"] == 0.99
    assert rows["required_p50_overhead_ms"]["value"] == pytest.approx(1 - 0.25)
    assert rows["raw_rested_p50_ms"]["value"] == 0.35 and rows["raw_rested_p50_ms"]["reference"] == 0.25
    assert rows["node_over_raw"]["ratio"] == 0.5 and rows["node_paid_over_raw"]["ratio"] == 0.35
    assert rows["mosec_mlp_rps"]["ratio"] == 3 and rows["mlserver_mlp_p50_ms"]["value"] == 1.1


def test_build_rows__required__takes_each_from_the_round_that_asks_for_least() -> None:
    found = measured()
    found.add_required("cnn_paid", Beside(500, 400))
    found.add_required("mlp_paid", Beside(3_000, 1_000))
    found.add_required("mlp_alone", Beside(1.2, 0.5))
    rows = by_name(build_rows(found))
    assert rows["required_cnn_paid_over_raw"]["ratio"] == 1.25
    assert rows["required_mlp_paid_rps"]["value"] == 4_800
    overhead = rows["required_p50_overhead_ms"]
    assert overhead["value"] == pytest.approx(0.7) and overhead["reference"] == 0.5


def test_build_rows__no_peers__have_none_of_theirs() -> None:
    names = by_name(build_rows(measured(peers=False)))
    assert "node_mlp_paid_rps" in names
    assert not [name for name in names if "mlserver" in name or "mosec" in name or "litserve" in name]


@pytest.mark.parametrize(("ceiling", "word"), [(60_000.0, "enough"), (20_000.0, "may hold the node back")])
def test_build_rows__generators_ceiling__is_judged_beside_the_fastest_load(ceiling: float, word: str) -> None:
    rows = by_name(build_rows(measured(ceiling=ceiling)))
    assert word in rows["generator_rps"]["unit"]
    assert rows["generator_rps"]["reference"] == 10_000
    assert rows["generator_busy"]["value"] == 0.31
    assert "core 1" in rows["generator_busy"]["unit"]


def test_build_row__no_reference__has_no_ratio() -> None:
    assert build_row("a", 1.23456, "ms") == {
        "name": "a",
        "value": 1.2346,
        "unit": "ms",
        "reference": None,
        "ratio": None,
    }


@pytest.mark.parametrize(
    ("usable", "servers", "expected"),
    [
        ([0, 1], 1, Cores((0,), (1,))),
        ([2, 5, 7], 2, Cores((2, 5), (7,))),
        ([3], 1, Cores((3,), (3,))),
        ([0, 1], 2, Cores((0, 1), (1,))),
    ],
)
def test_cores__usable_ones__keep_server_and_client_apart_while_they_can(
    usable: list[int], servers: int, expected: Cores
) -> None:
    found = Cores.of(usable, servers)
    assert found == expected
    assert found.is_shared == (len(usable) <= servers)
