"""A disk without room, told as what it is."""

from __future__ import annotations

import errno
import io
import os
import re
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from assay.disk import RESERVE, DiskFullError, check_room, room_in
from assay.errors import RetryableError


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
