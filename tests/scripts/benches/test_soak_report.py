from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from scripts.benches.__main__ import check_rows
from scripts.benches.load import overload
from scripts.benches.load.overload import Overloaded, Tally
from scripts.benches.soak_report import (
    MIB,
    RECEIPT,
    Comparison,
    Memory,
    Soak,
    build_rows,
    compare,
    describe_refusals,
    fair_shares,
    find_failures,
)

GOOD = Comparison(0, 0, 0, 0)


def receipts(*numbers: int, salt: int = 0) -> NDArray[np.void]:
    packed = b"".join(overload.RECEIPT.pack(7, n, bytes([n + salt]) * 32) for n in numbers)
    return np.frombuffer(packed, RECEIPT)


@pytest.mark.parametrize(
    ("answered", "logged", "expected"),
    [
        ((), (), GOOD),
        ((3, 1, 2), (1, 2, 3), GOOD),
        ((1, 2), (1, 2, 3), Comparison(0, 0, 0, 1)),
        ((1, 2, 4), (1, 2, 3), Comparison(1, 0, 0, 1)),
        ((1, 1), (1,), Comparison(0, 1, 0, 0)),
        ((1, 3), (1, 3), Comparison(0, 0, 1, 0)),
        ((1,), (), Comparison(1, 0, 0, 0)),
    ],
)
def test_compare__answered_and_logged__finds_what_differs(
    answered: tuple[int, ...], logged: tuple[int, ...], expected: Comparison
) -> None:
    assert compare(receipts(*answered), receipts(*logged)) == expected


def test_compare__same_sequence_another_digest__is_lost() -> None:
    assert compare(receipts(1, 2), receipts(1, 2, salt=1)) == Comparison(2, 0, 0, 2)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=20), st.floats(0, 1_000))
def test_fair_shares__any_demands__spend_what_there_is_and_favour_nobody(
    demands: list[float], capacity: float
) -> None:
    shares = fair_shares(demands, capacity)
    assert sum(shares) == pytest.approx(min(capacity, sum(demands)), abs=1e-6)
    level = max(shares)
    for share, demand in zip(shares, demands, strict=True):
        assert share <= demand + 1e-9
        assert share == pytest.approx(demand, abs=1e-6) or share >= level - 1e-6


def test_fair_shares__greedy_one__gets_what_is_left() -> None:
    assert fair_shares([10, 10, 100], 60) == [10, 10, 40]


def memory(*mebibytes: float) -> Memory:
    return Memory(tuple((float(i), int(size * MIB)) for i, size in enumerate(mebibytes)))


def test_growth__start_alone_grows__is_none() -> None:
    assert memory(*range(100, 110), *[110] * 60).growth == pytest.approx(0, abs=MIB // 2)


def test_growth__steady_leak__is_seen() -> None:
    leak = memory(*(100 + i for i in range(61)))
    assert leak.growth == pytest.approx(45 * MIB)
    assert leak.growth > leak.bound


def soak(**changes: object) -> Soak:
    tally = Tally.of(3)
    tally.offered[:] = [250, 250, 1_000]
    tally.served[:] = [250, 245, 500]
    tally.refused[1]["503 busy"] = 5
    tally.refused[2]["503 busy"] = 500
    for name in list(changes):
        if name in {one.name for one in dataclasses.fields(Tally)}:
            setattr(tally, name, changes.pop(name))
    latencies = np.full(995, 0.1, np.float32)
    callers = np.repeat(np.arange(3, dtype=np.uint16), [250, 245, 500])
    load = Overloaded(10.0, tally, latencies, latencies, callers, latencies, 0.3, 0.01, 0)
    latencies[callers < 2] = 0.05
    whole = Soak(100.0, load, memory(*[200] * 60), (GOOD,) * 3, 0, 10.0)
    load_changes = {name: changes.pop(name) for name in ("latencies", "undrained") if name in changes}
    whole = dataclasses.replace(whole, load=dataclasses.replace(load, **load_changes))
    return dataclasses.replace(whole, **changes)


def test_find_failures__everything_held__finds_none() -> None:
    assert find_failures(soak()) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"capacity": 120.0}, "was offered"),
        ({"without_retry_after": 3}, "had no Retry-After"),
        ({"without_receipt": 1}, "had no receipt"),
        ({"served": [250, 100, 500]}, "fair share"),
        ({"latencies": np.full(995, 9.0, np.float32)}, "p99"),
        ({"memory": memory(*(100 + i for i in range(61)))}, "memory grew"),
        ({"comparisons": (GOOD, Comparison(1, 0, 0, 0), GOOD)}, "not in the log"),
        ({"comparisons": (GOOD, Comparison(0, 1, 0, 0), GOOD)}, "came twice"),
        ({"comparisons": (GOOD, Comparison(0, 0, 1, 0), GOOD)}, "missing in the log"),
        ({"comparisons": (GOOD, Comparison(0, 0, 0, 1), GOOD)}, "never answered"),
        ({"undrained": 2}, "had no answer"),
        ({"exit_status": -9}, "ended with status -9"),
    ],
)
def test_find_failures__one_thing_wrong__names_it_alone(changes: dict[str, object], words: str) -> None:
    (failure,) = find_failures(soak(**changes))
    assert words in failure


def test_find_failures__logged_and_unanswered_where_the_connection_broke__is_no_failure() -> None:
    assert find_failures(soak(comparisons=(GOOD, Comparison(0, 0, 0, 1), GOOD), broken=[0, 1, 0])) == []


def test_find_failures__refused_for_another_reason__shows_the_first() -> None:
    found = soak(sample=b"HTTP/1.1 402")
    found.load.tally.refused[0]["402 voucher_stale"] = 1
    (failure,) = find_failures(found)
    assert "voucher_stale" in failure and "HTTP/1.1 402" in failure


def test_find_failures__nothing_refused__says_that_it_was_no_overload() -> None:
    found = soak()
    for one in found.load.tally.refused:
        one.clear()
    (failure,) = find_failures(found)
    assert "not at its limit" in failure


def test_build_rows__soak__are_rows_of_the_table() -> None:
    rows = {row["name"]: row for row in check_rows("soak", build_rows(soak()))}
    assert rows["soak_offered_rps"]["ratio"] == 1.5
    assert rows["soak_served_rps"]["value"] == pytest.approx(99.5)
    assert rows["soak_honest_share"]["value"] == pytest.approx(0.98)
    assert rows["soak_honest_mean_share"]["value"] == pytest.approx(0.99)
    assert rows["soak_refused"]["value"] == 505
    assert (rows["soak_p99_ms"]["value"], rows["soak_honest_p99_ms"]["value"]) == (
        pytest.approx(100),
        pytest.approx(50),
    )


def test_describe_refusals__several_reasons__come_by_their_number() -> None:
    found = soak()
    found.load.tally.reasons.update({"# wait": 5, "this node is stopping": 1_200})
    assert describe_refusals(found) == "refused: 1,200 × this node is stopping; 5 × # wait"
