"""Who makes room in memory: the least recently used, never what is busy or came only just now."""

from __future__ import annotations

import pytest
from assay.node.models.memory import MemoryBudget, Resident, machine_bytes
from assay.types import Hash32
from hypothesis import given
from hypothesis import strategies as st

MIB = 1 << 20
BUDGET = MemoryBudget(100 * MIB, min_resident_seconds=30)
NOW = 1000.0


def key(number: int) -> Hash32:
    return Hash32(number.to_bytes(32, "big"))


def resident(number: int, size: int = 40, **changes: float) -> Resident:
    """`size` in MiB; loaded long ago, used at the second of its number."""
    fields = {"used_at": float(number), "loaded_at": 0.0} | changes
    return Resident(key(number), size * MIB, **fields)  # type: ignore[arg-type]


def test_make_room__fits__unloads_nothing() -> None:
    assert BUDGET.make_room(20 * MIB, [resident(1), resident(2)], NOW, may_unload=False).unload == ()


def test_make_room__does_not_fit__unloads_the_least_recently_used() -> None:
    room = BUDGET.make_room(60 * MIB, [resident(2), resident(3), resident(1, 20)], NOW, may_unload=True)
    assert (room.unload, room.problem) == ((key(1), key(2)), "")


def test_make_room__more_than_the_budget__never_will() -> None:
    room = BUDGET.make_room(101 * MIB, [], NOW, may_unload=True)
    assert (room.problem, room.retry_after) == ("it takes 101 MiB, the budget of all is 100 MiB", 0)


def test_make_room__may_unload_nothing__waits() -> None:
    room = BUDGET.make_room(60 * MIB, [resident(1), resident(2)], NOW, may_unload=False)
    assert (room.unload, room.retry_after) == ((), 1.0)


def test_make_room__others_came_only_just_now__waits_until_they_may_go() -> None:
    others = [resident(1, loaded_at=NOW - 10), resident(2, loaded_at=NOW - 25)]
    room = BUDGET.make_room(60 * MIB, others, NOW, may_unload=True)
    assert (room.unload, room.retry_after) == ((), 5.0)
    forced = BUDGET.make_room(60 * MIB, others, NOW, may_unload=True, force=True)
    assert forced.unload == (key(1),)


def test_make_room__others_are_busy__waits_even_for_the_operator() -> None:
    others = [resident(1, busy=True), resident(2, busy=True)]
    assert BUDGET.make_room(60 * MIB, others, NOW, may_unload=True, force=True).retry_after >= 1


@given(
    st.lists(st.tuples(st.integers(0, 60), st.floats(0, 1000), st.booleans()), max_size=8),
    st.integers(0, 120),
)
def test_make_room__any_residents__keeps_to_the_budget_and_touches_nothing_busy(
    rows: list[tuple[int, float, bool]], needed: int
) -> None:
    residents = [
        Resident(key(number), size * MIB, used_at, 0.0, busy=busy)
        for number, (size, used_at, busy) in enumerate(rows)
    ]
    room = BUDGET.make_room(needed * MIB, residents, NOW, may_unload=True)
    gone = [one for one in residents if one.version_id in room.unload]
    if room.problem:
        assert not gone
        return
    left = sum(one.size for one in residents) - sum(one.size for one in gone)
    assert left + needed * MIB <= BUDGET.size
    assert not any(one.busy for one in gone)
    kept = [one for one in residents if one not in gone and one.size and not one.busy]
    assert all(one.used_at <= other.used_at for one in gone for other in kept)


def test_machine_bytes__this_machine__has_some() -> None:
    assert machine_bytes() > 64 * MIB


@pytest.mark.parametrize("size", [0, 1])
def test_make_room__nothing_needed__always_fits(size: int) -> None:
    assert MemoryBudget(size).make_room(0, [], NOW, may_unload=False).problem == ""
