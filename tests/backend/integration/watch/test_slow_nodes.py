"""Nodes that give batches or data a byte at a time: others are judged meanwhile, and nothing is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from assay.index.places import PLACES
from assay.types import Hash32
from assay.watch.setup import Watch

from tests.support.batch_server import BatchServer, Held, Whole, batch_server, cut_off, silent
from tests.support.watched import Answered, LyingNode, WatchedWorld, add_node

LONG = 60.0
"""Seconds that a test waits for what happens soon, and that a download may be silent."""


@pytest.fixture
def server() -> Iterator[BatchServer]:
    """Of the slow nodes."""
    with batch_server() as server:
        yield server
        for answer in server.answers.values():
            if isinstance(answer, Held):
                answer.let.set()


@pytest.fixture
def slow(world: WatchedWorld, server: BatchServer) -> list[LyingNode]:
    """As many as there are places."""
    return [add_node(world, world.accounts[number], server) for number in (3, 4, 6, 7)][:PLACES]


@pytest.fixture
def short_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assay.index.places.SLOW_SECONDS", 0.3)
    monkeypatch.setattr("assay.index.places.STEP_SECONDS", 0.3 - LONG)  # put off as soon as they are slow


def hold(node: LyingNode, path: str) -> Held:
    """What is served there comes a byte at a time from now on."""
    held = node.server.answers[path] = Held(body_at(node, path))
    return held


def body_at(node: LyingNode, path: str) -> bytes:
    served = node.server.answers[path]
    assert isinstance(served, Whole)
    return served.body


def post_held(node: LyingNode) -> tuple[Hash32, Held]:
    identifier = node.post([node.answer() for _ in range(3)])
    return identifier, hold(node, f"/v1/batches/0x{identifier.hex()}")


@contextmanager
def running(watch: Watch) -> Iterator[None]:
    failures: list[BaseException] = []

    def run() -> None:
        try:
            watch.run()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        watch.stop()
        thread.join(LONG)
    assert not thread.is_alive()
    assert failures == []


def await_that(is_so: Callable[[], bool]) -> None:
    waiting = threading.Event()
    for _ in range(int(LONG / 0.05)):
        if is_so():
            return
        waiting.wait(0.05)
    raise AssertionError("it does not come about")


def verdict(watch: Watch, answer: Answered) -> list[str]:
    return [
        row[0] for row in watch.store.rows("SELECT verdict FROM receipts WHERE digest = ?", (answer.digest,))
    ]


def states(watch: Watch) -> list[tuple[str, int]]:
    rows = watch.store.rows("SELECT state, receipts FROM batches ORDER BY block")
    return [(str(state), int(count)) for state, count in rows]


def test_watch__fewer_slow_batches_than_places__others_are_judged_and_disputed_meanwhile(
    world: WatchedWorld, folder: Path, slow: list[LyingNode]
) -> None:
    held = [post_held(node)[1] for node in slow[: PLACES - 1]]
    with world.watch(folder, world.watcher_key(), timeout=LONG) as watch, running(watch):
        for one in held:
            assert one.asked.wait(LONG)
        for _ in range(2):
            wrong = world.node.answer(changes={3: 1})
            world.node.post([wrong])
            await_that(lambda: any(r.opened.digest == wrong.digest for r in world.disputes().values()))  # noqa: B023
        assert states(watch)[: len(held)] == [("unchecked", 0)] * len(held)
        for one in held:
            one.let.set()
        await_that(lambda: states(watch)[: len(held)] == [("available", 3)] * len(held))


def test_watch__every_place_slow__one_is_put_off_and_had_whole_later(
    world: WatchedWorld, folder: Path, slow: list[LyingNode], short_turns: None
) -> None:
    held = [post_held(node)[1] for node in slow]
    with world.watch(folder, world.watcher_key(), timeout=LONG) as watch, running(watch):
        for one in held:
            assert one.asked.wait(LONG)
        wrong = world.node.answer(changes={3: 1})
        world.node.post([wrong])
        await_that(lambda: verdict(watch, wrong) == ["wrong"])
        assert states(watch)[:PLACES] == [("unchecked", 0)] * PLACES
        for one in held:
            one.let.set()
        await_that(lambda: states(watch) == [("available", 3)] * PLACES + [("available", 1)])
        asked = world_asked(slow)
        assert len(asked) > len(set(asked)) == PLACES
        assert watch.store.rows("SELECT max(attempts) FROM batches") == [(1,)]  # put off, blamed for nothing
        assert watch.store.rows("SELECT count(*) FROM receipts") == [(3 * PLACES + 1,)]


def world_asked(slow: list[LyingNode]) -> list[str]:
    return [path for path in slow[0].server.asked if path.startswith("/v1/batches/")]


def test_watch__slow_data_of_every_node_but_one__that_one_is_judged_meanwhile(
    world: WatchedWorld, folder: Path, slow: list[LyingNode], short_turns: None
) -> None:
    held = []
    for node in slow:
        answers = [node.answer() for _ in range(3)]
        node.post(answers)
        held += [hold(node, f"/v1/receipts/0x{answer.digest.hex()}/data") for answer in answers]
    with world.watch(folder, None, timeout=LONG) as watch, running(watch):
        await_that(lambda: sum(one.asked.is_set() for one in held) >= PLACES)
        for changes in ({}, {3: 1}):
            answer = world.node.answer(changes=changes)
            world.node.post([answer])
            await_that(lambda: verdict(watch, answer) == ["wrong" if changes else "right"])  # noqa: B023
        assert watch.store.rows("SELECT count(*) FROM receipts WHERE verdict != 'unchecked'") == [(2,)]
        for one in held:
            one.let.set()
        await_that(lambda: watch.parts.examiner.tally.right == 3 * PLACES + 1)
        assert watch.parts.examiner.tally.withheld == 0


def test_watch__no_time_for_more_than_one_receipt_in_a_turn__the_rest_is_asked_for_again(
    world: WatchedWorld, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [world.node.answer() for _ in range(3)]
    world.node.post(answers)
    judged, before = list[Hash32](), len(world.node.server.asked)
    with world.watch(folder, None) as watch:
        examiner = watch.parts.examiner
        judge, ask = examiner._judge, examiner._ask

        def judge_slowly(seen: Any, body: Any) -> Any:
            judged.append(seen.digest)
            patched.setattr("assay.watch.examiner.STEP_SECONDS", 0.0)
            return judge(seen, body)

        def ask_for_all(*given: Any) -> Any:
            patched.setattr("assay.watch.examiner.STEP_SECONDS", LONG)
            return ask(*given)

        with monkeypatch.context() as patched:
            patched.setattr(examiner, "_judge", judge_slowly)
            patched.setattr(examiner, "_ask", ask_for_all)
            watch.run(once=True)
        assert watch.parts.examiner.tally.right == 3
    assert len(judged) == 3  # each once, though the first turn gave all three
    asked = [path for path in world.node.server.asked[before:] if path.endswith("/data")]
    assert len(asked) == 3 + 2 + 1


def test_watch__batch_dripped_below_the_pace__is_withheld_in_its_time(
    world: WatchedWorld, folder: Path, slow: list[LyingNode]
) -> None:
    held = [post_held(node)[1] for node in slow]
    with world.watch(folder, None, timeout=0.5) as watch:
        watch.run(once=True)
        assert states(watch) == [("unavailable", 0)] * PLACES
        for (reason,) in watch.store.rows("SELECT reason FROM batches"):
            assert "took longer than 0.5 s and one for each 1048576 bytes" in reason
        for one in held:
            one.let.set()


def test_stop__downloads_under_way__all_end_soon_and_are_begun_anew(
    world: WatchedWorld, folder: Path, slow: list[LyingNode]
) -> None:
    dumb = threading.Event()
    held = [post_held(node)[1] for node in slow[:-2]]
    hidden = slow[-2].post([slow[-2].answer()], serve=False)
    slow[-2].server.answers[f"/v1/batches/0x{hidden.hex()}"] = silent(dumb)
    asking = slow[-1].answer()
    slow[-1].post([asking])
    data = hold(slow[-1], f"/v1/receipts/0x{asking.digest.hex()}/data")
    with world.watch(folder, None, timeout=10 * LONG) as watch:
        with running(watch):
            for one in (*held, data):
                assert one.asked.wait(LONG)
            await_that(lambda: f"/v1/batches/0x{hidden.hex()}" in slow[-2].server.asked)
        alive = {thread.name for thread in threading.enumerate()}
        assert alive.isdisjoint({"collector", "examiner", "batches", "data"})
        assert [state for state, _ in states(watch)].count("unchecked") == PLACES - 1
        assert watch.store.rows("SELECT sum(attempts) FROM batches WHERE state = 'unchecked'") == [(0,)]
        assert watch.store.rows("SELECT data, attempts FROM receipts") == [("unasked", 0)]
    assert {path.name for path in folder.iterdir()} <= {"watch.sqlite3", "outbox.sqlite3"}
    dumb.set()
    for one in (*held, data):
        one.let.set()
    with world.watch(folder, None) as watch:
        watch.run(once=True)
        assert [count for state, count in states(watch) if state == "available"] == [3] * len(held) + [1]
        assert watch.parts.examiner.tally.right == 3 * len(held) + 1


def test_watch__batch_cut_off_half_way__is_begun_anew(world: WatchedWorld, folder: Path) -> None:
    answers = [world.node.answer() for _ in range(3)]
    identifier = world.node.post(answers)
    path = f"/v1/batches/0x{identifier.hex()}"
    whole = world.node.server.answers[path]
    world.node.server.answers[path] = cut_off(body_at(world.node, path))
    with world.watch(folder, None) as watch:
        watch.run(once=True)
        assert states(watch) == [("unavailable", 0)]
        assert watch.store.rows("SELECT count(*) FROM receipts") == [(0,)]
        world.node.server.answers[path] = whole
        with watch.store.transaction() as db:
            db.execute("UPDATE batches SET next_at = 0")
        watch.run(once=True)
        assert states(watch) == [("available", 3)]


def test_collector__large_batches__are_judged_one_at_a_time_and_small_ones_meanwhile(
    world: WatchedWorld, folder: Path, slow: list[LyingNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    posted = [node.post([node.answer() for _ in range(3)]) for node in slow[:2]]
    small = slow[2].post([slow[2].answer()])
    size = len(body_at(slow[2], f"/v1/batches/0x{small.hex()}"))
    monkeypatch.setattr("assay.watch.collector.LARGE", size)
    let, judging = threading.Event(), list[Hash32]()

    with world.watch(folder, None) as watch:
        collector = watch.parts.collector
        judge = collector._judge

        def judge_slowly(batch: Any, *given: Any) -> Any:
            judging.append(batch.batch_id)
            if batch.batch_id != small:
                assert let.wait(LONG)
            return judge(batch, *given)

        monkeypatch.setattr(collector, "_judge", judge_slowly)
        with running(watch):
            await_that(lambda: ("available", 1) in states(watch))
            await_that(lambda: all(f"/v1/batches/0x{one.hex()}" in slow[0].server.asked for one in posted))
            assert len(set(judging) & set(posted)) == 1
            let.set()
            await_that(lambda: states(watch) == [("available", 3), ("available", 3), ("available", 1)])
