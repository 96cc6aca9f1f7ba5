"""A bounded queue with equal shares."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from assay.node.engines.fair_queue import Entry, FairQueue
from hypothesis import given
from hypothesis import strategies as st

Item = tuple[str, int]


def queue_of(max_items: int = 1000, max_bytes: int = 1 << 30) -> FairQueue[Item]:
    return FairQueue(max_items, max_bytes)


def entry(consumer: str, number: int = 0, rows: int = 1, size: int = 1, key: object = "k") -> Entry[Item]:
    return Entry((consumer, number), consumer, rows, size, key)


def pop_all(queue: FairQueue[Item], max_rows: int = 8) -> list[list[Item]]:
    batches = []
    while batch := queue.pop_batch(max_rows, 1 << 30):
        batches.append([one.item for one in batch])
    return batches


def test_pop_batch__empty__gives_nothing() -> None:
    assert queue_of().pop_batch(8, 100) == []


def test_pop_batch__newcomer_beside_a_flood__is_in_the_next_batch() -> None:
    queue = queue_of()
    for i in range(100):
        assert queue.push(entry("flood", i))
    queue.pop_batch(8, 100)
    queue.push(entry("newcomer"))
    batch = [one.consumer for one in queue.pop_batch(8, 100)]
    assert "newcomer" in batch
    assert len(batch) == 8


def test_pop_batch__two_consumers_with_rows_of_unequal_size__give_both_as_many_rows() -> None:
    queue = queue_of()
    for i in range(60):
        queue.push(entry("large", i, rows=4))
        queue.push(entry("small", i, rows=1))
    served: Counter[object] = Counter()
    while queue.waiting("small"):
        for one in queue.pop_batch(8, 1000):
            served[one.consumer] += one.rows
    assert abs(served["large"] - served["small"]) <= 8 + 4


def test_pop_batch__unequal_keys__are_never_together_and_none_starves() -> None:
    queue = queue_of()
    for i in range(40):
        queue.push(entry("a", i, key="wide"))
        queue.push(entry("b", i, key=("narrow", i)))
    batches = pop_all(queue)
    assert all(len({consumer for consumer, _ in batch}) == 1 for batch in batches)
    first_half = [consumer for batch in batches[: len(batches) // 2] for consumer, _ in batch]
    assert {"a", "b"} <= set(first_half)


def test_pop_batch__larger_than_a_batch__runs_alone() -> None:
    queue = queue_of()
    queue.push(entry("a", 0, rows=100))
    queue.push(entry("a", 1))
    assert pop_all(queue) == [[("a", 0)], [("a", 1)]]


def test_pop_batch__bytes_are_full__stops() -> None:
    queue = queue_of()
    for i in range(4):
        queue.push(entry("a", i, size=40))
    assert len(queue.pop_batch(8, 100)) == 2


def test_pop_batch__dropped_ones__take_no_room() -> None:
    queue = queue_of()
    for i in range(20):
        queue.push(entry("a", i))
    batch = queue.pop_batch(8, 100, lambda item: item[1] < 12)
    assert [one.item[1] for one in batch] == list(range(12, 20))
    assert not len(queue)


def test_push__one_consumer__fills_half_and_leaves_the_rest_to_others() -> None:
    queue = queue_of(max_items=100)
    taken = sum(queue.push(entry("flood", i)) for i in range(200))
    assert taken == 50
    assert queue.push(entry("newcomer"))
    assert sum(queue.push(entry("second", i)) for i in range(200)) >= 24


def test_push__bytes__are_shared_in_the_same_way() -> None:
    queue = queue_of(max_bytes=1000)
    assert sum(queue.push(entry("flood", i, size=10)) for i in range(200)) == 50
    assert queue.push(entry("newcomer", size=10))
    assert not queue.push(entry("other", size=600))


def test_push__larger_than_the_queue__is_taken_when_nothing_waits() -> None:
    queue = queue_of(max_bytes=100)
    assert queue.push(entry("a", size=1000))
    assert not queue.push(entry("b", size=10))
    queue.pop_batch(8, 100)
    assert queue.push(entry("b", size=10))


steps = st.lists(
    st.one_of(
        st.tuples(st.sampled_from("abcde"), st.integers(1, 6), st.integers(0, 50), st.integers(0, 2)),
        st.integers(1, 12),
    ),
    max_size=120,
)


@given(steps, st.integers(2, 40), st.integers(20, 400))
def test_fair_queue__any_pushes_and_pops__keeps_bounds_and_loses_nothing(
    work: list[tuple[str, int, int, int] | int], max_items: int, max_bytes: int
) -> None:
    queue = FairQueue[Item](max_items, max_bytes)
    waiting: dict[Item, Entry[Item]] = {}
    last: dict[tuple[str, object], int] = {}
    for number, step in enumerate(work):
        if isinstance(step, int):
            batch = queue.pop_batch(step, 100)
            assert bool(batch) == bool(waiting)
            assert len({one.key for one in batch}) <= 1
            assert len(batch) < 2 or sum(one.rows for one in batch) <= step
            assert len(batch) < 2 or sum(one.size for one in batch) <= 100
            for one in batch:
                assert waiting.pop(one.item) is one
                line = (str(one.consumer), one.key)  # a consumer's own requests stay in order
                assert last.get(line, -1) < one.item[1]
                last[line] = one.item[1]
        else:
            consumer, rows, size, key = step
            made = entry(consumer, number, rows, size, key)
            was_empty = not waiting
            if queue.push(made):
                waiting[made.item] = made
            else:
                assert not was_empty
        assert len(queue) == len(waiting) <= max_items
        assert queue.rows == sum(one.rows for one in waiting.values())
        assert queue.bytes == sum(one.size for one in waiting.values())
        for name in "abcde":
            assert queue.waiting(name) == sum(one.consumer == name for one in waiting.values())
    while batch := queue.pop_batch(4, 100):
        for one in batch:
            del waiting[one.item]
    assert not waiting
    assert not len(queue)


@given(st.lists(st.integers(1, 8), min_size=2, max_size=6), st.integers(1, 16), st.integers(0, 1000))
def test_fair_queue__all_wait_all_the_time__get_equal_rows(
    rows_of: list[int], max_rows: int, seed: int
) -> None:
    """Start-time fair queueing: two that wait all the time differ by a request of each at most, and here by
    the batch that is being made."""
    queue = queue_of(100_000)
    for i in range(60):
        for consumer, rows in enumerate(rows_of):
            queue.push(entry(str(consumer), i, rows))
    served: Counter[object] = Counter()
    for _ in range(20 + seed % 10):
        if any(not queue.waiting(str(consumer)) for consumer in range(len(rows_of))):
            break
        for one in queue.pop_batch(max_rows, 1 << 30):
            served[one.consumer] += one.rows
        if any(not queue.waiting(str(consumer)) for consumer in range(len(rows_of))):
            break  # the batch had room when somebody had nothing left
        assert max(served.values()) - min(served[str(i)] for i in range(len(rows_of))) <= 2 * max(rows_of)


@given(steps, st.integers(1, 12), st.integers(0, 2), st.randoms(use_true_random=False))
def test_fair_queue__one_waits_while_others_flood__is_served_before_anybody_has_much_more(
    work: list[tuple[str, int, int, int] | int], rows: int, key: int, random: Random
) -> None:
    """Whatever came before: until it runs, nobody else gets more than the rows that its consumer has waiting,
    its own included, and once more a batch and a request."""
    queue = queue_of(100_000)
    for number, step in enumerate(work):
        if isinstance(step, int):
            queue.pop_batch(step, 1 << 30)
        else:
            consumer, some, size, its_key = step
            queue.push(entry(consumer, number, some, size, its_key))
    before = queue._held["a"].rows if queue.waiting("a") else 0
    queue.push(entry("a", -1, rows, key=key))
    served: Counter[object] = Counter()
    for number in range(5_000):
        for name in "bcde":
            queue.push(entry(name, 1000 + number, random.randint(1, 6), 1, random.randint(0, 2)))
        batch = queue.pop_batch(8, 1 << 30)
        if any(one.item == ("a", -1) for one in batch):
            break
        for one in batch:
            served[one.consumer] += one.rows
    else:
        raise AssertionError("it never ran")
    del served["a"]
    assert max(served.values(), default=0) <= 2 * (before + rows) + 8 + 2 * 6


def test_push__more_rows_than_run_in_time__refuses_who_waits_already_before_who_does_not() -> None:
    queue = queue_of()
    queue.max_rows = 40
    assert sum(queue.push(entry("flood", i)) for i in range(200)) == 40
    assert sum(queue.push(entry("second", i)) for i in range(200)) == 20  # as many of each in 40 rows
    assert not queue.push(entry("flood", 200))
    assert queue.push(entry("newcomer"))
    assert not queue.push(entry("another", rows=20))  # 80 in all
    queue.pop_batch(70, 1 << 30)
    assert queue.push(entry("flood", 201))


@pytest.mark.parametrize("consumers", [1, 4, 1000])
def test_forget__many_consumers_come_and_go__holds_a_bounded_number(consumers: int) -> None:
    queue = queue_of()
    queue.push(entry("stays", 0))
    for i in range(3000):
        queue.push(entry(str(i % consumers), i))
        queue.push(entry("stays", i))
        queue.pop_batch(2, 100)
    assert len(queue._held) < 64 + 3 * len(queue) + 3
