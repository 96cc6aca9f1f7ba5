"""Measure each CPU class, print what is equal, write all hashes; ends with 1 if anything differs."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from scripts.conformance_parts.arm64 import NotRun
from scripts.conformance_parts.cases import write_cases
from scripts.conformance_parts.cpus import CPUS, REPOSITORY, Cpu, emulator_version, measure

Result = dict[str, Any]
NAMES = [cpu.name for cpu in CPUS]


@click.command()
@click.argument("names", metavar="[CLASS]...", nargs=-1, type=click.Choice(NAMES))
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="write all hashes to this file")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=REPOSITORY / ".cache/conformance",
    help="cases, logs and the arm64 root (default: .cache/conformance)",
)
def main(names: tuple[str, ...], json_path: Path | None, folder: Path) -> None:
    """Run the conformance set on this CPU and on emulated ones, and compare every output and trace.

    Classes: native, haswell, sandybridge, nehalem, penryn, cortex-a57, neoverse-n1, aarch64-max; all by
    default. Native always runs: the others are held to it.
    """
    console, progress = Console(highlight=False), Console(stderr=True, highlight=False)
    count = write_cases(folder / "cases")
    results: dict[str, Result] = {}
    for cpu in CPUS:
        if cpu.name == "native" or not names or cpu.name in names:
            with progress.status(f"{cpu.name}: {count} cases …"):
                results[cpu.name] = run(cpu, folder)
            if json_path:  # after each class: an interrupted run keeps what it has
                json_path.write_text(json.dumps(results, indent=1) + "\n")
    differences = {name: compare(result, results["native"]) for name, result in results.items()}
    console.print(build_table(results, differences, count))
    for name, found in differences.items():
        for line in found:
            console.print(f"{name}: {line}")
    if any(differences.values()) or "cases" not in results["native"]:
        raise SystemExit(1)


def run(cpu: Cpu, folder: Path) -> Result:
    """`measure.py`'s answer with the seconds it took and the emulator, or why there is none."""
    begun = time.monotonic()
    try:
        result = measure(cpu, folder / "cases", folder)
    except NotRun as reason:
        return {"not_run": str(reason)}
    emulator = emulator_version(cpu.architecture) if cpu.architecture else ""
    return result | {"seconds": round(time.monotonic() - begun), "emulator": emulator}


def compare(result: Result, native: Result) -> list[str]:
    """A line for each case that is not equal to the native run in everything, or not within itself."""
    lines = []
    for name, found in result.get("cases", {}).items():
        expected = native.get("cases", {}).get(name, {})
        apart = [what for what, value in found.items() if value != expected.get(what)]
        if apart:
            lines.append(f"{name}: {', '.join(apart)} differ from the native run")
        ways = {what: value for what, value in found.items() if not what.endswith("_root")}
        if len(set(ways.values())) > 1:
            lines.append(f"{name}: {', '.join(ways)} are not equal to each other")
    return lines


def build_table(results: dict[str, Result], differences: dict[str, list[str]], count: int) -> Table:
    table = Table(title=f"{count} cases", title_justify="left", show_edge=False, pad_edge=False)
    for column in ("class", "kernels", "equal", "differing", "seconds", "run by"):
        table.add_column(column, overflow="fold")
    for cpu in CPUS:
        if cpu.name not in results:
            continue
        result = results[cpu.name]
        if "not_run" in result:
            table.add_row(cpu.name, cpu.kernels, "not run", "", "", result["not_run"])
            continue
        apart = len({line.split(":")[0] for line in differences[cpu.name]})
        seconds = str(result["seconds"])
        table.add_row(
            cpu.name,
            describe(cpu, result),
            str(len(result["cases"]) - apart),
            str(apart),
            seconds,
            result["emulator"],
        )
    return table


def describe(cpu: Cpu, result: Result) -> str:
    """The features that decide which kernels onnxruntime takes, as the process saw them."""
    deciding = ("AVX512_CLX", "AVX512_SKX", "AVX2", "AVX", "SSE42", "SSE41", "ASIMDDP", "SVE", "ASIMD")
    seen = [name for name in deciding if name in result["machine"]["features"]]
    return f"{cpu.kernels if cpu.architecture else result['machine']['architecture']}: {', '.join(seen)}"


if __name__ == "__main__":
    main()
