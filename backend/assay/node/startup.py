"""What a node is made of, from its settings: its folder, chain and key, how it loads and runs versions."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from assay.chain.client import ChainClient
from assay.chain.deployments import Deployment
from assay.chain.keys import load_key, read_password
from assay.commitments.identifiers import model_id, version_id
from assay.commitments.signing import SigningKey
from assay.errors import ConfigurationError
from assay.node.config import (
    ARTIFACTS,
    MIB,
    NodeConfig,
    resolve_path,
)
from assay.node.engines.local_engine import EngineRules
from assay.node.engines.opening import LocalEngines
from assay.node.models.artifacts import ArtifactCache
from assay.node.models.loader import Loader, VersionRecord, describe_version
from assay.node.models.memory import MemoryBudget, machine_bytes
from assay.node.models.validate import SandboxLimits
from assay.node.payments.chain_ledger import ChainLedger
from assay.node.remote.engine import RemoteRules
from assay.types import Address

INLINE_MS = 1.0
LONE_INLINE_MS = 25.0
"""Where there is one core: a run in a thread takes as much from the event loop, and two hand-overs more."""


@contextlib.contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """One process a data folder. Raises ConfigurationError if another one runs."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(
                f"another process serves from {folder}; stop it, or give this node another --data folder"
            ) from None
        file.write(str(os.getpid()))
        file.flush()
        yield


def open_chain(folder: Path, config: NodeConfig) -> tuple[ChainClient, Deployment]:
    """Raises ConfigurationError, FatalError on the wrong chain."""
    client = ChainClient(config.rpc_urls, config.chain_id)
    return client, Deployment.load(resolve_path(folder, config.deployments), config.chain_id)


def load_signer(folder: Path, config: NodeConfig) -> SigningKey:
    """The hot key. Raises ConfigurationError."""
    password = read_password(resolve_path(folder, config.password_file))
    path = resolve_path(folder, config.signer)
    return load_key(path if path.exists() else config.signer, password)


def build_loader(folder: Path, config: NodeConfig) -> Loader:
    limits = config.limits
    versions = {
        version_id(model_id(Address(one.publisher), one.name), one.number): one for one in config.versions
    }
    return Loader(
        cache=ArtifactCache(folder / ARTIFACTS, config.hub_url),
        limits=SandboxLimits(limits.sandbox_mib * MIB, limits.sandbox_seconds, config.session_threads),
        engines=LocalEngines(engine_rules(config)),
        max_artifact=limits.artifact_mib * MIB,
        max_batch={key: one.max_batch for key, one in versions.items()},
        executors={key: one for key, one in versions.items() if one.executor},
        remote_rules=RemoteRules(
            max_waiting=config.engines.max_waiting,
            max_waiting_bytes=config.engines.max_waiting_mib * MIB,
            wait_seconds=config.engines.wait_ms / 1000,
        ),
    )


def usable_cores() -> int:
    """Of this process; other processes may use them as well."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def engine_rules(config: NodeConfig) -> EngineRules:
    engines, cores = config.engines, usable_cores()
    inline_ms = engines.inline_ms
    if inline_ms is None:
        inline_ms = INLINE_MS if cores > 1 else LONE_INLINE_MS
    return EngineRules(
        run_seconds=config.limits.run_seconds,
        threads=config.session_threads,
        lanes=config.run_threads or max(cores - 1, 1),
        inline_seconds=inline_ms / 1000,
        max_waiting=engines.max_waiting,
        max_waiting_bytes=engines.max_waiting_mib * MIB,
        max_batch_bytes=engines.max_batch_mib * MIB,
        wait_seconds=engines.wait_ms / 1000,
    )


def memory_budget(config: NodeConfig) -> MemoryBudget:
    size = config.memory.budget_mib * MIB or machine_bytes() // 2
    return MemoryBudget(size, config.memory.min_resident_seconds)


def describe_all(ledger: ChainLedger, config: NodeConfig) -> list[VersionRecord]:
    """Raises ConfigurationError for a version that is not on the chain."""
    return [
        describe_version(ledger, Address(version.publisher), version.name, version.number)
        for version in config.versions
    ]


def check_registered(ledger: ChainLedger, signer: SigningKey) -> None:
    """Raises ConfigurationError unless the node is registered with this signer."""
    found = ledger.nodes.node(ledger.node)
    if not found.is_registered:
        raise ConfigurationError(
            f"node {ledger.node} is not registered on chain {ledger.client.chain_id}; run `assay node init`"
        )
    if found.signer != signer.address:
        raise ConfigurationError(
            f"the keystore's key is {signer.address}, the chain has {found.signer} as signer of node "
            f"{ledger.node}; use that key's keystore, or rotate with `assay node init`"
        )
