"""Virtual environments for clients and servers that cannot live beside this project's locked packages.

`peer_python("kserve")` is the Python of one that holds what `kserve.txt` pins, made under `.cache/venvs` when
it is first asked for. `kserve.txt` is compiled from `kserve.in` with the flags of `scripts/lock`.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[2]
CACHE = ROOT / ".cache" / "venvs"


def peer_python(name: str) -> Path:
    """Skips the test, saying why, where the packages cannot be installed."""
    pinned = FOLDER / f"{name}.txt"
    key = hashlib.sha256(pinned.read_bytes() + sys.version.encode()).hexdigest()[:16]
    folder = CACHE / f"{name}-{key}"
    python = folder / "bin" / "python"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            _make(folder, python, pinned, name)
    return python


def _make(folder: Path, python: Path, pinned: Path, name: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    uv = shutil.which("uv") or str(Path(sys.executable).parent / "uv")
    install = [
        uv,
        "pip",
        "install",
        "--quiet",
        "--require-hashes",
        "--python",
        str(python),
        "-r",
        str(pinned),
    ]
    try:
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(folder)], check=True)
        done = subprocess.run(install, capture_output=True, text=True, timeout=900, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"{name} cannot be installed: {error}")
    if done.returncode:
        pytest.skip(f"{name} cannot be installed: {done.stderr[-500:]}")
    (folder / "complete").touch()


def peer_environment() -> dict[str, str]:
    """This process's, with the project's package importable and nothing of its virtual environment."""
    inherited = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    return inherited | {"PYTHONPATH": str(ROOT / "backend")}
