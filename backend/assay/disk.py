"""A disk without room: a problem of this machine's, whoever's file was to be written."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from assay.errors import RetryableError

RESERVE: Final = 64 << 20
"""Bytes that files of strangers leave free, or a sixteenth of a small disk: databases grow there, too."""
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


class DiskFullError(RetryableError):
    """A folder's disk, or this user's share of it, has no room; somebody has to make some."""


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
        raise DiskFullError(
            f"no room in {folder}: {error.strerror}; free some there, it will be tried again"
        ) from error
