"""The servers compared with, and their environments: `.cache/peers/NAME` holds what `NAME.txt` pins by hash.

`scripts/lock` compiles `NAME.txt` from `NAME.in`.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from scripts.benches.options import MissingError

HERE = Path(__file__).resolve().parent
SERVERS = HERE / "servers"
ENVIRONMENTS = HERE.parents[2] / ".cache" / "peers"
WAYS = {"mlserver": ("mlserver", "mlserver_json"), "litserve": ("litserve",), "mosec": ("mosec",)}
"""By environment: the ways in which its server is spoken to, each measured by itself."""


@dataclass(frozen=True)
class Peer:
    """An installed server, and the way to speak to it."""

    name: str
    environment: Path

    @property
    def python(self) -> Path:
        return self.environment / "bin" / "python"


def install_all(progress: Callable[[str], None]) -> list[Peer]:
    """Those that are not installed yet, or of another lock. Raises MissingError."""
    found = []
    for name, ways in WAYS.items():
        environment = install(name, progress).environment
        found += [Peer(way, environment) for way in ways]
    return found


def install(name: str, progress: Callable[[str], None]) -> Peer:
    """One of WAYS, in its first way. Raises MissingError with what the installer says."""
    lock = HERE / f"{name}.txt"
    folder = ENVIRONMENTS / name
    stamp = folder / "assay-lock"
    wanted = hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return Peer(name, folder)
    progress(f"installing {name} into .cache/peers/{name}")
    shutil.rmtree(folder, ignore_errors=True)
    uv = Path(sys.executable).with_name("uv")
    if not uv.exists():
        raise MissingError(
            f"{name} needs the installer {uv}: run scripts/bench, which brings it, or --no-peers"
        )
    python = str(folder / "bin" / "python")
    for command in (
        ["venv", "--quiet", "--python", sys.executable, str(folder)],
        ["pip", "install", "--quiet", "--require-hashes", "--python", python, "-r", str(lock)],
    ):
        done = subprocess.run([str(uv), *command], capture_output=True, text=True, check=False)
        if done.returncode:
            raise MissingError(
                f"{name} cannot be installed from {lock.relative_to(HERE.parents[2])}: "
                f"{done.stderr.strip()[-600:]}\nGive this machine a package index, or leave the other "
                "servers out with --no-peers"
            )
    stamp.write_text(wanted)
    return Peer(name, folder)
