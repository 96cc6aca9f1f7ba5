"""A file that receipts are appended to, and on disk in, before anything of them leaves the process.

The SQLite log spreads a receipt over its indexes: some ten pages of 4 KiB to sync for each group. The journal
has its 400 bytes in one place, in blocks that are allocated already, so that a group costs one short write to
the disk. What is in the log, too, is overwritten: there are two segments, used in turn.

    frame: magic:4 ‖ segment's epoch:u64 ‖ number:u64 ‖ length:u32 ‖ crc32:u32 ‖ payload

Frames are written one after another, each once the one before it is on disk, numbered without gaps. A segment
ends where a frame has another epoch, another number than the next, or a wrong checksum: there a crash cut it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from struct import Struct
from typing import Final
from zlib import crc32

from assay.disk import sync_path
from assay.errors import FatalError

SEGMENT_BYTES: Final = 8 << 20
_PART_BYTES: Final = 1 << 20
_MAGIC: Final = b"ASYJ"
_HEAD: Final = Struct(">4sQQII")
NAMES: Final = ("receipts.journal.0", "receipts.journal.1")


@dataclass(frozen=True, slots=True)
class Frame:
    epoch: int
    number: int
    payload: bytes


@dataclass(slots=True)
class _Segment:
    """`first`, `last`: numbers of its frames; 0 if it has none. `later`: of a whole one behind its end."""

    descriptor: int
    epoch: int = 0
    first: int = 0
    last: int = 0
    later: int = 0


class Journal:
    """`append` belongs to one thread at a time, `forget` to any; the folder to one process. What `frames`
    gives must be made safe and forgotten before the first `append`."""

    def __init__(self, folder: Path, segment_bytes: int = SEGMENT_BYTES) -> None:
        """Raises FatalError if the files cannot be made or read."""
        self.folder = folder
        self._bytes = segment_bytes
        self._segments: list[_Segment] = []
        self._current = 0
        self._offset = 0
        self._forgotten = 0
        self.number = 0
        """Of the last frame."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name in NAMES:
                self._segments.append(_Segment(_open(folder / name, segment_bytes)))
            self._sync()
            self._find_end()
        except OSError as error:
            self.close()
            raise _failed(folder, error) from None

    @property
    def epoch(self) -> int:
        """Of the last frame's segment."""
        return self._segments[self._current].epoch

    def close(self) -> None:
        for segment in self._segments:
            os.close(segment.descriptor)

    def _sync(self) -> None:
        """A process that was killed may have left frames, and names in the folder, that are not on disk: from
        here on they are relied on."""
        for segment in self._segments:
            os.fsync(segment.descriptor)
        sync_path(self.folder)
        with contextlib.suppress(PermissionError):
            sync_path(self.folder.resolve().parent)

    def _find_end(self) -> None:
        """Go on behind what is there: in the older segment, with a greater epoch."""
        ends = []
        for segment in self._segments:
            end = 0
            for frame in read_frames(segment.descriptor):
                segment.epoch, segment.last = frame.epoch, frame.number
                segment.first = segment.first or frame.number
                end += _HEAD.size + len(frame.payload)
            ends.append(end)
        following = (max(segment.epoch for segment in self._segments) >> 32) + 1
        for segment, end in zip(self._segments, ends, strict=True):
            segment.later = _frame_behind(segment.descriptor, end, following)
        self.number = self._found = max(segment.last for segment in self._segments)
        newest = 0 if self._segments[0].epoch > self._segments[1].epoch else 1
        self._current, self._offset = newest, self._bytes  # full: the next frame begins the other one

    def frames(self) -> Iterator[Frame]:
        """All that can be read, oldest first; those that were forgotten may be among them."""
        for segment in sorted(self._segments, key=lambda segment: segment.epoch):
            yield from read_frames(segment.descriptor)

    def lost(self, known: int) -> int | None:
        """The number of a frame after `known` that cannot be read and was on disk once, for a later one is.
        No crash does that: nothing is written behind a frame that is not on disk."""
        older, newer = sorted(self._segments, key=lambda segment: segment.epoch)
        later = [(one.last or self.number, one.later) for one in self._segments] + [(older.last, newer.first)]
        gaps = [max(last, known) + 1 for last, found in later if found > max(last, known) + 1]
        return min(gaps, default=None)

    def append(self, payload: bytes) -> int:
        """The frame's number, when it is on disk. Raises FatalError."""
        size = _HEAD.size + len(payload)
        assert self._forgotten >= self._found
        if self._offset + size > self._bytes:
            other = 1 - self._current
            if self._segments[other].last <= self._forgotten:
                self._segments[other].epoch = _next_epoch(self._segments[self._current].epoch)
                self._current, self._offset = other, 0
        segment, number = self._segments[self._current], self.number + 1
        head = _HEAD.pack(
            _MAGIC, segment.epoch, number, len(payload), _checksum(segment.epoch, number, payload)
        )
        try:
            written = os.pwrite(segment.descriptor, head + payload, self._offset)
        except OSError as error:
            raise _failed(self.folder, error) from None
        if written != size:
            raise _failed(self.folder, OSError(f"{written} of {size} bytes were written"))
        self._offset += size
        self.number = segment.last = number
        return number

    def forget(self, number: int) -> None:
        """Frames up to this one are safe elsewhere."""
        self._forgotten = max(self._forgotten, number)


