"""The real contracts, compiled and deployed by Ape onto a real Anvil process.

Ape's own pytest plugin stays off; its Python API is imported inside fixtures, on a copy of the contracts, and
with a data folder of its own, so that neither the person's accounts nor other tests are touched.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from assay.commitments.signing import SigningKey

from tests.support.anvil import Anvil, anvil

ROOT = Path(__file__).resolve().parents[3]
COMPILED = ROOT / ".build" / "contracts"
UNIT = 10**18
MIN_STAKE = 100 * UNIT
THAW_PERIOD = 3_000
DISPUTE_WINDOW = 1_000
ESCROW_THAW = 500
FEE_BPS = 100


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.acceptance)
            item.add_marker(pytest.mark.timeout(300))
            # Ape's plugins warn while they are imported and configured; what the tests check is not in there
            item.add_marker(pytest.mark.filterwarnings("ignore"))


@pytest.fixture(scope="session")
def ape(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """Ape with an empty data folder; its compiler plugin looks for `vyper` on PATH."""
    patch = pytest.MonkeyPatch()
    patch.setenv("APE_DATA_FOLDER", str(tmp_path_factory.mktemp("ape")))
    patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    import ape as module

    yield module
    patch.undo()


@pytest.fixture(scope="session")
def project(ape: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A copy of the contracts under the repository's own `ape-config.yaml`, compiled by Ape once for all
    workers and, until a source changes, for later runs.
    """
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "contracts", folder / "contracts")
    shutil.copy(ROOT / "ape-config.yaml", folder)
    kept, manifest = COMPILED / f"ape-{_inputs_hash(folder)}.json", folder / ".build" / "__local__.json"
    COMPILED.mkdir(parents=True, exist_ok=True)
    with (COMPILED / "ape.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if kept.exists():
            manifest.parent.mkdir()
            shutil.copy(kept, manifest)
        project = ape.Project(folder)
        project.load_contracts()
        if not kept.exists():
            shutil.copy(manifest, kept.with_suffix(".tmp")).replace(kept)
    return project


def _inputs_hash(folder: Path) -> str:
    """Of all that a compilation depends on."""
    digest = hashlib.sha256()
    for package in ("eth-ape", "ape-vyper", "vyper", "snekmate"):
        digest.update(f"{package} {importlib.metadata.version(package)}\n".encode())
    for source in (folder / "ape-config.yaml", *sorted((folder / "contracts").rglob("*.vy*"))):
        digest.update(f"{source.relative_to(folder)}\0".encode() + source.read_bytes() + b"\0")
    return digest.hexdigest()[:24]


@pytest.fixture(scope="module")
def chain() -> Iterator[Anvil]:
    with anvil() as running:
        yield running


@dataclass
class World:
    """The deployed contracts and who plays which part; `signer` and `consumer` can sign digests."""

    chain: Anvil
    token: Any
    models: Any
    nodes: Any
    settlement: Any
    owner: Any
    publisher: Any
    operator: Any
    treasury: Any
    dispute_game: Any
    funder: Any
    stranger: Any
    signer: SigningKey
    consumer: SigningKey

    @property
    def everything(self) -> tuple[Any, ...]:
        return (self.token, self.models, self.nodes, self.settlement)


@pytest.fixture(scope="module")
def world(ape: ModuleType, project: Any, chain: Anvil) -> Iterator[World]:
    settings = {"host": chain.url, "manage_process": False}
    with ape.networks.ethereum.local.use_provider("foundry", provider_settings=settings):
        owner, publisher, operator, treasury, game, funder, stranger = ape.accounts.test_accounts[:7]
        token = owner.deploy(project.MockToken, "Assay Test", "ATT")
        models = owner.deploy(project.ModelRegistry, owner)
        nodes = owner.deploy(project.NodeRegistry, token, game, owner, MIN_STAKE, THAW_PERIOD)
        terms = (owner, treasury, FEE_BPS, DISPUTE_WINDOW, ESCROW_THAW)
        settlement = owner.deploy(project.Settlement, token, models, nodes, game, *terms)
        yield World(
            chain=chain,
            token=token,
            models=models,
            nodes=nodes,
            settlement=settlement,
            owner=owner,
            publisher=publisher,
            operator=operator,
            treasury=treasury,
            dispute_game=game,
            funder=funder,
            stranger=stranger,
            signer=SigningKey.generate(),
            consumer=SigningKey.generate(),
        )


@pytest.fixture
def fresh(world: World) -> Iterator[World]:
    """The world as deployed; what the test does is taken back."""
    snapshot = world.chain.snapshot()
    yield world
    world.chain.revert(snapshot)
