"""Profit and loss: every bond is accounted for once, gas is kept apart."""

from __future__ import annotations

import json

from assay.watch.economics import Outcome, Stake, summarise
from hypothesis import given
from hypothesis import strategies as st

amounts = st.integers(0, 10**24)
stakes = st.lists(
    st.builds(Stake, bond=amounts, outcome=st.sampled_from(Outcome), reward=st.just(0))
    | st.builds(Stake, bond=amounts, outcome=st.just(Outcome.WON), reward=amounts),
    max_size=30,
)


@given(stakes, st.lists(amounts, max_size=10), st.lists(amounts, max_size=10))
def test_summarise__any_disputes__account_for_every_bond_once(
    held: list[Stake], reports: list[int], gas: list[int]
) -> None:
    money = summarise(held, reports, gas)
    assert money.bonds_out == money.bonds_back + money.bonds_lost + money.bonds_open
    assert money.disputes == money.won + money.lost + money.open == len(held)
    assert money.gas_wei == sum(gas)
    assert money.transactions == len(gas)
    # what the account's token balance has changed by, bonds that are out apart
    change = sum(
        {Outcome.WON: stake.reward, Outcome.LOST: -stake.bond, Outcome.OPEN: 0}[stake.outcome]
        for stake in held
    )
    assert money.tokens == change + sum(reports)


@given(stakes, stakes)
def test_summarise__of_two_parts__adds_up(first: list[Stake], second: list[Stake]) -> None:
    both, one, two = (summarise(held, [], []) for held in (first + second, first, second))
    assert both.tokens == one.tokens + two.tokens
    assert both.bonds_out == one.bonds_out + two.bonds_out


def test_to_json__amounts__are_decimal_strings_and_counts_numbers() -> None:
    money = summarise([Stake(10, Outcome.WON, 500), Stake(10, Outcome.LOST)], [7], [3, 4])
    data = json.loads(json.dumps(money.to_json()))
    assert data["tokens"] == str(500 + 7 - 10)
    assert (data["won"], data["lost"], data["reports"], data["gas_wei"]) == (1, 1, 1, "7")
