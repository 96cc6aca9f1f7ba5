"""Who is asked first: theirs whose batches took little time of late."""

from __future__ import annotations

import pytest
from assay.index.turns import HALF_LIFE, STEP_SECONDS, Turns, while_in_turn


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_order__nobody_took_long__is_by_age() -> None:
    turns = Turns(Clock())
    turns.took("b", STEP_SECONDS / 2)
    assert turns.order("cba") == ["c", "b", "a"]


def test_order__who_took_long__comes_after_the_others_for_a_while() -> None:
    clock = Clock()
    turns = Turns(clock)
    turns.took("slow", 10 * STEP_SECONDS)
    turns.took("slower", 20 * STEP_SECONDS)
    assert turns.order(["slower", "slow", "new"]) == ["new", "slow", "slower"]
    clock.now += 10 * HALF_LIFE
    assert turns.order(["slower", "slow", "new"]) == ["slower", "slow", "new"]


def test_took__many_nodes__are_forgotten_with_their_time() -> None:
    clock = Clock()
    turns = Turns(clock)
    for number in range(100):
        turns.took(str(number), 100.0)
        clock.now += HALF_LIFE
    assert len(turns._spent) < 10


def test_while_in_turn__time_is_over_or_told_to_stop__begins_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(while_in_turn("abc", lambda: False)) == ["a", "b", "c"]
    looks = iter([False, True])
    assert list(while_in_turn("abc", lambda: next(looks))) == ["a"]
    monkeypatch.setattr("assay.index.turns.STEP_SECONDS", 0.0)
    assert list(while_in_turn("abc", lambda: False)) == []
