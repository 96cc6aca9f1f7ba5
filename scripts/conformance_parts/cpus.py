"""CPU classes: this machine's own, and those that qemu-user emulates; how a measurement is run in each."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from scripts.conformance_parts.arm64 import NotRun, Root

REPOSITORY: Final = Path(__file__).resolve().parents[2]
MEASURE: Final = ("-m", "scripts.conformance_parts.measure")
SECONDS: Final = 1_800
"""For one class; emulation is 10 to 40 times slower than this machine."""


@dataclass(frozen=True)
class Cpu:
    """`model` is qemu's name of the CPU; empty for this machine's own."""

    name: str
    architecture: str
    model: str
    kernels: str
    """What onnxruntime's kernels can use on it, for people."""


CPUS: Final = (
    Cpu("native", "", "", "whatever this machine has"),
    Cpu("haswell", "x86_64", "Haswell", "AVX2 and FMA"),
    Cpu("sandybridge", "x86_64", "SandyBridge", "AVX"),
    Cpu("nehalem", "x86_64", "Nehalem", "SSE 4.2"),
    Cpu("penryn", "x86_64", "Penryn", "SSE 4.1"),
    Cpu("cortex-a57", "aarch64", "cortex-a57", "NEON"),
    Cpu("neoverse-n1", "aarch64", "neoverse-n1", "NEON with dot products"),
    Cpu("aarch64-max", "aarch64", "max", "NEON with dot products, matrix multiply and SVE"),
)


def measure(cpu: Cpu, cases: Path, folder: Path) -> dict[str, Any]:
    """What `measure.py` prints in that class. Raises NotRun; subprocess errors are reported as NotRun too."""
    command, environment = _command(cpu, folder)
    log = folder / f"{cpu.name}.log"
    with log.open("w") as errors:
        try:
            found = subprocess.run(
                [*command, *MEASURE, str(cases)],
                cwd=REPOSITORY,
                env=os.environ | environment,
                stdout=subprocess.PIPE,
                stderr=errors,
                timeout=SECONDS,
                check=True,
            )
        except subprocess.TimeoutExpired:
            raise NotRun(f"not done after {SECONDS} s; {log} tells how far it came") from None
        except subprocess.CalledProcessError as error:
            raise NotRun(f"the emulated process ended with status {error.returncode}; see {log}") from None
    result: dict[str, Any] = json.loads(found.stdout)
    return result


def _command(cpu: Cpu, folder: Path) -> tuple[list[str], Mapping[str, str]]:
    environment = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    if not cpu.architecture:
        return [sys.executable], environment
    emulator = find_emulator(cpu.architecture)
    if cpu.architecture == "x86_64":
        if os.uname().machine != "x86_64":
            raise NotRun("this machine's Python is not for x86_64; run it on one that is")
        return [emulator, "-cpu", cpu.model, sys.executable], environment
    root = Root(folder / "arm64")
    root.prepare()
    root.show_cpu(cpu.model)
    paths = [root.packages, REPOSITORY / "backend", REPOSITORY]
    environment |= {"PYTHONPATH": os.pathsep.join(map(str, paths)), "PYTHONDONTWRITEBYTECODE": "1"}
    return [emulator, "-cpu", cpu.model, "-L", str(root.path), str(root.python)], environment


def find_emulator(architecture: str) -> str:
    """Raises NotRun where it is not installed."""
    for name in (f"qemu-{architecture}", f"qemu-{architecture}-static"):
        found = shutil.which(name)
        if found:
            return found
    raise NotRun(f"no qemu-{architecture} here; on Debian: apt-get install qemu-user")


def emulator_version(architecture: str) -> str:
    """The first line that it prints; empty where it is not installed."""
    try:
        emulator = find_emulator(architecture)
    except NotRun:
        return ""
    shown = subprocess.run([emulator, "--version"], capture_output=True, text=True, check=True)
    return shown.stdout.splitlines()[0]
