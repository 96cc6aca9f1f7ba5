"""From a prepared version and node.toml's `executor` to an engine that runs it there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from assay.commitments.tensors import commit_tensors
from assay.node.config import VersionConfig
from assay.node.models.exactness import lower_artifact
from assay.node.models.self_test import Vector, parse_self_test
from assay.node.oip.protocol import Array
from assay.node.remote.engine import Reference, RemoteEngine, RemoteRules
from assay.node.remote.executor import Executor, Target
from assay.types import Hash32, TensorSpec


@dataclass(frozen=True, slots=True)
class RemoteVersion:
    """`artifact` and `self_test` are there for exact versions alone: files that passed the sandbox."""

    settings: VersionConfig
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    artifact: Path | None = None
    self_test: Path | None = None

    @property
    def memory_bytes(self) -> int:
        """What checking answers in this process takes: the program's weights, mostly."""
        return self.artifact.stat().st_size if self.artifact and self.settings.spot_check else 0


def executor_of(version: RemoteVersion, max_body: int) -> Executor:
    """`max_body`: bytes of an answer. Reads the self-test. Raises ArtifactRefused."""
    settings = version.settings
    target = Target(
        settings.executor,
        settings.executor_model or settings.name,
        settings.executor_version,
        settings.executor_seconds,
        max_body,
        settings.executor_json,
    )
    vectors: tuple[Vector, ...] = ()
    if version.artifact is not None and version.self_test is not None:
        vectors = tuple(parse_self_test(version.self_test.read_bytes(), version.artifact.name))
    return Executor(target, version.inputs, version.outputs, vectors)


def build_remote(
    version: RemoteVersion, rules: RemoteRules, max_body: int, on_problem: Callable[[str], None]
) -> RemoteEngine:
    """Not started yet. SYNC: reads files, lowers the program for spot checks. Raises ArtifactRefused."""
    spotted = version.artifact if version.settings.spot_check else None
    reference = evaluator_of(spotted) if spotted is not None else None
    executor = executor_of(version, max_body)
    return RemoteEngine(executor, rules, on_problem, reference, memory_bytes=version.memory_bytes)


def evaluator_of(artifact: Path) -> Reference:
    """Computes an exact version's outputs, and hashes them, in this process."""
    from assay.exact.evaluator import evaluate

    program = lower_artifact(artifact.read_bytes())

    def reference(inputs: Sequence[Array]) -> Hash32:
        return commit_tensors(evaluate(program, list(inputs)))

    return reference
