"""A Settlement with one staked node and one published version."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from assay.commitments.signing import SigningKey

from tests.contracts.conftest import MIN_STAKE
from tests.support.contracts import deployer
from tests.support.market import DISPUTE_WINDOW, ESCROW_THAW, FEE_BPS, UNIT, Market, key


@pytest.fixture(scope="session")
def deploy_settlement(
    token: Any, models: Any, nodes: Any, dispute_game: str, owner: str, treasury: str
) -> Callable[..., Any]:
    """`deploy_settlement(fee_bps=…, …)`: any constructor argument by name."""

    def deploy(**overrides: Any) -> Any:
        terms = {
            "token": token,
            "models": models,
            "nodes": nodes,
            "dispute_game": dispute_game,
            "owner": owner,
            "treasury": treasury,
            "fee_bps": FEE_BPS,
            "dispute_window": DISPUTE_WINDOW,
            "escrow_thaw_period": ESCROW_THAW,
        } | overrides
        return deployer("Settlement").deploy(*terms.values())

    return deploy


@pytest.fixture(scope="session")
def settlement(deploy_settlement: Callable[..., Any]) -> Any:
    return deploy_settlement()


@pytest.fixture
def open_market(
    token: Any,
    models: Any,
    nodes: Any,
    deploy_settlement: Callable[..., Any],
    register_model: Callable[..., bytes],
    publish_version: Callable[..., bytes],
    register_node: Callable[..., str],
    stake: Callable[..., None],
) -> Callable[..., Market]:
    """`open_market(…)`: a Market around a Settlement deployed with these overrides."""

    def opened(contract: Any = None, **overrides: Any) -> Market:
        version_id = publish_version(register_model())
        node = register_node()
        stake(node, MIN_STAKE)
        contract = contract or deploy_settlement(**overrides)
        return Market(contract, overrides.get("token", token), models, nodes, node, version_id)

    return opened


@pytest.fixture
def market(open_market: Callable[..., Market], settlement: Any) -> Market:
    return open_market(settlement)


@pytest.fixture
def alice() -> SigningKey:
    return key("alice")


@pytest.fixture
def bob() -> SigningKey:
    return key("bob")


@pytest.fixture
def funded(market: Market, alice: SigningKey) -> Market:
    """The market, alice having 100 units in escrow."""
    market.fund(alice.address, 100 * UNIT)
    return market


@pytest.fixture
def wallet(bob: SigningKey) -> Any:
    """An ERC-1271 wallet that bob signs for."""
    return deployer("MockWallet").deploy(bob.address)
