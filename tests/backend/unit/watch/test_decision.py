"""When a wrong receipt is disputed, waited with, or let go."""

from __future__ import annotations

from dataclasses import replace

import pytest
from assay.watch.decision import Decision, Join, Rules, Situation, decide
from hypothesis import given
from hypothesis import strategies as st

GOOD = Situation(
    now=100,
    open_until=200,
    is_void=False,
    others_open=0,
    bond=10,
    tokens=10,
    gas_needed=5,
    gas_balance=5,
    reward=50,
    own_open=0,
)


def test_decide__everything_there__opens() -> None:
    assert decide(GOOD, Rules()) == (Decision.OPEN, "")


@pytest.mark.parametrize(
    ("changes", "rules", "expected"),
    [
        ({"is_void": True}, Rules(), Decision.DROP),
        ({"now": 200}, Rules(), Decision.DROP),
        ({"now": 197}, Rules(margin_seconds=3), Decision.DROP),
        ({"now": 196}, Rules(margin_seconds=3), Decision.OPEN),
        ({"others_open": 3}, Rules(), Decision.OPEN),
        ({"others_open": 1}, Rules(join=Join.NEVER), Decision.WAIT),
        ({"tokens": 9}, Rules(), Decision.WAIT),
        ({"gas_balance": 4}, Rules(), Decision.WAIT),
        ({"reward": 0}, Rules(), Decision.OPEN),
        ({"reward": 49}, Rules(min_reward=50), Decision.WAIT),
        ({"own_open": 2}, Rules(max_open=2), Decision.WAIT),
        ({"own_open": 1}, Rules(max_open=2), Decision.OPEN),
    ],
)
def test_decide__one_thing_else__decides(changes: dict[str, int], rules: Rules, expected: Decision) -> None:
    decision, reason = decide(replace(GOOD, **changes), rules)  # type: ignore[arg-type]
    assert decision is expected
    assert bool(reason) == (expected is not Decision.OPEN)


@given(st.integers(0, 400), st.integers(0, 20), st.integers(0, 10), st.booleans())
def test_decide__opens__only_with_time_tokens_and_gas(now: int, tokens: int, gas: int, void: bool) -> None:
    situation = replace(GOOD, now=now, tokens=tokens, gas_balance=gas, is_void=void)
    decision, _ = decide(situation, Rules())
    can = not void and now + Rules().margin_seconds < GOOD.open_until and tokens >= GOOD.bond and gas >= 5
    assert (decision is Decision.OPEN) == can
