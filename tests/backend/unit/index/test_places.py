"""Turns of several nodes at once: who is not slow waits for no slow node."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import fields

import pytest
from assay.disk import DiskFullError
from assay.errors import RetryableError
from assay.index.download import Interrupted
from assay.index.places import PLACES, SLOW_FOR, SLOW_SECONDS, Places
from assay.index.turns import STEP_SECONDS
from assay.types import Address
from assay.watch.setup import WatchOptions

LATE = SLOW_SECONDS + STEP_SECONDS
"""Seconds after which a turn may be put off."""
LONG = 30.0
"""Seconds that a test waits for what happens at once."""


class Nodes:
    """Those in `free` answer with their name at once, others when they are let or told to stop."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.free: set[str] = set()
        self.begun: list[str] = []
        self.stopped: list[str] = []
        self._let: dict[str, threading.Event] = {}
        self.places = Places[str]("turns", patience=SLOW_SECONDS, clock=lambda: self.now)

    def turn(self, node: Address, should_stop: Callable[[], bool]) -> str:
        self.begun.append(node)
        let = self._let.setdefault(node, threading.Event())
        while node not in self.free and not let.wait(0.005):
            if should_stop():
                self.stopped.append(node)
                raise Interrupted(node)
        return node

    def fill(self, *names: str) -> int:
        """A tenth of a second later, so that turns have an order."""
        self.now += 0.1
        return self.places.fill([Address(name) for name in names], self.turn)

    def let(self, *names: str) -> list[str]:
        """Turns that may end; what came of all that did."""
        for name in names:
            self._let[name].set()
        return self.ended(len(names))

    def ended(self, count: int) -> list[str]:
        found: list[str] = []
        while len(found) < count:
            some = self.places.ended(LONG)
            assert some
            found += some
        return sorted(found)


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    nodes = Nodes()
    yield nodes
    nodes.places.close()


def slow_names(count: int) -> list[str]:
    return [f"slow {number}" for number in range(count)]


def make_slow(nodes: Nodes, *names: str) -> None:
    """Each has had a long turn."""
    for name in names:
        nodes.fill(name)
        nodes.now += 10 * SLOW_SECONDS
        nodes.let(name)
        nodes._let.clear()
    nodes.begun.clear()


def test_fill__more_nodes_than_places__begins_one_turn_each(nodes: Nodes) -> None:
    names = slow_names(PLACES + 2)
    assert nodes.fill(*names) == PLACES
    assert nodes.fill(*names) == 0
    assert nodes.let(names[1]) == [names[1]]
    assert nodes.fill(names[0], *names[PLACES:]) == 1
    assert nodes.begun == names[: PLACES + 1]


def test_fill__fewer_slow_turns_than_places__everybody_else_begins_at_once(nodes: Nodes) -> None:
    nodes.fill(*slow_names(PLACES - 1))
    nodes.now += 10 * SLOW_SECONDS
    for name in "abc":
        nodes.free.add(name)
        assert nodes.fill(*slow_names(PLACES - 1), name) == 1
        assert nodes.ended(1) == [name]
    assert nodes.stopped == []


def test_fill__every_place_slow__the_youngest_gives_way_to_who_is_not(nodes: Nodes) -> None:
    slow = slow_names(PLACES)
    assert nodes.fill(*slow[:-1]) + nodes.fill(slow[-1]) == PLACES
    nodes.free.add("quick")
    assert nodes.fill(*slow, "quick") == 0
    assert nodes.stopped == []  # they may yet be quick
    nodes.now += LATE
    assert nodes.fill(*slow, "quick") == 0
    assert nodes.fill(*slow, "quick") == 0  # one gives way, not another each time
    assert nodes.places.ended(LONG) == []
    assert nodes.stopped == [slow[-1]]
    assert nodes.fill(*slow, "quick") == 1
    assert nodes.ended(1) == ["quick"]
    assert nodes.fill(slow[-1]) == 0  # it counts as slow now, and they have their places
    nodes.let(slow[0])
    assert nodes.fill(slow[-1]) == 1


def test_places__what_the_documents_promise__is_so() -> None:
    (timeout,) = [one.default for one in fields(WatchOptions) if one.name == "timeout"]
    assert (PLACES, SLOW_SECONDS, timeout, LATE) == (4, 30.0, 30.0, 40.0)


@pytest.mark.parametrize("count", [1, PLACES - 1, PLACES, 5 * PLACES])
def test_fill__however_many_slow_nodes_before_it__who_is_not_waits_41_seconds_for_each_at_most(
    nodes: Nodes, count: int
) -> None:
    """A look a second; every slow node is new, and would take for ever."""
    names = [*slow_names(count), "quick"]
    nodes.free.add("quick")
    began, late = nodes.now, 0
    while nodes.fill(*names) >= 0 and "quick" not in nodes.begun:
        if any(turn.put_off.is_set() for turn in nodes.places._running.values()):
            late += 1
            assert nodes.places.ended(LONG) == []  # it ends the wait: the next begins at once
        else:
            nodes.now += 0.9
    assert nodes.now - began <= 1 + 41 * max(0, count - PLACES + 1)
    assert late == max(0, count - PLACES + 1)
    assert nodes.ended(1) == ["quick"]
    nodes.now += 1
    assert nodes.fill(*names) >= 1  # now that they are known, or fewer than places: no more than a look
    assert nodes.begun[-1] == "quick"
    assert nodes.ended(1) == ["quick"]


