"""When a batch is worth its gas."""

from __future__ import annotations

from dataclasses import replace

import pytest
from assay.node.settlement.worth import (
    WEI,
    Prospect,
    Reason,
    Rows,
    Rules,
    claim_pays,
    collect_pays,
    decide,
    net_of_shares,
)
from hypothesis import given
from hypothesis import strategies as st

GWEI = 10**9
NOW = 10_000.0
PRICED = Rules(native_price=10**18)  # a base unit is a wei
AMOUNTS = st.integers(0, 10**24)

rules = st.builds(
    Rules,
    max_receipts=st.integers(1, 10**6),
    max_value=AMOUNTS,
    max_age_seconds=st.floats(1, 10**5),
    min_age_seconds=st.floats(0, 100),
    acknowledgement_seconds=st.floats(0, 60),
    native_price=st.sampled_from([0, 1, 10**6, 10**18, 3 * 10**21]),
    gas_share=st.sampled_from([0.001, 0.02, 0.5, 1.0]),
)


@st.composite
def prospects(draw: st.DrawFn) -> Prospect:
    oldest = draw(st.integers(0, int(NOW)))
    return Prospect(
        receipts=draw(st.integers(1, 10**6)),
        oldest=oldest,
        newest=draw(st.integers(oldest, int(NOW))),
        charged=draw(AMOUNTS),
        payable=draw(AMOUNTS),
        rows=Rows(draw(st.integers(0, 128)), draw(st.integers(0, 32)), draw(st.integers(0, 128))),
        gas_price=draw(st.integers(0, 10**13)),
        acknowledged=draw(st.booleans()),
        thawing=draw(st.booleans()),
        at_risk=draw(AMOUNTS),
        cover=draw(st.none() | AMOUNTS),
    )


@given(prospects(), rules)
def test_decide__any_prospect__closes_for_a_reason_and_waits_no_longer_than_the_age(
    prospect: Prospect, rules: Rules
) -> None:
    decision = decide(prospect, rules, NOW)
    waits = {Reason.WAITING, Reason.ACKNOWLEDGEMENTS}
    assert decision.closes == (decision.reason not in waits)
    assert (decision.needed is None) == (rules.native_price == 0)
    if not decision.closes:
        assert 0 <= decision.wait_seconds <= rules.max_age_seconds
    old = NOW + rules.max_age_seconds + rules.acknowledgement_seconds + 1
    assert decide(prospect, rules, old).closes


@given(prospects(), rules, st.integers(1, 10**24))
def test_decide__worth_more__never_waits_where_it_closed(prospect: Prospect, rules: Rules, more: int) -> None:
    richer = replace(prospect, payable=prospect.payable + more)
    assert decide(richer, rules, NOW).closes >= decide(prospect, rules, NOW).closes


@given(prospects(), rules, st.integers(1, 10**13))
def test_decide__dearer_gas__never_closes_where_it_waited(
    prospect: Prospect, rules: Rules, more: int
) -> None:
    dearer = replace(prospect, gas_price=prospect.gas_price + more)
    assert decide(dearer, rules, NOW).closes <= decide(prospect, rules, NOW).closes


@given(prospects(), rules)
def test_decide__closed_for_its_worth__gas_is_within_its_share(prospect: Prospect, rules: Rules) -> None:
    decision = decide(prospect, rules, NOW)
    if decision.reason is Reason.WORTH:
        assert decision.cost <= rules.gas_share * decision.value * (1 + 1e-9)


@given(prospects(), rules)
def test_decide__asked__always_closes(prospect: Prospect, rules: Rules) -> None:
    assert decide(prospect, rules, NOW, close_all=True).reason is Reason.ASKED


YOUNG = Prospect(receipts=10, oldest=9_940, newest=9_999, charged=100, payable=90, gas_price=GWEI)


@pytest.mark.parametrize(
    ("prospect", "rules", "reason"),
    [
        (YOUNG, Rules(), Reason.WAITING),
        (replace(YOUNG, thawing=True), Rules(), Reason.THAW),
        (YOUNG, Rules(max_receipts=10), Reason.COUNT),
        (YOUNG, Rules(max_value=100), Reason.VALUE),
        (YOUNG, Rules(max_value=101), Reason.WAITING),
        (replace(YOUNG, at_risk=800, cover=1_000), Rules(), Reason.STAKE),
        (replace(YOUNG, at_risk=799, cover=1_000), Rules(), Reason.WAITING),
        (replace(YOUNG, at_risk=5_000, cover=1_000), Rules(), Reason.WAITING),
        (replace(YOUNG, payable=10**18), PRICED, Reason.WORTH),
        (replace(YOUNG, payable=10**18), Rules(), Reason.WAITING),
        (replace(YOUNG, payable=10**18, oldest=9_990), PRICED, Reason.WAITING),
        (replace(YOUNG, oldest=9_000), Rules(), Reason.AGE),
        (replace(YOUNG, oldest=9_698, acknowledged=False), Rules(), Reason.ACKNOWLEDGEMENTS),
        (replace(YOUNG, oldest=9_695, acknowledged=False), Rules(), Reason.AGE),
        (replace(YOUNG, oldest=9_000, newest=9_990, acknowledged=False), Rules(), Reason.AGE),
        (replace(YOUNG, oldest=9_000, payable=0), PRICED, Reason.AGE),
    ],
)
def test_decide__each_rule__names_itself(prospect: Prospect, rules: Rules, reason: Reason) -> None:
    assert decide(prospect, rules, NOW).reason is reason


def test_text__waiting__says_how_much_is_needed_and_until_when() -> None:
    decision = decide(replace(YOUNG, rows=Rows(1)), PRICED, NOW)
    gas = Rows(1).gas
    assert decision.text == f"value 90 of {gas * GWEI * 50} needed, or in 4 min"
    assert decide(YOUNG, Rules(), NOW).text == "value 90, in 4 min"
    assert decide(replace(YOUNG, thawing=True), Rules(), NOW).text == "closes now: thaw"


def test_collect_pays__too_little__waits_a_day_at_most() -> None:
    assert not collect_pays(PRICED, 1, 10**6, GWEI, 0)
    assert collect_pays(PRICED, 1, 10**6, GWEI, 86_400)
    assert collect_pays(PRICED, 1, 10**18, GWEI, 0)
    assert collect_pays(Rules(), 1, 0, GWEI, 0)
    assert not claim_pays(PRICED, 10**6, GWEI)
    assert claim_pays(PRICED, 45_000 * GWEI * 50, GWEI)
    assert not claim_pays(PRICED, 45_000 * GWEI * 50 - 1, GWEI)


@given(AMOUNTS, st.integers(0, 500), st.integers(0, 5_000))
def test_net_of_shares__any_amount__is_what_is_left(amount: int, fee: int, royalty: int) -> None:
    net = net_of_shares(amount, fee, royalty)
    assert 0 <= net <= amount
    assert amount - net <= amount * (fee + royalty) // 10_000 + 1


def test_cost__any_price__is_gas_at_that_price() -> None:
    prospect = replace(YOUNG, rows=Rows(25), gas_price=7 * GWEI)
    assert prospect.cost(WEI) == Rows(25).gas * 7 * GWEI
    assert prospect.cost(10**6) == -(-Rows(25).gas * 7 * GWEI * 10**6 // WEI)
