"""What is on the disk for good, and a disk without room: a problem of this machine's, whoever's file was to
be written."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from assay.errors import RetryableError

RESERVE: Final = 64 << 20
"""Bytes that files of strangers leave free, or a sixteenth of a small disk: databases grow there, too."""
AGAIN: Final = "free some there, it will be tried again"
START_AGAIN: Final = "free some there, then start again"
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_PROBE: Final = 1 << 16
"""Bytes; SQLite shares 32 KiB at least."""


class DiskFullError(RetryableError):
    """A folder's disk, or this user's share of it, has no room; somebody has to make some."""


def write_whole(path: Path, content: str, mode: int = 0o666) -> None:
    """The file is there, whole and on disk, when this returns, and before that as it was. `mode`: of a new
    file, less the umask. Raises OSError, and leaves nothing then."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
    temporary.unlink(missing_ok=True)  # of a process of that number that was killed
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_path(path.parent)


def sync_path(path: Path) -> None:
    """A file's contents, or a folder's names of what was made, renamed or removed there, are on disk like
    this. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_room(file: BinaryIO) -> None:
    """Whether a file on disk may grow. Raises OSError ENOSPC."""
    try:
        disk = os.fstatvfs(file.fileno())
    except OSError:  # it is in memory, or its disk does not tell
        return
    if disk.f_bavail * disk.f_frsize < min(RESERVE, disk.f_blocks * disk.f_frsize // 16):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextlib.contextmanager
def room_in(folder: Path) -> Iterator[None]:
    """What is done inside writes there. Raises DiskFullError."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise _full(folder, error.strerror or str(error), AGAIN) from error


@contextlib.contextmanager
def room_for(database: Path, cure: str = AGAIN) -> Iterator[None]:
    """A SQLite file is opened, read or written inside. Raises DiskFullError."""
    try:
        yield
    except sqlite3.OperationalError as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        is_full = code == sqlite3.SQLITE_FULL
        if is_full or (code == sqlite3.SQLITE_IOERR and not _takes_more(database.parent)):
            raise _full(database.parent, str(error), cure) from error
        raise


def _takes_more(folder: Path) -> bool:
    """SQLite does not tell that it was for lack of room where it cannot share memory, or a quota is used
    up."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_PROBE))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error.errno not in _FULL
    return True


def _full(folder: Path, why: str, cure: str) -> DiskFullError:
    return DiskFullError(f"no room in {folder}: {why}; {cure}")
