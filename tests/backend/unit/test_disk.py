"""Files that are whole whatever happens; a disk without room, told as what it is."""

from __future__ import annotations

import errno
import io
import os
import re
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
from assay.disk import RESERVE, DiskFullError, check_room, room_for, room_in, write_whole
from assay.errors import RetryableError

from tests.support.power_loss import Disk, KilledError


@pytest.mark.parametrize("step", [1, 2, 3])
@pytest.mark.parametrize("with_effect", [False, True])
def test_write_whole__killed_or_power_lost__is_as_before_or_whole(
    tmp_path: Path, step: int, with_effect: bool
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with Disk(folder) as disk:
        write_whole(folder / "file", "first\n" * 200)
        disk.forget_states()
        disk.kill_at, disk.with_effect = disk.steps + step, with_effect
        with pytest.raises(KilledError):
            write_whole(folder / "file", "second\n" * 200)
        write_whole(folder / "file", "third\n" * 200, mode=0o600)
        disk.answer("third")
    found: set[tuple[str, int]] = set()
    for number, (state, answered) in enumerate(disk.states()):
        state.put(other := tmp_path / str(number))
        found.add(((other / "file").read_text()[:5], len(answered)))
        assert len(set((other / "file").read_text().split())) == 1
    assert found - {("secon", 0)} == {("first", 0), ("third", 1)}
    assert [path.name for path in folder.iterdir()] == ["file"]
    assert (folder / "file").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_room_in__none_or_no_more_for_this_user__says_where_and_what_to_do(
    tmp_path: Path, number: int
) -> None:
    message = f"no room in {tmp_path}: {os.strerror(number)}; free some"
    with pytest.raises(RetryableError, match=re.escape(message)) as told, room_in(tmp_path):
        raise OSError(number, os.strerror(number))
    assert isinstance(told.value, DiskFullError)


def test_room_in__device_without_room__is_told() -> None:
    with pytest.raises(DiskFullError), room_in(Path("/dev")), Path("/dev/full").open("wb") as file:
        file.write(b"x")


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "no"), ValueError("no")])
def test_room_in__anything_else__stays_what_it_is(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)), room_in(tmp_path):
        raise error


def sqlite_error(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = code
    return error


def test_room_for__sqlite_finds_none__says_where_and_what_to_do(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "a.sqlite3", isolation_level=None)) as db:
        db.execute("CREATE TABLE t (x)")
        db.execute("PRAGMA max_page_count = 3")
        told = pytest.raises(DiskFullError, match=f"no room in {tmp_path}: .*; ask for more")
        with told, room_for(tmp_path / "a.sqlite3", "ask for more"):
            db.execute("INSERT INTO t VALUES (zeroblob(99999))")


@pytest.mark.parametrize("code", [sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_WRITE])
def test_room_for__sqlite_does_not_tell_why__looks_whether_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    with pytest.raises(sqlite3.OperationalError), room_for(tmp_path / "a.sqlite3"):
        raise sqlite_error(code)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: open("/dev/full", "w+b"))  # noqa: PTH123, SIM115
    told = pytest.raises(DiskFullError, match=f"no room in {tmp_path}: disk I/O error; ")
    with told, room_for(tmp_path / "a.sqlite3"):
        raise sqlite_error(code)


@pytest.mark.parametrize(
    "error", [sqlite_error(sqlite3.SQLITE_BUSY), sqlite3.IntegrityError("no"), ValueError("no")]
)
def test_room_for__anything_else__stays_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: open("/dev/full", "w+b"))  # noqa: PTH123, SIM115
    with pytest.raises(type(error)) as told, room_for(tmp_path / "a.sqlite3"):
        raise error
    assert told.value is error


@pytest.mark.parametrize(
    ("total", "left", "is_room"),
    [
        (1 << 40, RESERVE - 1, False),
        (1 << 40, RESERVE, True),
        (1 << 25, 1 << 20, False),  # a small disk keeps a sixteenth
        (1 << 25, 1 << 21, True),
    ],
)
def test_check_room__hardly_any_left__is_as_if_there_were_none(
    monkeypatch: pytest.MonkeyPatch, total: int, left: int, is_room: bool
) -> None:
    def answer(_: int) -> SimpleNamespace:
        return SimpleNamespace(f_frsize=512, f_blocks=total // 512, f_bavail=-(-left // 512) - (not is_room))

    monkeypatch.setattr(os, "fstatvfs", answer)
    with tempfile.TemporaryFile() as file:
        if is_room:
            check_room(file)
        else:
            with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)) as told:
                check_room(file)
            assert told.value.errno == errno.ENOSPC


def test_check_room__file_in_memory__needs_none() -> None:
    check_room(io.BytesIO())
