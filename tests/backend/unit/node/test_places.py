"""Places for requests in progress, parted among consumers."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from assay.node.errors import Unavailable
from assay.node.places import Places, named_consumer
from assay.types import Address
from hypothesis import given
from hypothesis import strategies as st

GREEDY, OTHER, NEWCOMER = Address("greedy"), Address("other"), Address("newcomer")
NAMES = [Address(name) for name in "abc"]


def takes(places: Places, consumer: Address) -> bool:
    try:
        places.take(consumer)
    except Unavailable as error:
        assert (error.status, error.code, error.retry_after) == (503, "busy", 1)
        return False
    return True


def test_take__one_consumer__gets_half_and_leaves_the_rest_to_others() -> None:
    places = Places(12)
    assert sum(takes(places, GREEDY) for _ in range(40)) == 6
    assert sum(takes(places, OTHER) for _ in range(40)) == 3
    assert takes(places, NEWCOMER)


def test_take__flood_beside_many__has_an_equal_part_or_an_eighth_of_what_they_leave() -> None:
    places = Places(120)
    for number in range(9):
        for _ in range(4):
            places.take(Address(f"modest {number}"))
    assert sum(takes(places, GREEDY) for _ in range(200)) == 11  # above 120 / 11
    for number in range(9):
        assert sum(takes(places, Address(f"modest {number}")) for _ in range(4)) == 4
    assert places.taken == 83


def test_take__no_place_left__tells_how_many_are_the_askers() -> None:
    places = Places(2)
    places.take(GREEDY)
    with pytest.raises(
        Unavailable, match=r"1 requests are in progress here, 1 of them yours; .* another node"
    ):
        places.take(GREEDY)


def test_check__names_that_nobody_proved__cost_those_consumers_nothing() -> None:
    places = Places(12)
    places.take(OTHER)
    before = Places(12, 1, {OTHER: 1})
    for _ in range(1000):
        places.check(OTHER)
        places.check(NEWCOMER)
    assert places == before
    assert sum(takes(places, OTHER) for _ in range(40)) == 5


def test_held__block_fails__gives_the_place_back() -> None:
    places = Places(2)
    with pytest.raises(ZeroDivisionError), places.held(GREEDY):
        assert places.taken == 1
        raise ZeroDivisionError
    with pytest.raises(Unavailable), places.held(GREEDY), places.held(GREEDY):
        pass
    assert places == Places(2)


@given(st.integers(1, 20), st.lists(st.tuples(st.sampled_from(NAMES), st.booleans()), max_size=120))
def test_places__any_order__keeps_the_bound_and_refuses_only_whose_share_is_full(
    limit: int, work: list[tuple[Address, bool]]
) -> None:
    places = Places(limit)
    held: Counter[Address] = Counter()
    for consumer, is_taken in work:
        if is_taken:
            mine, free = held[consumer], limit - held.total()
            consumers = len({*held.elements(), consumer})
            expected = mine < free and (mine < free / 8 or mine < limit / (consumers + 1))
            assert takes(places, consumer) == expected
            held[consumer] += expected
        elif held[consumer]:
            places.free(consumer)
            held[consumer] -= 1
        assert places.taken == held.total() <= limit
        for name in () if places.is_tight else NAMES:
            places.check(name)
    for consumer in held.elements():
        places.free(consumer)
    assert places == Places(limit)


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.integers(0, 3)), max_size=200))
def test_take__others_flood_in_any_order__a_newcomer_finds_a_place(work: list[tuple[Address, int]]) -> None:
    """Three who take whatever they get, and end some."""
    places = Places(16)
    held: Counter[Address] = Counter()
    for consumer, step in work:
        if step:
            held[consumer] += takes(places, consumer)
        elif held[consumer]:
            places.free(consumer)
            held[consumer] -= 1
        places.check(NEWCOMER)


def test_named_consumer__json_of_any_spacing__is_found_where_a_voucher_names_one() -> None:
    address = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
    for parameters in ({"voucher_consumer": address}, {"voucher_amount": "5", "voucher_consumer": address}):
        for separators in ((",", ":"), (", ", ": ")):
            raw = json.dumps({"inputs": [], "parameters": parameters}, separators=separators).encode()
            assert named_consumer(raw) == address
    for other in ({}, {"voucher_consumer": 5}, {"voucher_consumer": "0x12"}):
        assert named_consumer(json.dumps(other).encode()) is None