def test_charge__what_was_spent_afterwards__others_go_first(nodes: Nodes) -> None:
    nodes.free.update(("a", "b"))
    nodes.fill("a")
    nodes.ended(1)
    nodes.places.charge(Address("a"), 100.0)
    assert nodes.fill("a", "b") == 2
    assert nodes.begun == ["a", "b", "a"]


def test_fill__every_place_slow_but_not_for_long__nobody_is_put_off_before_silence_is_told(
    nodes: Nodes,
) -> None:
    nodes.fill(*slow_names(PLACES))
    nodes.now += LATE - 1
    nodes.fill("quick")
    assert not any(turn.put_off.is_set() for turn in nodes.places._running.values())
    nodes.now += 1
    nodes.fill("quick")
    assert nodes.places.ended(LONG) == []
    assert len(nodes.stopped) == 1


def test_fill__nodes_known_as_slow__leave_a_place_and_are_not_put_off(nodes: Nodes) -> None:
    slow = slow_names(PLACES)
    make_slow(nodes, *slow)
    assert nodes.fill(*slow) == PLACES - 1
    assert nodes.fill("new") == 1
    nodes.now += LATE
    assert nodes.fill("waiting") == 0
    assert nodes.places.ended(LONG) == []
    assert nodes.stopped == ["new"]
    assert nodes.fill("waiting") == 1
    assert set(nodes.begun) - {"new", "waiting"} == set(slow[: PLACES - 1])


def test_fill__node_known_as_slow__is_not_after_a_quick_turn_or_a_while(nodes: Nodes) -> None:
    slow = slow_names(PLACES + 1)
    make_slow(nodes, *slow)
    nodes.free.add(slow[0])
    assert nodes.fill(slow[0]) == 1
    assert nodes.ended(1) == [slow[0]]
    assert nodes.fill(*slow[1:]) == PLACES - 1
    assert nodes.fill(slow[0]) == 1
    assert nodes.ended(1) == [slow[0]]
    assert nodes.fill(slow[-1]) == 0
    nodes.now += SLOW_FOR
    assert nodes.fill(slow[-1]) == 1


def test_fill__node_with_many_quick_turns__is_not_slow_but_goes_after_others(nodes: Nodes) -> None:
    for _ in range(20):
        nodes.fill("busy")
        nodes.now += SLOW_SECONDS / 2
        nodes.let("busy")
        nodes._let.clear()
    make_slow(nodes, *slow_names(PLACES - 1))
    assert nodes.fill(*slow_names(PLACES - 1), "busy", "new") == PLACES
    assert nodes.begun[0] == "new"
    assert nodes.begun[1] == "busy"


def test_ended__turns_failed__gives_the_others_first_then_raises_the_worst(nodes: Nodes) -> None:
    def fail(node: Address, _: Callable[[], bool]) -> str:
        raise {"full": DiskFullError("full"), "bug": ZeroDivisionError(), "away": RetryableError("away")}[
            node
        ]

    nodes.free.add("good")
    nodes.fill("good")
    assert nodes.places.fill([Address(name) for name in ("away", "full", "bug")], fail) == 3
    settle(nodes)
    assert nodes.places.ended() == ["good"]
    with pytest.raises(ZeroDivisionError):
        nodes.places.ended()
    assert nodes.places.ended() == []
    assert not nodes.places.is_busy
    nodes.free.update(("full", "bug"))
    assert nodes.fill("full", "bug") == 2
    assert nodes.begun[-2:] == ["bug", "full"]  # others, whose batches may be smaller, go first


def test_close__turns_under_way__are_told_to_end_and_waited_for(nodes: Nodes) -> None:
    nodes.fill(*slow_names(PLACES))
    nodes.places.close()
    assert sorted(nodes.stopped) == slow_names(PLACES)
    assert not nodes.places.is_busy
    assert not any(thread.name == "turns" for thread in threading.enumerate() if thread.is_alive())


def test_close__turn_failed_for_good__says_so(nodes: Nodes) -> None:
    def fail(node: Address, should_stop: Callable[[], bool]) -> str:
        while not should_stop():
            threading.Event().wait(0.005)
        raise ZeroDivisionError

    nodes.places.fill([Address("a")], fail)
    with pytest.raises(ZeroDivisionError):
        nodes.places.close()
    nodes.places.close()


def test_fill__told_to_stop__begins_nothing_and_ends_what_runs(nodes: Nodes) -> None:
    stopping = threading.Event()
    nodes.places.fill([Address("a")], nodes.turn, stopping.is_set)
    stopping.set()
    assert nodes.places.ended(LONG) == []
    assert nodes.stopped == ["a"]
    assert nodes.places.fill([Address("a")], nodes.turn, stopping.is_set) == 0


def settle(nodes: Nodes) -> None:
    """All turns are over; nobody has looked."""
    for turn in nodes.places._running.values():
        turn.future.exception(LONG)
