"""Decides whether an artifact is served: by its rules, by what it does in a child process, by its
manifest."""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import signal
from dataclasses import astuple, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from assay import __version__
from assay.commitments.manifest import Manifest
from assay.disk import room_in, write_whole
from assay.node.errors import ArtifactRefused
from assay.node.models.confined import run_confined
from assay.node.models.exactness import ExactClaim, ExactTerms
from assay.types import TensorSpec

RULES_VERSION: Final = 7
"""Counts up when `rules` change, so that what passed before is looked at again."""

_PROCESSOR_FIELDS: Final = frozenset(("model name", "flags", "Features", "CPU part"))


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """`memory` in bytes of address space (ONNX Runtime itself takes about 0.5 GiB)."""

    memory: int = 4 << 30
    seconds: int = 60
    threads: int = 1


@dataclass(frozen=True, slots=True)
class Inspection:
    """What the child found: the signature that ONNX Runtime sees, and the seconds of one run of one row.

    `exact` is there if the file was claimed to be exact, and is. `memory_bytes`: by how much loading and
    running it made the child grow. `obstacle`: why its rows may depend on one another, by its graph.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    run_seconds: float
    exact: ExactTerms | None = None
    memory_bytes: int = 0
    obstacle: str = ""


def inspect_once(
    path: Path, limits: SandboxLimits, claim: ExactClaim | None = None, *, runtime: bool = True
) -> Inspection:
    """`inspect_artifact`, remembered beside a file that passed; the note counts for these rules and limits,
    and a claim of exactness for this processor, alone. Raises ArtifactRefused, RetryableError (the disk is
    full)."""
    note = path.with_suffix(".passed" if claim is None else f".{claim.program_root.hex()[:16]}.passed")
    terms = f"{RULES_VERSION} onnxruntime {metadata.version('onnxruntime')} {limits} {runtime}"
    if claim is not None:
        terms += f" {claim.program_root.hex()} {claim.self_test.name} {__version__} {processor()}"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(note.read_text())
        if known["terms"] == terms:
            return _inspection(known)
    found = inspect_artifact(path, limits, claim, runtime=runtime)
    rows = {kind: [astuple(spec) for spec in getattr(found, kind)] for kind in ("inputs", "outputs")}
    exact = found.exact.to_json() if found.exact else None
    told = {
        "terms": terms,
        "run_seconds": found.run_seconds,
        "memory_bytes": found.memory_bytes,
        "exact": exact,
        "obstacle": found.obstacle,
        **rows,
    }
    with room_in(note.parent):
        write_whole(note, json.dumps(told))
    return found


def processor() -> str:
    """A digest of what the processor calls itself and can do: another one may compute otherwise."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    told = {line for line in lines if line.partition(":")[0].strip() in _PROCESSOR_FIELDS}
    return hashlib.sha256("\n".join(sorted(told)).encode()).hexdigest()


def inspect_artifact(
    path: Path,
    limits: SandboxLimits = SandboxLimits(),
    claim: ExactClaim | None = None,
    *,
    runtime: bool = True,
) -> Inspection:
    """Parse, check, load and run an ONNX file in a limited child process; with a `claim`, also lower it and
    run its self-test there; without `runtime`, load and run nothing. Raises ArtifactRefused."""
    job = {
        "path": str(path.resolve()),
        "memory": limits.memory,
        "cpu_seconds": limits.seconds,
        "threads": limits.threads,
        "runtime": runtime,
        "exact": claim
        and {"program_root": claim.program_root.hex(), "self_test": str(claim.self_test.resolve())},
    }
    outcome = run_confined("assay.node.models.sandbox", job, limits.seconds)
    if outcome.status in (None, -signal.SIGXCPU, -signal.SIGKILL):
        raise _too_long(limits)
    return _parse_answer(outcome.answer, outcome.status)


def _too_long(limits: SandboxLimits) -> ArtifactRefused:
    return ArtifactRefused(
        f"loading and running it once took more than {limits.seconds} s, or the system ended it", code="time"
    )


def _parse_answer(raw: bytes, status: int | None) -> Inspection:
    try:
        answer: dict[str, Any] = json.loads(raw)
    except ValueError:
        raise ArtifactRefused(
            f"the process that loaded it ended with status {status} and no answer (out of memory, or a "
            f"crash)",
            code="crashed",
        ) from None
    if "error" in answer:
        raise ArtifactRefused(
            answer["error"],
            code=answer["code"],
            operator=answer.get("operator", ""),
            node=answer.get("node", ""),
        )
    return _inspection(answer)


def _inspection(answer: dict[str, Any]) -> Inspection:
    exact = answer["exact"] and ExactTerms.from_json(answer["exact"])
    return Inspection(
        _specs(answer["inputs"]),
        _specs(answer["outputs"]),
        float(answer["run_seconds"]),
        exact or None,
        int(answer["memory_bytes"]),
        str(answer["obstacle"]),
    )


def _specs(rows: list[list[Any]]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name, dtype, tuple(shape)) for name, dtype, shape in rows)


def check_signature(manifest: Manifest, found: Inspection) -> None:
    """The manifest must say what the file does. Raises ArtifactRefused `manifest`."""
    pairs = (("inputs", manifest.inputs, found.inputs), ("outputs", manifest.outputs, found.outputs))
    for kind, stated, actual in pairs:
        if len(stated) != len(actual):
            raise ArtifactRefused(
                f"the manifest states {len(stated)} {kind}, the file has {len(actual)}", code="manifest"
            )
        for want, have in zip(stated, actual, strict=True):
            if (want.name, want.dtype) != (have.name, have.dtype) or not _shape_fits(want.shape, have.shape):
                raise ArtifactRefused(
                    f"the manifest states {kind} {want.name!r} {want.dtype}{list(want.shape)}, the file has "
                    f"{have.name!r} {have.dtype}{list(have.shape)}",
                    code="manifest",
                )


def _shape_fits(stated: tuple[int, ...], actual: tuple[int, ...]) -> bool:
    """Equal, or stated more exactly where the file leaves a dimension open."""
    if not actual:  # ONNX Runtime reports an undeclared shape like a scalar's
        return True
    return len(stated) == len(actual) and all(
        have in (-1, want) for want, have in zip(stated, actual, strict=True)
    )
