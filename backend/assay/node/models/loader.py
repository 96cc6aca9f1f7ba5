"""Brings versions into the catalogue: chain record, manifest, artifact, validation, session."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from assay.commitments import identifiers
from assay.commitments.manifest import Manifest
from assay.errors import ConfigurationError
from assay.node.config import VersionConfig
from assay.node.engines.engine import Engine
from assay.node.engines.opening import Loadable, LocalEngines, same_engine
from assay.node.models.artifacts import MAX_MANIFEST, ArtifactCache
from assay.node.models.catalog import Served
from assay.node.models.exactness import ExactClaim, ExactTerms
from assay.node.models.loading_thread import run_beside
from assay.node.models.rules import MAX_ARTIFACT
from assay.node.models.self_test import MAX_SELF_TEST
from assay.node.models.validate import Inspection, SandboxLimits, check_signature, inspect_once
from assay.node.payments.chain_ledger import ChainLedger
from assay.node.remote.engine import RemoteRules
from assay.node.remote.opening import RemoteVersion, build_remote
from assay.types import ZERO_HASH, Address, Assurance, Hash32, TensorSpec


@dataclass(frozen=True, slots=True)
class VersionRecord:
    """What the chain says of a version, as far as serving needs it."""

    served: Served
    artifact: Hash32
    manifest_hash: Hash32
    program_root: Hash32 = ZERO_HASH

    @property
    def is_exact(self) -> bool:
        return self.served.assurance is Assurance.EXACT


def describe_version(ledger: ChainLedger, publisher: Address, name: str, number: int) -> VersionRecord:
    """`publisher` is the account that registered the model. Raises ConfigurationError if it is not on the
    chain."""
    version_id = identifiers.version_id(identifiers.model_id(publisher, name), number)
    version = ledger.models.version(version_id)
    if not version.exists:
        raise ConfigurationError(
            f"{publisher}/{name} version {number} is not in the model registry of chain "
            f"{ledger.client.chain_id}; correct it, or remove it from node.toml"
        )
    assurance = ledger.deployment.assurance_of(has_program=version.has_program)
    served = Served(version_id, publisher, name, number, assurance)
    return VersionRecord(served, version.artifact, version.manifest_hash, version.program_root)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A version that passed, and what it will take of this process's memory."""

    record: VersionRecord
    manifest: Manifest
    path: Path
    inspection: Inspection
    remote: RemoteVersion | None = None

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self.manifest.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self.manifest.outputs

    @property
    def exact(self) -> ExactTerms | None:
        return self.inspection.exact

    @property
    def memory_bytes(self) -> int:
        return self.remote.memory_bytes if self.remote else self.inspection.memory_bytes

    @property
    def obstacle(self) -> str:
        """Why its rows may not run together; an exact program is lowered row by row."""
        if self.exact is None:
            return self.inspection.obstacle
        return "" if self.exact.batched else "its program takes one row at a time"


@dataclass(frozen=True, slots=True)
class Loader:
    """Loads one version after another; each in a sandbox first. `wrap` makes what serves of what `engines`
    opens. By version, from node.toml: `max_batch`, and `executors` of those that another server runs, by
    `remote_rules`, with answers of at most `max_answer` bytes."""

    cache: ArtifactCache
    limits: SandboxLimits
    engines: LocalEngines
    max_artifact: int = MAX_ARTIFACT
    wrap: Callable[[Engine], Engine] = same_engine
    max_batch: Mapping[Hash32, int] = field(default_factory=dict)
    executors: Mapping[Hash32, VersionConfig] = field(default_factory=dict)
    remote_rules: RemoteRules = field(default_factory=RemoteRules)
    max_answer: int = 64 << 20
    opening: asyncio.Lock = field(default_factory=asyncio.Lock)
    """One at a time in this process, so that each is timed by itself."""

    def fetch(self, record: VersionRecord) -> tuple[Manifest, Path]:
        """Raises RetryableError, ArtifactRefused."""
        manifest = self.cache.fetch(record.manifest_hash, MAX_MANIFEST).read_bytes()
        return Manifest.from_bytes(manifest), self.cache.fetch(record.artifact, self.max_artifact)

    def inspect(self, record: VersionRecord, *, runtime: bool = True) -> tuple[Manifest, Path, Inspection]:
        """Fetch and validate without loading it into this process; not `runtime`: without ONNX Runtime there.
        Raises RetryableError, ArtifactRefused."""
        manifest, path = self.fetch(record)
        claim = None
        if record.is_exact:
            claim = ExactClaim(record.program_root, self.cache.fetch(manifest.self_test, MAX_SELF_TEST))
        found = inspect_once(path, self.limits, claim, runtime=runtime)
        check_signature(manifest, found)
        return manifest, path, found

    def prepare(self, record: VersionRecord) -> Prepared:
        """Everything up to building an engine. Raises RetryableError, ArtifactRefused."""
        settings = self.executors.get(record.served.version_id)
        if settings is None:
            return Prepared(record, *self.inspect(record))
        return self._prepare_remote(record, settings)

    def _prepare_remote(self, record: VersionRecord, settings: VersionConfig) -> Prepared:
        """Of what another server runs, only exact versions' artifacts are needed here: for their terms."""
        if record.is_exact:
            manifest, path, found = self.inspect(record, runtime=False)
            remote = RemoteVersion(
                settings, manifest.inputs, manifest.outputs, path, self.cache.path(manifest.self_test)
            )
            return Prepared(record, manifest, path, found, remote)
        path = self.cache.fetch(record.manifest_hash, MAX_MANIFEST)
        manifest = Manifest.from_bytes(path.read_bytes())
        found = Inspection(manifest.inputs, manifest.outputs, 0.0)
        remote = RemoteVersion(settings, manifest.inputs, manifest.outputs)
        return Prepared(record, manifest, path, found, remote)

    def open(self, prepared: Prepared) -> Engine:
        """A warm engine in this process. Raises ArtifactRefused."""
        record = prepared.record
        version = Loadable(
            prepared.path,
            prepared.inputs,
            prepared.outputs,
            is_exact=record.is_exact,
            obstacle=prepared.obstacle,
            max_batch=self.max_batch.get(record.served.version_id, 0),
            memory_bytes=prepared.memory_bytes,
            name=f"{record.served.full_name}@{record.served.number}",
        )
        return self.wrap(self.engines.open(version))

    async def start(self, prepared: Prepared, on_problem: Callable[[str], None]) -> tuple[Engine, str]:
        """A warm engine, and why it cannot serve yet, if it is another server's. Raises ArtifactRefused."""
        if prepared.remote is None:
            async with self.opening:
                return await run_beside(partial(self.open, prepared)), ""
        rules = replace(
            self.remote_rules,
            connections=prepared.remote.settings.executor_connections,
            spot_check=prepared.remote.settings.spot_check,
        )
        engine = await run_beside(partial(build_remote, prepared.remote, rules, self.max_answer, on_problem))
        await engine.start()
        return self.wrap(engine), engine.problem
