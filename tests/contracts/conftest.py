"""Contracts in titanoboa, whose plugin rolls the chain back after each fixture and test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import boa
import pytest
from boa.contracts.vyper.vyper_contract import VyperContract

from tests.support.contracts import deployer

MIN_STAKE = 1_000 * 10**18
THAW_PERIOD = 14 * 86_400
START = 1_800_000_000
"""Unix seconds at which every test begins."""


@pytest.fixture(scope="session", autouse=True)
def terse_contracts() -> Iterator[None]:
    """boa prints a contract's whole storage at each revert, and fails at it where a rolled-back contract had
    the same address and another layout.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VyperContract, "__repr__", lambda self: f"<{self.contract_name} at {self.address}>")
        yield


@pytest.fixture(scope="session", autouse=True)
def one_source_map_a_contract() -> Iterator[None]:
    """boa assembles a contract anew at each deployment, which takes longer than all else that tests do with
    it; the map from its creation code to its source is the same each time.
    """
    compute = cast(Any, VyperContract.__dict__["_deployment_source_map"]).func

    def lookup(contract: Any) -> Any:
        data = contract.compiler_data
        if not hasattr(data, "deployment_source_map"):
            data.deployment_source_map = compute(contract)
        return data.deployment_source_map

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VyperContract, "_deployment_source_map", property(lookup))
        yield


@pytest.fixture(scope="session", autouse=True)
def clock() -> None:
    boa.env.timestamp = START


def _actor(name: str) -> Any:
    @pytest.fixture(scope="session", name=name)
    def actor() -> str:
        return str(boa.env.generate_address(name))

    return actor


owner = _actor("owner")
publisher = _actor("publisher")
operator = _actor("operator")
other_operator = _actor("other_operator")
signer = _actor("signer")
other_signer = _actor("other_signer")
consumer = _actor("consumer")
treasury = _actor("treasury")
dispute_game = _actor("dispute_game")
recipient = _actor("recipient")
stranger = _actor("stranger")


@pytest.fixture(scope="session")
def deploy_token() -> Callable[..., Any]:
    """`deploy_token(kind="MockToken")`: any contract of contracts/mocks."""
    return lambda kind="MockToken": deployer(kind).deploy("Test Token", "TEST")


@pytest.fixture(scope="session")
def token(deploy_token: Callable[..., Any]) -> Any:
    return deploy_token()


@pytest.fixture(scope="session")
def models(owner: str) -> Any:
    return deployer("ModelRegistry").deploy(owner)


@pytest.fixture(scope="session")
def deploy_nodes(token: Any, dispute_game: str, owner: str) -> Callable[..., Any]:
    """`deploy_nodes(token=…, dispute_game=…, owner=…, min_stake=…, thaw_period=…)`, all optional."""

    def deploy(**overrides: Any) -> Any:
        terms = {
            "token": token,
            "dispute_game": dispute_game,
            "owner": owner,
            "min_stake": MIN_STAKE,
            "thaw_period": THAW_PERIOD,
        } | overrides
        return deployer("NodeRegistry").deploy(*terms.values())

    return deploy


@pytest.fixture(scope="session")
def nodes(deploy_nodes: Callable[..., Any]) -> Any:
    return deploy_nodes()


@pytest.fixture
def register_model(models: Any, publisher: str) -> Callable[..., bytes]:
    """Registers a model and returns its id."""
    return lambda name="digits", uri="ipfs://card", by=publisher: models.register_model(name, uri, sender=by)


@pytest.fixture
def publish_version(models: Any, publisher: str) -> Callable[..., bytes]:
    """Publishes a version of a model and returns its id."""

    def publish(model_id: bytes, *, by: str = publisher, **overrides: Any) -> bytes:
        content = {
            "artifact": b"\xaa" * 32,
            "program_root": b"\xbb" * 32,
            "manifest_hash": b"\xcc" * 32,
            "royalty_bps": 500,
            "uri": "https://hub.example/a",
        } | overrides
        return models.publish_version(model_id, *content.values(), sender=by)

    return publish


@pytest.fixture
def register_node(nodes: Any, operator: str, signer: str) -> Callable[..., Any]:
    """Registers a node and returns its operator's address."""

    def register(*, registry: Any = nodes, by: str = operator, key: str = signer) -> str:
        registry.register(key, "https://node.example", sender=by)
        return by

    return register


@pytest.fixture
def stake(nodes: Any, token: Any, stranger: str) -> Callable[..., None]:
    """Mints, approves and stakes `amount` for a node, by default from a stranger's pocket."""

    def give(
        node: str, amount: int, *, registry: Any = nodes, currency: Any = token, by: str = stranger
    ) -> None:
        currency.mint(by, amount)
        currency.approve(registry, amount, sender=by)
        registry.stake(node, amount, sender=by)

    return give
