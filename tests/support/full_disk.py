"""Disks without room: one of a process's own, really full; and a SQLite connection as it is on one.

disk = FullDisk(store._db); store._db = disk; disk.is_full = True
code, said = run_forked(scenario, tmp_path)  # scenario: small_disk(folder, 512); fill(folder); …
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

NOT_ALLOWED: Final = 77
"""The exit status of a process that may not mount."""
_NEW_MOUNTS, _NEW_USER = 0x0002_0000, 0x1000_0000  # CLONE_NEWNS, CLONE_NEWUSER


def small_disk(folder: Path, kib: int) -> None:
    """From now on `folder` is a disk of so many KiB, for this process alone, which has one thread. Ends it
    with NOT_ALLOWED where the kernel does not let it."""
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    try:
        _check(libc.unshare(_NEW_MOUNTS | _NEW_USER))
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
        _check(libc.mount(b"none", os.fsencode(folder), b"tmpfs", 0, b"size=%dk" % kib))
    except OSError as error:
        print(f"no disk of its own: {error}", file=sys.stderr)
        os._exit(NOT_ALLOWED)


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def fill(folder: Path) -> Path:
    """Take all room that there is; what takes it, to be removed."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    return path


class FullDisk:
    """A connection in WAL mode whose commits find no room while `is_full`, as SQLite does it: it ends the
    transaction itself; with `leaves_open` it does not."""

    def __init__(self, connection: sqlite3.Connection, *, leaves_open: bool = False) -> None:
        self._connection = connection
        self._leaves_open = leaves_open
        self.is_full = False
        self.refused = 0

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> sqlite3.Cursor:
        if sql == "COMMIT" and self.is_full:
            self.refused += 1
            if not self._leaves_open:
                self._connection.execute("ROLLBACK")
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        return self._connection.execute(sql, parameters)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)
