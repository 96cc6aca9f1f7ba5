"""Nodes that withhold, lie about batches or send garbage; reorgs, restarts; batches from an index."""

from __future__ import annotations

import errno
import json
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, BinaryIO

import pytest
from assay.chain.sender import Sender
from assay.commitments.signing import SigningKey
from assay.disk import DiskFullError
from assay.errors import ConfigurationError
from assay.watch.setup import Watch
from assay.watch.store import Store
from assay.watch.summary import is_withholding
from structlog.testing import capture_logs

from tests.support.batch_server import Answer, batch_server, body_of, dripping, flooding, redirecting
from tests.support.full_disk import FullDisk
from tests.support.watched import SLASH, WatchedWorld


class Killed(BaseException):
    """What a `kill -9` looks like from inside."""


def test_watch__public_data_withheld__is_shown_and_disputed_once_given(
    world: WatchedWorld, folder: Path
) -> None:
    wrong = world.node.answer(changes={3: 1})
    world.node.post([wrong, world.node.answer(public=False)], serve_data=False)
    with world.watch(folder, world.watcher_key()) as watch:
        watch.run(once=True)
        (node,) = watch.summary().nodes
        assert node.data == {"withheld": 1}
        assert is_withholding(node)
        assert world.disputes() == {}
        world.node.serve_data(wrong)
        ask_again(watch)
        (node,) = watch.summary().nodes
    assert node.data == {"available": 1}
    assert not is_withholding(node)
    assert len(world.disputes()) == 1


def test_watch__data_of_another_input__is_inconsistent_and_proves_nothing(
    world: WatchedWorld, folder: Path
) -> None:
    answer, other = world.node.answer(), world.node.answer()
    world.node.post([answer])
    world.node.serve_data(answer, json.dumps(other.data.to_json()).encode())
    with world.watch(folder, world.watcher_key()) as watch:
        watch.run(once=True)
        (node,) = watch.summary().nodes
    assert node.data == {"inconsistent": 1}
    assert node.verdicts == {"unchecked": 1}
    assert is_withholding(node)
    assert world.disputes() == {}


def test_watch__batch_withheld__is_shown_and_taken_once_given(world: WatchedWorld, folder: Path) -> None:
    wrong = world.node.answer(changes={3: 1})
    identifier = world.node.post([wrong], serve=False)
    with world.watch(folder, world.watcher_key()) as watch:
        watch.run(once=True)
        (node,) = watch.summary().nodes
        assert node.batches == {"unavailable": 1}
        assert is_withholding(node)
        world.node.publish(identifier, [wrong])
        ask_again(watch)
    assert len(world.disputes()) == 1


