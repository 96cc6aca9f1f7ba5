"""Places for payments in work: in whatever order they come, each holds one, and newcomers find some."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial

import pytest
from assay.node.errors import Unavailable
from assay.node.places import Places
from assay.node.x402.waiting import Place, WaitingRoom
from assay.types import Address
from hypothesis import given
from hypothesis import strategies as st

PAYERS = [Address(name) for name in ("ann", "bob", "cy")]
ANN, BOB, _ = PAYERS
NEWCOMER = Address("newcomer")
HOSTS = ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
ONE, TWO, _ = HOSTS
LIMIT = 8


class Crowd(ExitStack):
    """Payments in work in a room; all leave at the end."""

    def __init__(self, limit: int = LIMIT) -> None:
        super().__init__()
        self.room = WaitingRoom(limit)

    def send(self, peer: str, payer: Address, *, is_agreed: bool = False) -> Place:
        return self.enter_context(self.room.place(peer, payer, is_agreed=is_agreed))

    def sends(self, peer: str, payer: Address, *, is_agreed: bool = False) -> bool:
        return is_taken(lambda: self.send(peer, payer, is_agreed=is_agreed))

    def held(self) -> tuple[int, int, int]:
        """Of hosts, of what was agreed, of payers."""
        return self.room.hosts.taken, self.room.agreed.taken, self.room.payers.taken


def is_taken(act: Callable[[], object]) -> bool:
    try:
        act()
    except Unavailable as error:
        assert (error.status, error.code, error.retry_after) == (503, "busy", 1)
        assert "PAYMENT-SIGNATURE again" in str(error)
        return False
    return True


def is_empty(room: WaitingRoom) -> bool:
    return room.hosts == room.agreed == room.payers == Places(room.hosts.limit)


def test_place__one_host_many_names__holds_its_hosts_part_alone() -> None:
    """Names that nobody proved, and keys that cost nothing, are one host."""
    with Crowd() as crowd:
        names = [Address(f"key {number}") for number in range(40)]
        assert sum(crowd.sends(ONE, name) for name in names) == LIMIT // 2
        assert crowd.held() == (LIMIT // 2, 0, 0)
        assert crowd.sends(TWO, names[-1])
        for name in names:
            crowd.room.payers.check(name)
    assert is_empty(crowd.room)


def test_to_payer__one_payer_from_many_hosts__holds_a_payers_part_and_no_hosts() -> None:
    with Crowd() as crowd:
        for number in range(LIMIT // 2):
            crowd.send(f"10.0.1.{number}", ANN).to_payer(is_owed=False)
        assert crowd.held() == (0, 0, LIMIT // 2)
        crowd.send(ONE, BOB).check()
        late = crowd.send(TWO, ANN)
        with pytest.raises(Unavailable, match=r"or of ann; .* with fewer at a time"):
            late.to_payer(is_owed=False)
        assert not is_taken(late.check)
        assert crowd.held() == (2, 0, LIMIT // 2)
        late.to_payer(is_owed=True)
        assert (late.holder, crowd.held()) == ("ip:" + TWO, (2, 0, LIMIT // 2))
    assert is_empty(crowd.room)


def test_to_payer__twice__is_counted_once() -> None:
    with Crowd() as crowd:
        place = crowd.send(ONE, ANN)
        for _ in range(3):
            place.to_payer(is_owed=False)
        assert (place.holder, crowd.held()) == (ANN, (0, 0, 1))
    assert is_empty(crowd.room)


def test_place__agreed__is_its_hosts_and_where_that_is_full_its_payers() -> None:
    with Crowd() as crowd:
        assert crowd.send(ONE, ANN, is_agreed=True).holder == "ip:" + ONE
        for number in range(100):
            crowd.sends(f"10.0.2.{number}", BOB)
        assert crowd.held() == (LIMIT, 0, 0)
        assert not crowd.sends(ONE, ANN)
        own = crowd.send(ONE, ANN, is_agreed=True)
        assert (own.holder, crowd.held()) == (ANN, (LIMIT, 1, 0))
        own.to_payer(is_owed=True)
        assert (own.holder, crowd.held()) == (ANN, (LIMIT, 0, 1))
    assert is_empty(crowd.room)


def test_place__old_payments_sent_again__take_nothing_of_their_payers() -> None:
    """Anybody may send those, of any number of payers."""
    with Crowd() as crowd:
        for payer in PAYERS:
            for _ in range(40):
                crowd.sends(TWO, payer, is_agreed=True)
        assert crowd.room.payers == Places(LIMIT)
        for payer in PAYERS:
            crowd.send(ONE, payer).to_payer(is_owed=False)
        assert crowd.room.payers.taken == len(PAYERS)
    assert is_empty(crowd.room)


def test_place__block_fails__gives_it_back_wherever_it_is() -> None:
    room = WaitingRoom(1)
    for moves in (False, True):
        with pytest.raises(ZeroDivisionError), room.place(ONE, ANN, is_agreed=False) as place:
            if moves:
                place.to_payer(is_owed=False)
            raise ZeroDivisionError
        assert is_empty(room)


STEPS = st.tuples(
    st.sampled_from(HOSTS), st.sampled_from(PAYERS), st.sampled_from(["send", "again", "good", "paid", "end"])
)


@given(st.integers(1, 20), st.lists(STEPS, max_size=120))
def test_place__any_order__places_taken_are_places_held(
    limit: int, work: list[tuple[str, Address, str]]
) -> None:
    room = WaitingRoom(limit)
    inside: list[tuple[Place, ExitStack]] = []
    for peer, payer, step in work:
        if step in ("send", "again"):
            stack = ExitStack()
            with suppress(Unavailable):
                place = stack.enter_context(room.place(peer, payer, is_agreed=step == "again"))
                inside.append((place, stack))
        elif inside:
            place, stack = inside.pop(0)
            if step == "end":
                stack.close()
                continue
            inside.append((place, stack))
            before = place.kind, place.holder
            if not is_taken(partial(place.to_payer, is_owed=step == "paid")):
                assert step == "good"
                assert (place.kind, place.holder) == before
        for kind in (room.hosts, room.agreed, room.payers):
            held = Counter(place.holder for place, _ in inside if place.kind is kind)
            assert kind == Places(limit, held.total(), dict(held))
            assert held.total() <= limit
    for _, stack in inside:
        stack.close()
    assert is_empty(room)


@given(st.lists(STEPS, max_size=200))
def test_place__three_hosts_and_payers_hold_what_they_get__newcomers_find_places(
    work: list[tuple[str, Address, str]],
) -> None:
    """It takes five who fill their parts to leave none of sixteen."""
    with Crowd(16) as crowd:
        inside: list[Place] = []
        for peer, payer, step in work:
            if step in ("send", "again"):
                with suppress(Unavailable):
                    inside.append(crowd.send(peer, payer, is_agreed=step == "again"))
            elif inside:
                with suppress(Unavailable):
                    inside[-1].to_payer(is_owed=step == "paid")
            with crowd.room.place("10.9.9.9", NEWCOMER, is_agreed=False) as place:
                place.to_payer(is_owed=False)
                assert place.holder == NEWCOMER
            for host in HOSTS:
                with crowd.room.place(host, NEWCOMER, is_agreed=True):
                    pass