def read_frames(descriptor: int, offset: int = 0) -> Iterator[Frame]:
    """The frames of a segment, from one of them on, up to where it ends."""
    before, size = None, os.fstat(descriptor).st_size
    while len(head := os.pread(descriptor, _HEAD.size, offset)) == _HEAD.size:
        magic, epoch, number, length, checksum = _HEAD.unpack(head)
        if magic != _MAGIC or (before is not None and (epoch, number) != (before.epoch, before.number + 1)):
            return
        if length > size - offset - _HEAD.size:  # what it would take to read that is not known to be there
            return
        payload = os.pread(descriptor, length, offset + _HEAD.size)
        if len(payload) != length or _checksum(epoch, number, payload) != checksum:
            return
        before = Frame(epoch, number, payload)
        yield before
        offset += _HEAD.size + length


def _frame_behind(descriptor: int, end: int, following: int) -> int:
    """The number of a whole frame of a segment's epoch somewhere behind its `end`; 0 if there is none. The
    epoch is that of its beginning; if that is none, any of this upper half."""
    what, at = os.pread(descriptor, len(_MAGIC) + 8, 0), max(end, 1)
    if not what.startswith(_MAGIC):
        what = _MAGIC + following.to_bytes(4, "big")
    while (at := _find(descriptor, what, at)) >= 0:
        for frame in islice(read_frames(descriptor, at), 1):
            return frame.number
        at += 1
    return 0


def _find(descriptor: int, what: bytes, offset: int) -> int:
    """Its place from `offset` on; -1 if it is nowhere."""
    while len(part := os.pread(descriptor, _PART_BYTES, offset)) >= len(what):
        if (at := part.find(what)) >= 0:
            return offset + at
        offset += len(part) - len(what) + 1
    return -1


def _next_epoch(epoch: int) -> int:
    """A greater one that nobody can guess: what a payload says, left over behind the last frame of a segment
    that is used again, must never read as the frame that comes next."""
    return ((epoch >> 32) + 1) << 32 | secrets.randbits(32)


def follows(epoch: int, later: int) -> bool:
    """Whether `later` may be the epoch after this one."""
    return later >> 32 == (epoch >> 32) + 1


def _checksum(epoch: int, number: int, payload: bytes) -> int:
    """Over both halves of the epoch: the first bytes of a frame before what was there may be all of it."""
    return crc32(payload, ((epoch ^ epoch >> 32) * 31 + number) & 0xFFFFFFFF)


def _open(path: Path, size: int) -> int:
    """A file of zeros that are on disk: writing into it changes nothing but its contents, so that a write
    that returned (O_DSYNC) is on disk, too."""
    if not path.exists():
        temporary = path.with_suffix(".new")
        with temporary.open("wb") as file:
            file.write(bytes(size))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    return os.open(path, os.O_RDWR | getattr(os, "O_DSYNC", os.O_SYNC))


def _failed(folder: Path, error: OSError) -> FatalError:
    return FatalError(
        f"cannot use the receipts journal in {folder}: {error}; no signature leaves without it. Check the "
        "disk, its free space and permissions, then start the node again"
    )
