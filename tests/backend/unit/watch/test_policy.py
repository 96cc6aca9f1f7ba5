"""The sample: bounded, monotonic in the rate, the same for the same seed, unknown without it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from assay.errors import RequestError
from assay.types import Address, Hash32
from assay.watch.policy import Policy, choose, ticket
from hypothesis import given
from hypothesis import strategies as st

NODE, OTHER = Address("0x" + "11" * 20), Address("0x" + "22" * 20)
VERSION = Hash32(bytes([7]) * 32)
SEED = bytes(range(32))
digests = st.lists(st.binary(min_size=32, max_size=32).map(Hash32), unique=True, max_size=60)
rates = st.floats(0, 1)


@given(digests, rates, rates)
def test_choose__higher_rate__chooses_all_that_a_lower_one_does(
    found: list[Hash32], first: float, second: float
) -> None:
    low, high = sorted((first, second))
    assert set(choose(Policy(low), SEED, found)) <= set(choose(Policy(high), SEED, found))


@given(digests, rates, st.integers(1, 20))
def test_choose__with_a_bound__keeps_the_lowest_tickets(found: list[Hash32], rate: float, bound: int) -> None:
    unbounded = choose(Policy(rate), SEED, found)
    assert choose(Policy(rate, max_per_batch=bound), SEED, found) == unbounded[:bound]
    assert [ticket(SEED, digest) for digest in unbounded] == sorted(ticket(SEED, d) for d in unbounded)


@given(digests, rates, st.randoms())
def test_choose__any_order__chooses_the_same(found: list[Hash32], rate: float, random: object) -> None:
    shuffled: list[Hash32] = list(found)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert choose(Policy(rate), SEED, shuffled) == choose(Policy(rate), SEED, found)


def many(count: int) -> Sequence[Hash32]:
    return [Hash32(number.to_bytes(32, "big")) for number in range(count)]


@pytest.mark.parametrize(("rate", "expected"), [(0.0, 0), (1.0, 4000)])
def test_choose__none_or_all__is_exact(rate: float, expected: int) -> None:
    assert len(choose(Policy(rate), SEED, many(4000))) == expected


def test_choose__a_tenth__is_near_a_tenth_and_another_with_another_seed() -> None:
    found = many(4000)
    ours, theirs = (set(choose(Policy(0.1), seed, found)) for seed in (SEED, bytes(32)))
    assert 320 < len(ours) < 480
    assert 320 < len(theirs) < 480
    assert len(ours & theirs) < 100


def test_covers__filters__are_both_held() -> None:
    policy = Policy(nodes=frozenset({NODE}), versions=frozenset({VERSION}))
    assert policy.covers(NODE, VERSION)
    assert not policy.covers(OTHER, VERSION)
    assert not policy.covers(NODE, Hash32(bytes(32)))
    assert Policy().covers(OTHER, VERSION)


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_policy__rate_that_is_no_share__is_refused(rate: float) -> None:
    with pytest.raises(RequestError):
        Policy(rate)


def test_policy__no_receipt_a_batch__is_refused() -> None:
    with pytest.raises(RequestError):
        Policy(max_per_batch=0)
