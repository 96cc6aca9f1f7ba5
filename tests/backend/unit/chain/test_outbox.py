from __future__ import annotations

import os
import sqlite3
import tracemalloc
from pathlib import Path

import pytest
from assay.chain import outbox as outbox_module
from assay.chain.outbox import Attempt, Intent, IntentState, Outbox
from assay.chain.transactions import Fees
from assay.chain.values import Call
from assay.disk import DiskFullError
from assay.errors import ConfigurationError, FatalError
from assay.types import Address, Hash32

from tests.support.full_disk import FullDisk

SENDER = Address("0x" + "11" * 20)


def attempt(number: int) -> Attempt:
    return Attempt(Hash32(number.to_bytes(32, "big")), b"raw", Fees(2**200, 1), 1.5)


def intent(key: str, nonce: int) -> Intent:
    call = Call(None, b"\x01", "label", 2**100)
    return Intent(0, key, nonce, call, 21_000, IntentState.PENDING, (attempt(nonce + 1),))


def test_add__then_reopened__same_intent(tmp_path: Path) -> None:
    with Outbox(tmp_path / "o.sqlite3") as outbox:
        stored = outbox.add(1, SENDER, intent("a", 0))
    with Outbox(tmp_path / "o.sqlite3") as outbox:
        assert outbox.find(1, SENDER, "a") == stored
        assert outbox.find(1, SENDER, "b") is None
        assert outbox.find(2, SENDER, "a") is None
        assert (outbox.next_nonce(1, SENDER), outbox.next_nonce(2, SENDER)) == (1, 0)


@pytest.mark.parametrize("leaves_open", [False, True])
def test_add__disk_is_full__is_told_and_can_be_done_again(tmp_path: Path, leaves_open: bool) -> None:
    with Outbox(tmp_path / "o.sqlite3") as outbox:
        first = outbox.add(1, SENDER, intent("a", 0))
        connection = outbox._db
        assert isinstance(connection, sqlite3.Connection)
        outbox._db = disk = FullDisk(connection, leaves_open=leaves_open)
        disk.is_full = True
        for _ in range(2):
            with pytest.raises(DiskFullError, match=f"no room in {tmp_path}: .*; free some"):
                outbox.add(1, SENDER, intent("b", 1))
            with pytest.raises(DiskFullError):
                outbox.record_mined(first.id, {"blockNumber": "0x1"})
        assert outbox.pending(1, SENDER) == [first]
        disk.is_full = False
        outbox.add(1, SENDER, intent("b", 1))
        assert [one.key for one in outbox.pending(1, SENDER)] == ["a", "b"]


@pytest.mark.parametrize(("key", "nonce"), [("a", 1), ("b", 0)])
def test_add__key_or_nonce_used__refused_whole(tmp_path: Path, key: str, nonce: int) -> None:
    with Outbox(tmp_path / "o.sqlite3") as outbox:
        outbox.add(1, SENDER, intent("a", 0))
        with pytest.raises(sqlite3.IntegrityError):
            outbox.add(1, SENDER, intent(key, nonce))
        assert len(outbox.pending(1, SENDER)) == 1


def test_add_attempt__replacement__newest_last_nonce_kept(tmp_path: Path) -> None:
    with Outbox(tmp_path / "o.sqlite3") as outbox:
        stored = outbox.add(1, SENDER, intent("a", 0))
        bumped = outbox.add_attempt(stored.id, attempt(77))
        assert [a.hash[-1] for a in bumped.attempts] == [1, 77] and bumped.nonce == 0
        assert outbox.add_attempt(stored.id, attempt(78), nonce=5).nonce == 5


def test_reopen_from__counter_went_down__mined_ones_above_are_pending(tmp_path: Path) -> None:
    with Outbox(tmp_path / "o.sqlite3") as outbox:
        for nonce in range(3):
            outbox.record_mined(outbox.add(1, SENDER, intent(str(nonce), nonce)).id, {"blockNumber": "0x1"})
        assert outbox.pending(1, SENDER) == []
        assert outbox.reopen_from(1, SENDER, 1) == 2
        assert [i.nonce for i in outbox.pending(1, SENDER)] == [1, 2]


def test_bind_chain__another_genesis__fatal(tmp_path: Path) -> None:
    with Outbox(tmp_path / "o.sqlite3") as outbox:
        outbox.bind_chain(1, Hash32(b"\x01" * 32))
        outbox.bind_chain(1, Hash32(b"\x01" * 32))
        with pytest.raises(FatalError, match="another chain"):
            outbox.bind_chain(1, Hash32(b"\x02" * 32))


def test_sender_lock__held__second_refused_until_released(tmp_path: Path) -> None:
    with Outbox(tmp_path / "o.sqlite3") as outbox:
        with outbox.sender_lock(1, SENDER):
            with pytest.raises(ConfigurationError, match="already sends"), outbox.sender_lock(1, SENDER):
                pass
            with outbox.sender_lock(2, SENDER):
                pass
        with outbox.sender_lock(1, SENDER):
            pass


def test_outbox__durability__wal_and_full_sync(tmp_path: Path) -> None:
    with Outbox(tmp_path / "o.sqlite3") as outbox:
        assert outbox._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert outbox._db.execute("PRAGMA synchronous").fetchone() == (2,)


def test_outbox__opened__its_files_are_there_after_a_power_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite syncs the folder when it makes a file, and not when it finds one that a killed process made."""
    synced: list[set[str]] = []
    fsync = os.fsync

    def watch(descriptor: int) -> None:
        fsync(descriptor)
        if Path(f"/proc/self/fd/{descriptor}").readlink() == tmp_path:
            synced.append({path.name for path in tmp_path.iterdir()})

    monkeypatch.setattr(os, "fsync", watch)
    with Outbox(tmp_path / "outbox.sqlite3"):
        assert synced[-1] >= {"outbox.sqlite3", "outbox.sqlite3-wal"}


def test_outbox__not_a_database__configuration_error(tmp_path: Path) -> None:
    (tmp_path / "o.sqlite3").write_bytes(b"garbage" * 1000)
    with pytest.raises(ConfigurationError, match="damaged"):
        Outbox(tmp_path / "o.sqlite3")


def test_newest__many_with_long_receipts__are_in_memory_one_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that has posted for a year has a hundred thousand of them."""
    monkeypatch.setattr(outbox_module, "RECENT", 60)
    with Outbox(tmp_path / "o.sqlite3") as outbox:
        for nonce in range(80):
            stored = outbox.add(1, SENDER, intent(f"{'post' if nonce % 4 else 'claim'}:{nonce}", nonce))
            outbox.record_mined(stored.id, {"logs": [{"data": "0x" + "00" * 100_000}]})
        outbox.add(2, SENDER, intent("post:0", 99))
        tracemalloc.start()
        found = [one.nonce for one in outbox.newest(1, SENDER)]
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert found == list(range(79, 19, -1))
        assert peak < 3_000_000
        assert [one.nonce for one in outbox.newest(1, SENDER, "claim:")] == list(range(76, -1, -4))
