"""The contracts that a watcher talks to, as one value."""

from __future__ import annotations

from dataclasses import dataclass

from assay.chain.client import ChainClient
from assay.chain.contracts import DisputeGame, ModelRegistry, NodeRegistry, Settlement, Token
from assay.chain.deployments import Deployment
from assay.errors import ConfigurationError
from assay.types import Domain


@dataclass(frozen=True, slots=True)
class Contracts:
    client: ChainClient
    deployment: Deployment
    models: ModelRegistry
    nodes: NodeRegistry
    settlement: Settlement
    token: Token
    game: DisputeGame

    @classmethod
    def of(cls, client: ChainClient, deployment: Deployment) -> Contracts:
        """Raises ConfigurationError where there is no dispute game."""
        if not deployment.has_disputes or DisputeGame.NAME not in deployment.addresses:
            raise ConfigurationError(
                f"the deployment in {deployment.folder} has no dispute game: no receipt of it can be "
                "overturned; name another with --deployments"
            )
        return cls(
            client,
            deployment,
            ModelRegistry(client, deployment),
            NodeRegistry(client, deployment),
            Settlement(client, deployment),
            Token(client, deployment),
            DisputeGame(client, deployment),
        )

    @property
    def domain(self) -> Domain:
        return self.deployment.domain
