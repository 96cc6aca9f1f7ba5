"""Places for payments in work: in whatever order they come, each holds one, and newcomers find some."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack, suppress

import pytest
from assay.node.errors import Unavailable
from assay.node.places import Places
from assay.node.x402.waiting import Place, WaitingRoom
from assay.types import Address
from hypothesis import given
from hypothesis import strategies as st

PAYERS = [Address(name) for name in ("ann", "bob", "cy")]
ANN, BOB, CY = PAYERS
HOSTS = ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
ONE, TWO, THREE = HOSTS
LIMIT = 8


class Crowd(ExitStack):
    """Payments in work in a room; all leave at the end."""

    def __init__(self, limit: int = LIMIT) -> None:
        super().__init__()
        self.room = WaitingRoom(limit)

    def send(self, peer: str, payer: Address, *, is_owed: bool = False) -> Place:
        return self.enter_context(self.room.place(peer, payer, is_owed=is_owed))

    def sends(self, peer: str, payer: Address, *, is_owed: bool = False) -> bool:
        return is_taken(lambda: self.send(peer, payer, is_owed=is_owed))

    def held(self) -> tuple[int, int]:
        return self.room.hosts.taken, self.room.payers.taken


def is_taken(act: object) -> bool:
    assert callable(act)
    try:
        act()
    except Unavailable as error:
        assert (error.status, error.code, error.retry_after) == (503, "busy", 1)
        assert "PAYMENT-SIGNATURE again" in str(error)
        return False
    return True


def is_empty(room: WaitingRoom) -> bool:
    limit = room.hosts.limit
    return room.hosts == room.payers == Places(limit)


def test_place__one_host_many_names__holds_its_hosts_part_alone() -> None:
    """Names that nobody proved, and keys that cost nothing, are one host."""
    with Crowd() as crowd:
        names = [Address(f"key {number}") for number in range(40)]
        assert sum(crowd.sends(ONE, name) for name in names) == LIMIT // 2
        assert crowd.held() == (LIMIT // 2, 0)
        assert crowd.sends(TWO, names[-1])
        for name in names:
            crowd.room.payers.check(name)
    assert is_empty(crowd.room)


def test_to_payer__one_payer_from_many_hosts__holds_a_payers_part_and_no_hosts() -> None:
    with Crowd() as crowd:
        for number in range(LIMIT // 2):
            crowd.send(f"10.0.1.{number}", ANN).to_payer(is_owed=False)
        assert crowd.held() == (0, LIMIT // 2)
        assert not crowd.send(ONE, BOB).is_payers
        late = crowd.send(TWO, ANN)
        with pytest.raises(Unavailable, match=r"or of ann; .* with fewer at a time"):
            late.to_payer(is_owed=False)
        assert not is_taken(late.check)
        assert crowd.held() == (2, LIMIT // 2)
        late.to_payer(is_owed=True)
        assert (late.is_payers, crowd.held()) == (False, (2, LIMIT // 2))
    assert is_empty(crowd.room)


def test_to_payer__twice__is_counted_once() -> None:
    with Crowd() as crowd:
        place = crowd.send(ONE, ANN)
        for _ in range(3):
            place.to_payer(is_owed=False)
        assert crowd.held() == (0, 1)
    assert is_empty(crowd.room)


def test_place__owed_and_every_host_full__is_its_payers() -> None:
    with Crowd() as crowd:
        for number in range(100):
            crowd.sends(f"10.0.2.{number}", BOB)
        assert crowd.held() == (LIMIT, 0)
        assert not crowd.sends(ONE, ANN)
        assert crowd.send(ONE, ANN, is_owed=True).is_payers


def test_place__owed_and_its_payer_full__is_its_hosts() -> None:
    """Somebody sends the payer's old payments again, from elsewhere."""
    with Crowd() as crowd:
        replayed = [crowd.sends(TWO, ANN, is_owed=True) for _ in range(40)]
        assert sum(replayed) == LIMIT
        assert not crowd.send(ONE, ANN, is_owed=True).is_payers
        assert crowd.send(ONE, BOB, is_owed=True).is_payers
    assert is_empty(crowd.room)


def test_place__block_fails__gives_it_back_wherever_it_is() -> None:
    room = WaitingRoom(1)
    for moves in (False, True):
        with pytest.raises(ZeroDivisionError), room.place(ONE, ANN, is_owed=False) as place:
            if moves:
                place.to_payer(is_owed=False)
            raise ZeroDivisionError
        assert is_empty(room)


STEPS = st.tuples(
    st.sampled_from(HOSTS), st.sampled_from(PAYERS), st.sampled_from(["send", "owed", "good", "paid", "end"])
)


@given(st.integers(1, 20), st.lists(STEPS, max_size=120))
def test_place__any_order__places_taken_are_places_held(
    limit: int, work: list[tuple[str, Address, str]]
) -> None:
    room = WaitingRoom(limit)
    inside: list[tuple[Place, ExitStack]] = []
    for peer, payer, step in work:
        if step in ("send", "owed"):
            stack = ExitStack()
            with suppress(Unavailable):
                inside.append((stack.enter_context(room.place(peer, payer, is_owed=step == "owed")), stack))
        elif inside:
            place, stack = inside.pop(0)
            if step == "end":
                stack.close()
                continue
            inside.append((place, stack))
            was_payers = place.is_payers
            try:
                place.to_payer(is_owed=step == "paid")
            except Unavailable:
                assert step == "good"
                assert not was_payers
                assert not place.is_payers
        of_hosts = Counter(place.host for place, _ in inside if not place.is_payers)
        of_payers = Counter(place.payer for place, _ in inside if place.is_payers)
        assert room.hosts == Places(limit, of_hosts.total(), dict(of_hosts))
        assert room.payers == Places(limit, of_payers.total(), dict(of_payers))
        assert max(of_hosts.total(), of_payers.total()) <= limit
    for _, stack in inside:
        stack.close()
    assert is_empty(room)


@given(st.lists(STEPS, max_size=200))
def test_place__three_hosts_and_payers_hold_what_they_get__newcomers_find_places(
    work: list[tuple[str, Address, str]],
) -> None:
    """Of either kind; it takes five who fill their parts to leave none of sixteen."""
    with Crowd(16) as crowd:
        inside: list[Place] = []
        for peer, payer, step in work:
            if step in ("send", "owed"):
                if is_taken(lambda: inside.append(crowd.send(peer, payer, is_owed=step == "owed"))):  # noqa: B023
                    continue
            elif inside:
                is_taken(lambda: inside[-1].to_payer(is_owed=step == "paid"))  # noqa: B023
            with crowd.room.place("10.9.9.9", Address("new"), is_owed=False) as place:
                place.to_payer(is_owed=False)
            with crowd.room.place("10.9.9.9", Address("new"), is_owed=True) as place:
                assert place.is_payers
