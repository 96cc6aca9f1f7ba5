"""Compile a contract with the locked Vyper: ABI, creation code, and the standard JSON that verifies it.

Results are kept in `.build/contracts`, keyed by the content of all sources and the compiler's version.
"""
# mypy: disable-error-code="import-untyped"

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CONTRACTS = ROOT / "contracts"
CACHE = ROOT / ".build" / "contracts"


@dataclass(frozen=True)
class Artifact:
    """`bytecode` is creation code without constructor arguments; `identifier` is `path:name`."""

    name: str
    abi: list[dict[str, Any]]
    bytecode: bytes
    standard_input: dict[str, Any]
    compiler: str
    identifier: str


def compile_contract(path: str) -> Artifact:
    """Compile `contracts/<path>` (such as `Settlement.vy`), or take it from the cache."""
    CACHE.mkdir(parents=True, exist_ok=True)
    cached = _cache_path(path)
    if not cached.exists():
        with (CACHE / "lock").open("w") as lock:  # one compiler at a time, the others find its result
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (cached := _cache_path(path)).exists():
                temporary = cached.with_suffix(".tmp")
                temporary.write_text(json.dumps(_compile(path)))
                temporary.replace(cached)
    content = json.loads(cached.read_text())
    return Artifact(**content | {"bytecode": bytes.fromhex(content["bytecode"])})


def _compile(path: str) -> dict[str, Any]:
    from vyper.compiler import outputs_from_compiler_data
    from vyper.compiler.input_bundle import FilesystemInputBundle
    from vyper.compiler.output_bundle import OutputBundle, SolcJSONWriter
    from vyper.compiler.phases import CompilerData
    from vyper.compiler.settings import Settings

    packages = _packages_folder()
    bundle = FilesystemInputBundle([packages, ROOT])
    data = CompilerData(bundle.load_file(CONTRACTS / path), bundle, settings=Settings())
    output = outputs_from_compiler_data(data, ["abi", "bytecode"], None)
    writer = SolcJSONWriter(data)
    writer.write()
    return {
        "name": Path(path).stem,
        "abi": output["abi"],
        "bytecode": output["bytecode"].removeprefix("0x"),
        "standard_input": _portable(writer.output(), OutputBundle(data), packages, f"contracts/{path}"),
        "compiler": f"vyper {writer.output()['compiler_version'].removeprefix('v')}",
        "identifier": f"contracts/{path}:{Path(path).stem}",
    }


def _portable(written: dict[str, Any], bundle: Any, packages: Path, target: str) -> dict[str, Any]:
    """The same input with paths that say nothing about this machine; the bytecode does not depend on them."""
    sources = {}
    for source in bundle.source_codes.values():
        base = packages if source.resolved_path.is_relative_to(packages) else ROOT
        sources[source.resolved_path.relative_to(base).as_posix()] = {"content": source.contents}
    settings = written["settings"] | {"outputSelection": {target: ["*"]}, "search_paths": ["."]}
    return written | {"sources": sources, "settings": settings}


def _packages_folder() -> Path:
    """Where snekmate, a namespace package, is installed."""
    snekmate = importlib.util.find_spec("snekmate")
    if snekmate is None or not snekmate.submodule_search_locations:
        raise ModuleNotFoundError(
            "snekmate is not installed; run scripts/test once, it installs what is locked"
        )
    return Path(next(iter(snekmate.submodule_search_locations))).resolve().parent


def _cache_path(path: str) -> Path:
    return CACHE / f"{Path(path).stem}-{_sources_hash()}.json"


def _sources_hash() -> str:
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for package in ("vyper", "snekmate"):
        digest.update(f"{package} {importlib.metadata.version(package)}\n".encode())
    for source in sorted(CONTRACTS.rglob("*.vy*")):
        digest.update(f"{source.relative_to(ROOT)}\0".encode() + source.read_bytes() + b"\0")
    return digest.hexdigest()[:24]
