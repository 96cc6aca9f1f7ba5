"""From a prepared version and node.toml's `executor` to an engine that runs it there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from assay.commitments.tensors import commit_tensors
from assay.node.config import VersionConfig
from assay.node.exactness import lower_artifact
from assay.node.oip import Array
from assay.node.remote.engine import Reference, RemoteEngine, RemoteRules
from assay.node.remote.executor import Executor, Target
from assay.node.self_test import parse_self_test
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


def build_remote(
    version: RemoteVersion, rules: RemoteRules, max_body: int, on_problem: Callable[[str], None]
) -> RemoteEngine:
    """Not started yet. SYNC: reads files, lowers the program for spot checks. Raises ArtifactRefused."""
    settings = version.settings
    target = Target(
        settings.executor,
        settings.executor_model or settings.name,
        settings.executor_version,
        settings.executor_seconds,
        max_body,
        settings.executor_json,
    )
    vectors = ()
    reference = None
    if version.artifact is not None and version.self_test is not None:
        vectors = tuple(parse_self_test(version.self_test.read_bytes(), version.artifact.name))
        if settings.spot_check:
            reference = evaluator_of(version.artifact)
    executor = Executor(target, version.inputs, version.outputs, vectors)
    return RemoteEngine(executor, rules, on_problem, reference, memory_bytes=version.memory_bytes)


def evaluator_of(artifact: Path) -> Reference:
    """Computes an exact version's outputs, and hashes them, in this process."""
    from assay.exact.evaluator import evaluate

    program = lower_artifact(artifact.read_bytes())

    def reference(inputs: Sequence[Array]) -> Hash32:
        return commit_tensors(evaluate(program, list(inputs)))

    return reference
