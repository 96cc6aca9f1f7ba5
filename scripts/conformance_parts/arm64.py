"""A folder with Debian's arm64 Python and the locked wheels for aarch64, for qemu-aarch64 to run.

Downloaded by apt-get and pip as they are set up here, once; nothing is installed on the machine.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Final

PACKAGES: Final = ("python3-minimal", "libpython3-stdlib", "libstdc++6")
"""Of Debian, with all that they depend on."""
WHEELS: Final = ("flatbuffers", "ml-dtypes", "numpy", "onnx", "onnxruntime", "protobuf", "typing-extensions")
"""What `measure.py` imports, in the versions that this machine has."""
PLATFORMS: Final = ("2_17", "2_26", "2_27", "2_28")
PARTS: Final = {"cortex-a57": (0x41, 0xD07), "neoverse-n1": (0x41, 0xD0C), "max": (0x41, 0xD49)}
"""(implementer, part) that /proc/cpuinfo shows; `max` as Neoverse N2, which has its extensions."""
CPUINFO: Final = """processor\t: {number}
BogoMIPS\t: 100.00
Features\t: fp asimd
CPU implementer\t: {implementer:#x}
CPU architecture: 8
CPU variant\t: 0x1
CPU part\t: {part:#x}
CPU revision\t: 0

"""


class NotRun(Exception):  # noqa: N818 - a result of its own, not a fault
    """A class cannot be had here; the message says what is missing and how to get it."""


class Root:
    """`path` is what qemu takes for /; `packages` goes on PYTHONPATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.path = self.folder / "root"
        self.packages = self.folder / "packages"

    @property
    def python(self) -> Path:
        """Raises NotRun where the root holds none."""
        found = sorted((self.path / "usr/bin").glob("python3.*[0-9]"))
        if not found:
            raise NotRun("Debian's arm64 packages hold no Python")
        return found[0]

    def prepare(self) -> None:
        """Fills the folder if it is not full. Raises NotRun where something cannot be had."""
        stamp = self.folder / "done"
        wanted = " ".join(f"{name}=={version(name)}" for name in WHEELS)
        if stamp.exists() and stamp.read_text() == wanted:
            return
        for tool in ("apt-get", "dpkg"):
            if shutil.which(tool) is None:
                raise NotRun(f"no {tool} here to fetch an arm64 Python with; use a Debian machine")
        shutil.rmtree(self.folder, ignore_errors=True)
        try:
            self._unpack_debian()
            self._unpack_wheels(wanted.split())
        except subprocess.CalledProcessError as error:
            said = (error.stderr or b"").decode(errors="replace").strip().splitlines()[-1:]
            raise NotRun(f"{error.cmd[0]} could not fetch for arm64: {' '.join(said)}") from None
        stamp.write_text(wanted)

    def _unpack_debian(self) -> None:
        """apt with a state and cache of its own, as if this were a bare arm64 machine."""
        state, cache = self.folder / "apt/state", self.folder / "apt/cache"
        (state / "lists/partial").mkdir(parents=True)
        (cache / "archives/partial").mkdir(parents=True)
        (state / "status").touch()
        options = {
            "APT::Architecture": "arm64",
            "APT::Architectures": "arm64",
            "Dir::State": str(state),
            "Dir::State::status": str(state / "status"),
            "Dir::Cache": str(cache),
        }
        apt = ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in options.items())]
        _run([*apt, "update"])
        _run([*apt, "install", "--yes", "--no-install-recommends", "--download-only", *PACKAGES])
        self.path.mkdir()
        for package in sorted((cache / "archives").glob("*.deb")):
            _run(["dpkg", "--extract", str(package), str(self.path)])

    def _unpack_wheels(self, wanted: list[str]) -> None:
        downloads = self.folder / "wheels"
        number = self.python.name.removeprefix("python")
        platforms = [f"--platform=manylinux_{one}_aarch64" for one in PLATFORMS] + [
            "--platform=manylinux2014_aarch64"
        ]
        tags = [
            f"--abi=cp{number.replace('.', '')}",
            "--abi=abi3",
            "--abi=none",
            f"--python-version={number}",
        ]
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        _run(
            [
                *pip,
                f"--dest={downloads}",
                "--only-binary=:all:",
                "--implementation=cp",
                *platforms,
                *tags,
                *wanted,
            ]
        )
        for wheel in sorted(downloads.glob("*.whl")):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(self.packages)

    def show_cpu(self, model: str) -> None:
        """qemu shows the host's /proc/cpuinfo, which onnxruntime's reader for arm64 does not survive."""
        implementer, part = PARTS[model]
        shown = self.path / "proc/cpuinfo"
        shown.parent.mkdir(exist_ok=True)
        shown.write_text(
            "".join(CPUINFO.format(number=number, implementer=implementer, part=part) for number in range(2))
        )


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
