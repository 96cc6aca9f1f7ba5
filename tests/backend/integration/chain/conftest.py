"""A real chain with the contracts, and what sends to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from assay.chain.client import ChainClient
from assay.chain.contracts import ModelRegistry, NodeRegistry, Settlement, Token
from assay.chain.deployments import Deployment
from assay.commitments.signing import SigningKey

from tests.support.anvil import Anvil, anvil
from tests.support.deploy import deploy

GAME = "0x" + "77" * 20
"""Stands where the dispute game will: without one nothing counts as verified."""


@dataclass(frozen=True)
class World:
    """One Anvil with everything deployed; `keys[0]` is the deployer."""

    chain: Anvil
    client: ChainClient
    deployment: Deployment
    folder: Path
    keys: tuple[SigningKey, ...]

    @property
    def token(self) -> Token:
        return Token(self.client, self.deployment)

    @property
    def models(self) -> ModelRegistry:
        return ModelRegistry(self.client, self.deployment)

    @property
    def nodes(self) -> NodeRegistry:
        return NodeRegistry(self.client, self.deployment)

    @property
    def settlement(self) -> Settlement:
        return Settlement(self.client, self.deployment)


@pytest.fixture(scope="session")
def session_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("deployments")
    with anvil() as chain, ChainClient(chain.url) as client:
        deployment = deploy(chain.url, folder, dispute_window=100, dispute_game=GAME)
        keys = tuple(SigningKey(bytes.fromhex(key)) for key in chain.keys)
        yield World(chain, client, deployment, folder, keys)


@pytest.fixture
def world(session_world: World) -> Iterator[World]:
    """The session's chain, put back afterwards."""
    snapshot = session_world.chain.snapshot()
    yield session_world
    session_world.chain.set_automine(True)
    session_world.chain.revert(snapshot)
