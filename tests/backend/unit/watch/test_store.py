"""The watcher's store on a disk without room: nothing changes, it is told as such, it goes on afterwards."""

from __future__ import annotations

import re
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from assay.disk import AGAIN, START_AGAIN, DiskFullError
from assay.types import Address, BatchAvailability, BatchKey, Domain, Hash32
from assay.watch.store import Store
from assay.watch.values import PostedBatch

from tests.support.forking import run_forked
from tests.support.full_disk import NOT_ALLOWED, FullDisk, fill, small_disk

DOMAIN = Domain(1, Address("0x" + "11" * 20))
GAME, NODE = Address("0x" + "22" * 20), Address("0x" + "33" * 20)
ONE = Hash32(b"\x01" * 32)
TWO = Hash32(b"\x02" * 32)
BATCH, OTHER = (PostedBatch(name, BatchKey(NODE, name, name), 5) for name in (ONE, TWO))
UNAVAILABLE = BatchAvailability.UNAVAILABLE


def open_store(folder: Path, name: str = "watch.sqlite3") -> Store:
    return Store(folder / name, DOMAIN, GAME)


WRITES: dict[str, Callable[[Store], object]] = {
    "advance": lambda store: store.advance((9, ONE), [BATCH], []),
    "rewind": lambda store: store.rewind(1),
    "add_batches": lambda store: store.add_batches([OTHER]),
    "record_batch": lambda store: store.record_batch(
        BATCH, UNAVAILABLE, "gone", posted_at=1, receipts=0, next_at=2.0
    ),
    "keep_leaves": lambda store: store.keep_leaves(ONE, bytes(64)),
    "record_play": lambda store: store.record_play(1, ONE, 1, 2.0),
    "prune": lambda store: store.prune(10**9),
}


def contents(store: Store) -> dict[str, list[object]]:
    tables = [name for (name,) in store.rows("SELECT name FROM sqlite_master WHERE type = 'table'")]
    return {table: store.rows(f"SELECT * FROM {table}") for table in tables}


@pytest.mark.parametrize("name", WRITES)
@pytest.mark.parametrize("leaves_open", [False, True])
def test_transaction__disk_is_full__changes_nothing_and_goes_on(
    tmp_path: Path, name: str, leaves_open: bool
) -> None:
    with closing(open_store(tmp_path)) as store:
        store.advance((5, ONE), [BATCH], [])
        store.keep_leaves(ONE, bytes(32))
        store.record_batch(BATCH, UNAVAILABLE, "", posted_at=1, receipts=0, next_at=0)
        before = contents(store)
        disk = FullDisk(store._db, leaves_open=leaves_open)
        store._db = disk  # type: ignore[assignment]
        disk.is_full = True
        for _ in range(2):
            with pytest.raises(DiskFullError, match=f"no room in {re.escape(str(tmp_path))}: .*; {AGAIN}"):
                WRITES[name](store)
            assert contents(store) == before
        disk.is_full = False
        WRITES[name](store)
        assert contents(store) != before


def test_transaction__another_error__stays_what_it_is(tmp_path: Path) -> None:
    with closing(open_store(tmp_path)) as store:
        with pytest.raises(sqlite3.OperationalError, match="no such table"), store.transaction() as db:
            db.execute("DELETE FROM gone")
        with pytest.raises(ZeroDivisionError), store.transaction() as db:
            db.execute("INSERT INTO meta VALUES ('a', 'b')")
            1 / 0  # noqa: B018
        assert store.meta("a") is None


def test_store__on_a_disk_that_is_really_full__says_so_and_loses_nothing(tmp_path: Path) -> None:
    code, said = run_forked(write_to_full_disk, tmp_path)
    if code == NOT_ALLOWED:
        pytest.skip(said)
    assert code == 0, said


def write_to_full_disk(folder: Path) -> None:
    """In a process of its own."""
    small_disk(folder, 768)
    with closing(open_store(folder)) as store:
        seed = store.seed
    shutil.copy(folder / "watch.sqlite3", folder / "other.sqlite3")
    with closing(open_store(folder)) as store:
        store.advance((5, ONE), [BATCH], [])
        store.record_batch(BATCH, UNAVAILABLE, "", posted_at=1, receipts=0, next_at=0)
        before = contents(store)
        filler = fill(folder)
        for write in WRITES.values():
            with pytest.raises(DiskFullError, match=rf"no room in .*; {AGAIN}"):
                write(store)
        for name in ("other.sqlite3", "new.sqlite3"):  # has nowhere to share memory; nowhere to begin
            with pytest.raises(DiskFullError, match=rf"no room in .*; {START_AGAIN}"):
                open_store(folder, name)
        assert contents(store) == before
        filler.unlink()
        for write in WRITES.values():
            write(store)
        assert contents(store) != before
    for name in ("watch.sqlite3", "other.sqlite3"):
        with closing(open_store(folder, name)) as store:
            assert store.seed == seed
    open_store(folder, "new.sqlite3").close()
