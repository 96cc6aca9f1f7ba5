"""What a folder's disk may hold whenever its machine fails: what POSIX promises, nothing more.

    with Disk(folder, "log.sqlite3") as disk:
        …                                   # what writes there
    for state, answered in disk.states():
        state.put(another_folder)

Of a write that has not been synced any sectors may be there, and the file may have its new size or not; a
name may be missing that its folder was not synced after. A process that is killed leaves what it wrote to the
next one, synced or not. SQLite's file is as of its last synced commit, one after that, or the one under way.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import combinations, product
from pathlib import Path
from typing import Any, Final

import pytest

SECTOR: Final = 512


class KilledError(KeyboardInterrupt):
    """The process ends here. Event loops let it through."""


@dataclass(frozen=True)
class State:
    """`files`: contents by name."""

    files: tuple[tuple[str, bytes], ...]
    database: str
    image: bytes

    def put(self, folder: Path) -> None:
        folder.mkdir()
        for name, content in self.files:
            (folder / name).write_bytes(content)
        if self.database:
            (folder / self.database).write_bytes(self.image)


@dataclass
class _File:
    """`kept`: on disk. `seen`: what whoever reads it finds. `dirty`: sectors of it that are not synced."""

    kept: bytes = b""
    seen: bytes = b""
    dirty: set[int] = field(default_factory=set)

    def write(self, offset: int, data: bytes) -> set[int]:
        before = self.seen.ljust(offset, b"\0")
        self.seen = before[:offset] + data + before[offset + len(data) :]
        sectors = set(range(offset // SECTOR, (offset + len(data) - 1) // SECTOR + 1))
        self.dirty |= sectors
        return sectors

    def sync(self, sectors: set[int]) -> None:
        self.kept = self._with(sectors).ljust(len(self.seen), b"\0")
        self.dirty -= sectors

    def contents(self) -> set[bytes]:
        """Each of its sectors alone, each missing, the first ones, the last ones; none or all of them."""
        dirty = sorted(self.dirty)
        chosen = {frozenset(dirty[first:last]) for first, last in combinations(range(len(dirty) + 1), 2)}
        chosen |= {frozenset(dirty) - one for one in chosen} | {frozenset()}
        found = {self._with(some) for some in chosen}
        return found | {content.ljust(len(self.seen), b"\0") for content in found}

    def _with(self, sectors: Collection[int]) -> bytes:
        content = bytearray(self.kept)
        for sector in sorted(sectors):
            part = self.seen[sector * SECTOR : (sector + 1) * SECTOR]
            content.extend(bytes(max(0, sector * SECTOR - len(content))))
            content[sector * SECTOR : sector * SECTOR + len(part)] = part
        return bytes(content)


class Disk:
    """Sees what is written there through `os`, and what `commits` wraps. `kill_at`: the step, counted from 1,
    that ends the process, with its effect on what others see (`with_effect`) but not synced, or without.
    `signed`: signatures by digest, for whoever wants to remember them."""

    def __init__(self, folder: Path, database: str = "") -> None:
        self.folder, self._database = folder, database
        self.steps, self.kill_at, self.with_effect = 0, 0, False
        self.signed: dict[bytes, bytes] = {}
        self._files: dict[int, _File] = {}
        self._names: dict[str, int] = {}
        self._new_names: list[tuple[str, int]] = []
        self._images: list[bytes] = [b""]
        self._commits = self._kept = 0
        self._answered: list[Any] = []
        self._found: dict[tuple[tuple[tuple[str, bytes], ...], int], int] = {}
        self._lock = threading.RLock()
        self._patch = pytest.MonkeyPatch()

    def __enter__(self) -> Disk:
        self._pwrite, self._fsync, self._replace = os.pwrite, os.fsync, os.replace
        for name, function in (
            ("pwrite", self._on_pwrite),
            ("fsync", self._on_sync),
            ("fdatasync", self._on_sync),
            ("replace", self._on_replace),
        ):
            self._patch.setattr(os, name, function)
        return self

    def __exit__(self, *_: object) -> None:
        self._patch.undo()

    def commits(self, owner: object, name: str) -> None:
        """That function changes the database, in one transaction. Unless it is told otherwise that is
        `synced`; of a transaction that changes nothing SQLite syncs nothing."""
        function: Callable[..., Any] = getattr(owner, name)

        def commit(*arguments: object, **named: object) -> Any:
            with self._lock:
                self._commits += 1
                self._note()
            before = self._log()
            try:
                return function(*arguments, **named)
            finally:
                with self._lock:
                    changes = self._log() != before
                    self._commits -= 1
                    self._images.append(self._image())
                    if named.get("synced", True) and changes:
                        self._kept = len(self._images) - 1
                    self._note()

        self._patch.setattr(owner, name, commit)

    def answer(self, outcome: object) -> None:
        """Has left the process."""
        with self._lock:
            self._answered.append(outcome)
            self._note()

    def forget_states(self) -> None:
        """Those up to now."""
        with self._lock:
            self._found.clear()
            self._note()

    def states(self) -> Iterator[tuple[State, list[Any]]]:
        """Each once, with all that had been answered."""
        for (files, image), answered in self._found.items():
            if image < len(self._images):
                yield State(files, self._database, self._images[image]), self._answered[:answered]

    def _image(self) -> bytes:
        with closing(sqlite3.connect(self.folder / self._database)) as connection:
            return connection.serialize()

    def _log(self) -> bytes:
        """SQLite's write-ahead log."""
        path = self.folder / f"{self._database}-wal"
        return path.read_bytes() if path.exists() else b""

    def _note(self) -> None:
        contents = {number: file.contents() for number, file in self._files.items()}
        images = range(self._kept, len(self._images) + bool(self._commits))
        for count in range(len(self._new_names) + 1):
            for some in combinations(self._new_names, count):
                names = sorted((self._names | dict(some)).items())
                for chosen in product(*(contents.get(number, {b""}) for _, number in names)):
                    files = tuple(zip((name for name, _ in names), chosen, strict=True))
                    for image in images:
                        self._found[files, image] = len(self._answered)

    def _step(self, effect: Callable[[], Any]) -> Any:
        self.steps += 1
        if self.steps == self.kill_at:
            if self.with_effect:
                effect()
                self._note()
            raise KilledError
        return effect()

    def _file(self, descriptor: int) -> _File | None:
        if Path(f"/proc/self/fd/{descriptor}").readlink().parent != self.folder:
            return None
        return self._files.setdefault(os.fstat(descriptor).st_ino, _File())

    def _on_pwrite(self, descriptor: int, data: bytes, offset: int) -> int:
        with self._lock:
            if (file := self._file(descriptor)) is None:
                return self._pwrite(descriptor, data, offset)

            sectors: set[int] = set()

            def effect() -> int:
                sectors.update(file.write(offset, bytes(data)))
                self._note()
                return self._pwrite(descriptor, data, offset)

            written = self._step(effect)
            if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DSYNC:
                file.sync(sectors)
                self._note()
            return int(written)

    def _on_sync(self, descriptor: int) -> None:
        with self._lock:
            if Path(f"/proc/self/fd/{descriptor}").readlink() == self.folder:
                self._step(lambda: None)
                self._names |= dict(self._new_names)
                self._new_names.clear()
            elif (file := self._file(descriptor)) is not None:
                self._step(lambda: None)
                file.seen = file.kept = Path(f"/proc/self/fd/{descriptor}").read_bytes()
                file.dirty.clear()
            self._fsync(descriptor)
            self._note()

    def _on_replace(self, source: Path, target: Path) -> None:
        def effect() -> None:
            self._replace(source, target)
            if Path(target).parent == self.folder:
                self._new_names.append((Path(target).name, Path(target).stat().st_ino))
                self._note()

        with self._lock:
            self._step(effect)