def test_watch__disk_is_full__is_told_as_such_and_nobody_is_blamed(
    world: WatchedWorld, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.node.post([world.node.answer(changes={3: 1})])
    with world.watch(folder, world.watcher_key()) as watch:
        with monkeypatch.context() as patched:
            patched.setattr(tempfile, "TemporaryFile", lambda **_: open("/dev/full", "w+b"))  # noqa: PTH123, SIM115
            with pytest.raises(DiskFullError, match=f"no room in {re.escape(str(folder))}: "):
                watch.run(once=True)
        (node,) = watch.summary().nodes
        assert (node.batches, is_withholding(node)) == ({"unchecked": 1}, False)
        with monkeypatch.context() as patched:
            patched.setattr(tempfile, "mkstemp", lambda **_: (os.open("/dev/full", os.O_WRONLY), "none"))
            with pytest.raises(DiskFullError, match=r"no room in .*evidence"):
                watch.run(once=True)
        (node,) = watch.summary().nodes
        assert node.verdicts == {"unchecked": 1} and node.data == {"unasked": 1}
        watch.run(once=True)
    assert len(world.disputes()) == 1


def test_watch__disk_of_its_store_is_full__waits_blames_nobody_and_goes_on(
    world: WatchedWorld, folder: Path
) -> None:
    world.node.post([world.node.answer(changes={3: 1}), world.node.answer()])
    with world.watch(folder, world.watcher_key()) as watch, capture_logs() as lines:
        disk = watch.store._db = FullDisk(watch.store._db)  # type: ignore[assignment]
        disk.is_full = True
        with pytest.raises(DiskFullError, match=f"no room in {re.escape(str(folder))}: .*; free some"):
            watch.run(once=True)
        assert watch.summary().nodes == ()
        disk.is_full = False
        watch.catch_up()
        disk.is_full = True
        thread = threading.Thread(target=watch.run)
        thread.start()
        try:
            wait_until(lambda: told(lines, "batches"))
            (node,) = watch.summary().nodes
            assert (node.batches, is_withholding(node)) == ({"unchecked": 1}, False)
            disk.is_full = False
            wait_until(lambda: len(world.disputes()) == 1)
        finally:
            watch.stop()
            thread.join(30)
        (node,) = watch.summary().nodes
    assert (node.batches, node.verdicts) == ({"available": 1}, {"right": 1, "wrong": 1})
    assert not is_withholding(node)


def test_watch__disk_of_its_outbox_is_full__sends_nothing_until_there_is_room(
    world: WatchedWorld, folder: Path
) -> None:
    world.node.post([world.node.answer(changes={3: 1})])
    with world.watch(folder, world.watcher_key()) as watch:
        disk = watch.outbox._db = FullDisk(watch.outbox._db)  # type: ignore[assignment, arg-type]
        disk.is_full = True
        watch.run(once=True)
        assert disk.refused
        assert world.disputes() == {}
        assert watch.summary().challenges == {"due": 1}
        (reason,) = watch.store.rows("SELECT reason FROM challenges")
        assert reason[0].startswith(f"no room in {folder}: ")
        disk.is_full = False
        watch.store._write("UPDATE challenges SET next_at = ?", (0.0,))
        watch.run(once=True)
        world.play_to_end(lambda: watch.run(once=True))
        assert watch.summary().money.won == 1
    assert len(world.disputes()) == 1


def told(lines: list[Any], loop: str) -> bool:
    return any(
        line["event"] == "retrying" and line["loop"] == loop and "free some" in line["error"]
        for line in list(lines)
    )


def wait_until(is_so: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_watch__no_room_for_the_artifact__is_asked_for_again(
    world: WatchedWorld, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.node.post([world.node.answer(changes={3: 1})])
    with world.watch(folder, world.watcher_key()) as watch:
        with monkeypatch.context() as patched:
            patched.setattr("assay.hub.client.check_room", no_room)
            watch.run(once=True)
        (node,) = watch.summary().nodes
        assert node.verdicts == {"unchecked": 1} and node.data == {"unasked": 1}
        assert not is_withholding(node)


def no_room(_: BinaryIO) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_watch__batch_with_another_receipt_added__is_inconsistent_but_its_signatures_count(
    world: WatchedWorld, folder: Path
) -> None:
    wrong, added = world.node.answer(changes={3: 1}), world.node.answer()
    identifier = world.node.post([wrong], serve=False)
    world.node.publish(identifier, [wrong, added])
    with world.watch(folder, world.watcher_key()) as watch:
        watch.run(once=True)
        (node,) = watch.summary().nodes
    assert node.batches == {"inconsistent": 1}
    (record,) = world.disputes().values()
    assert record.opened.digest == wrong.digest
    assert record.opened.batch_id == bytes(32)  # its leaf is not known, so it is disputed as in no batch


def test_watch__strangers_signatures_in_crowds__do_not_hide_the_nodes_own(
    world: WatchedWorld, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many sign before it, more often, and also once the node has another key."""
    monkeypatch.setattr("assay.watch.published.MAX_SIGNERS", 2)
    for module in ("index.batch_file", "index.verify", "watch.published"):
        monkeypatch.setattr(f"assay.{module}.UNLISTED", 3)
    crowd = []
    for number in range(4):
        stranger = SigningKey.generate()
        for _ in range(2):
            found = world.node.answer()
            signed = replace(found.signed, signature=stranger.sign(found.digest))
            crowd.append(replace(found, signed=signed, public=number > 1))
    wrong = world.node.answer(changes={3: 1})
    identifier = world.node.post([*crowd, wrong])
    world.chain.mine(interval=2)
    rotation = world.contracts.nodes.rotate_signer(SigningKey.generate().address)
    world.send(world.node.operator, rotation)
    with world.watch(folder, world.watcher_key()) as watch:
        watch.run(once=True)
    (record,) = world.disputes().values()
    assert (record.opened.digest, record.opened.batch_id) == (wrong.digest, identifier)


def test_watch__leaf_posted_again_in_another_batch__does_not_shield_its_neighbours(
    world: WatchedWorld, folder: Path
) -> None:
    good, wrong = world.node.answer(), world.node.answer(changes={3: 1})
    identifier = world.node.post([good, wrong])
    world.node.post([good])
    with world.watch(folder, world.watcher_key()) as watch:
        watch.run(once=True)
    (record,) = world.disputes().values()
    assert (record.opened.digest, record.opened.batch_id) == (wrong.digest, identifier)


def test_watch__cut_off_halfway_through_a_batch__keeps_each_receipt_once(
    world: WatchedWorld, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("assay.watch.collector.AT_ONCE", 2)
    world.node.post([world.node.answer() for _ in range(4)] + [world.node.answer(changes={3: 1})])
    add, written = Store.add_receipts, []

    def add_and_die(store: Store, *given: Any) -> None:
        add(store, *given)
        written.append(given)
        if len(written) == 2:
            raise Killed

    with monkeypatch.context() as patched, world.watch(folder, None) as watch:
        patched.setattr(Store, "add_receipts", add_and_die)
        with pytest.raises(Killed):
            watch.run(once=True)
        assert watch.store.rows("SELECT state FROM batches") == [("unchecked",)]
        assert watch.store.rows("SELECT count(*) FROM receipts") == [(4,)]
    with world.watch(folder, world.watcher_key()) as watch:
        watch.run(once=True)
        rows = watch.store.rows("SELECT position, count(*) FROM receipts GROUP BY position ORDER BY position")
        assert rows == [(position, 1) for position in range(5)]
        assert watch.store.rows("SELECT state, receipts FROM batches") == [("available", 5)]
    assert len(world.disputes()) == 1


GARBAGE: dict[str, Answer] = {
    "empty": body_of(b""),
    "binary": body_of(bytes(range(256)) * 40),
    "not utf-8": body_of(b'{"inputs": "\xff\xfe"}'),
    "deep": body_of(b"[" * 100_000),
    "list": body_of(b"[1, 2]"),
    "nulls": body_of(b'{"inputs": null, "outputs": null}'),
    "no shape": body_of(b'{"inputs": [{"name": "x", "datatype": "UINT8", "data": ""}], "outputs": []}'),
    "bytes field": body_of(
        b'{"inputs": [{"name": "x", "datatype": "UINT8", "shape": [1], "bytes": "a"}], "outputs": []}'
    ),
    "strings": body_of(
        b'{"inputs": [{"name": "x", "datatype": "BYTES", "shape": [9], "data": "00"}], "outputs": []}'
    ),
    "huge dims": body_of(
        b'{"inputs": [{"name": "x", "datatype": "FP64", "shape": [4294967295, 4294967295], "data": ""}],'
        b' "outputs": []}'
    ),
    "nan": body_of(b'{"inputs": [{"name": "x", "datatype": "UINT8", "shape": [NaN], "data": ""}]}'),
    "error": body_of(b"gone", 500),
    "redirect": redirecting("http://127.0.0.1:1/"),
    "endless": dripping(60),
    "flood": flooding(8 << 20),
}


@pytest.mark.parametrize("name", GARBAGE)
def test_watch__garbage_as_data_and_as_batch__never_ends_it(
    world: WatchedWorld, folder: Path, name: str
) -> None:
    answer = world.node.answer()
    world.node.post([answer])
    hidden = world.node.post([world.node.answer()], serve=False)
    world.node.server.answers[f"/v1/receipts/0x{answer.digest.hex()}/data"] = GARBAGE[name]
    world.node.server.answers[f"/v1/batches/0x{hidden.hex()}"] = GARBAGE[name]
    limits = {"timeout": 0.5, "max_bytes": 1 << 20}
    with world.watch(folder, None, **limits) as watch:
        watch.run(once=True)
        (node,) = watch.summary().nodes
    assert node.batches.get("available") == 1
    assert node.batches.get("unavailable", 0) + node.batches.get("inconsistent", 0) == 1
    assert node.verdicts == {"unchecked": 1}


def test_watch__receipts_that_are_garbage__leave_the_good_ones(world: WatchedWorld, folder: Path) -> None:
    wrong = world.node.answer(changes={3: 1})
    identifier = world.node.post([wrong], serve=False)
    lines = [b"{}", b"null", b'{"node": 1}', b"x" * 5_000, json.dumps(world.node.line(wrong)).encode()]
    forged = world.node.line(wrong) | {"signature": "0x" + "11" * 65}
    world.node.server.publish(
        "0x" + identifier.hex(), b"\n".join([*lines, json.dumps(forged).encode()]) + b"\n"
    )
    with world.watch(folder, world.watcher_key()) as watch:
        watch.run(once=True)
    assert [r.opened.digest for r in world.disputes().values()] == [wrong.digest]


def test_watch__cut_off_after_every_step__opens_once_plays_each_move_once_and_wins(
    world: WatchedWorld, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each run is ended as by `kill -9` at the sender's next step, and started again from its files."""
    world.node.post([world.node.answer(changes={3: 1})])
    key = world.watcher_key()
    cuts: list[str] = []
    random = Random(1)
    original = Sender._step

    def run_cut_off() -> None:
        left = [random.randrange(5)]

        def step(self: Sender, name: str, intent: Any) -> None:
            original(self, name, intent)
            if self.address == key.address:
                if left[0] == 0:
                    cuts.append(name)
                    raise Killed
                left[0] -= 1

        monkeypatch.setattr(Sender, "_step", step)
        try:
            with world.watch(folder, key) as watch:
                watch.run(once=True)
        except Killed:
            pass

    world.play_to_end(run_cut_off, rounds=120)
    assert {"prepared", "persisted", "broadcast"} <= set(cuts)
    (record,) = world.disputes().values()
    assert record.closing is not None
    assert not record.closing.node_won
    monkeypatch.setattr(Sender, "_step", original)
    with world.watch(folder, key) as watch:
        watch.run(once=True)
        money = watch.summary().money
    own = {move.transaction_hash for move in record.moves if move.phase.name.startswith("SELECT")}
    assert money.transactions == 1 + 1 + len(own) + 1  # approval, opening, selections, time-out
    assert (money.disputes, money.won, money.slash_share) == (1, 1, SLASH // 2)


def test_watch__reorg_that_drops_the_opening__opens_it_again_once(world: WatchedWorld, folder: Path) -> None:
    wrong = world.node.answer(changes={3: 1})
    world.node.post([wrong])
    world.chain.mine(3)
    with world.watch(folder, world.watcher_key()) as watch:
        watch.run(once=True)
        assert len(world.disputes()) == 1
        world.chain.reorg(1)
        assert world.disputes() == {}
        for _ in range(3):
            watch.run(once=True)
        assert len(world.disputes()) == 1
        world.play_to_end(lambda: watch.run(once=True))
        assert watch.summary().money.won == 1


def test_watch__reorg_that_drops_everything_it_knows__starts_over(world: WatchedWorld, folder: Path) -> None:
    world.node.post([world.node.answer(changes={3: 1})])
    with world.watch(folder, None) as watch:
        watch.run(once=True)
        assert watch.summary().challenges == {"due": 1}
        watch.store.advance((10**9, watch.contracts.client.get_block().hash), [], [])
        watch.store.rewind(0)
        watch.run(once=True)
        (node,) = watch.summary().nodes
    assert node.batches == {"available": 1}
    assert node.verdicts == {"wrong": 1}


def test_watch__batches_from_an_index__are_the_chains(world: WatchedWorld, folder: Path) -> None:
    wrong = world.node.answer(changes={3: 1})
    identifier = world.node.post([wrong])
    receipt = wrong.signed.receipt
    items = [
        {
            "batch_id": "0x" + identifier.hex(),
            "node": receipt.node,
            "version_id": "0x" + receipt.version_id.hex(),
            "receipts_root": "0x" + world.node.root([wrong]).hex(),
            "posted_block": world.chain.block_number(),
        }
    ]
    with batch_server() as index:
        page = {"items": items, "next_cursor": None}
        index.answers["/v1/batches?limit=100"] = body_of(json.dumps(page).encode())
        with world.watch(folder, world.watcher_key(), api_url=index.url) as watch:
            watch.run(once=True)
    assert [r.opened.digest for r in world.disputes().values()] == [wrong.digest]


def test_watch__two_processes_of_one_folder__the_second_is_refused(world: WatchedWorld, folder: Path) -> None:
    key = world.watcher_key()
    with (
        world.watch(folder, key),
        pytest.raises(ConfigurationError, match="already sends"),
        world.watch(folder, key),
    ):
        pass


def test_run__stopped_from_another_thread__ends_within_a_moment(world: WatchedWorld, folder: Path) -> None:
    with world.watch(folder, SigningKey(b"\x09" * 32)) as watch:
        timer = threading.Timer(0.3, watch.stop)
        timer.start()
        watch.run()
        timer.join()
        assert not any(thread.name == "examiner" for thread in threading.enumerate())


def ask_again(watch: Watch) -> None:
    """As if the waits were over."""
    with watch.store.transaction() as db:
        db.execute("UPDATE batches SET next_at = 0 WHERE state != 'available'")
        db.execute("UPDATE receipts SET next_at = 0")
    watch.run(once=True)
