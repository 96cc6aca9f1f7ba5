"""How long batches pause."""

from __future__ import annotations

from assay.node.engines.pauses import FIRST_SECONDS, MOST_SECONDS, Pauses
from hypothesis import given
from hypothesis import strategies as st


def test_take__again_soon_after__is_twice_as_long_up_to_the_most() -> None:
    pauses, now, found = Pauses(), 5.0, []
    for _ in range(9):
        found.append(pauses.take(now))
        now += found[-1] + 1
    assert found[:4] == [30.0, 60.0, 120.0, 240.0]
    assert found[-2:] == [MOST_SECONDS, MOST_SECONDS]


def test_take__long_after__begins_anew() -> None:
    pauses = Pauses()
    pauses.take(0.0)
    assert pauses.take(100.0) == 2 * FIRST_SECONDS
    assert pauses.take(100.0 + 2 * FIRST_SECONDS + MOST_SECONDS) == FIRST_SECONDS


@given(st.lists(st.floats(0, 2 * MOST_SECONDS), min_size=1, max_size=200))
def test_take__however_often__costs_others_a_few_batches_an_hour(gaps: list[float]) -> None:
    """Whoever sends what no batch survives as soon as a pause ends cannot do so often."""
    pauses, now, begun = Pauses(), 0.0, []
    for gap in gaps:
        begun.append(now)
        now += pauses.take(now) + gap
    for start in begun:
        assert sum(start <= at < start + MOST_SECONDS for at in begun) <= 8
