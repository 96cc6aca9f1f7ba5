"""Loops at their hard bounds fit a block, and the hot paths keep their price.

Execution only: titanoboa counts neither the 21,000 base nor calldata; `scripts/bench gas` counts both.
"""

from __future__ import annotations

from typing import Any

import boa
import pytest
from assay.commitments.merkle import MerkleTree
from assay.commitments.signing import SigningKey

from tests.support.contracts import deployer
from tests.support.market import UNIT, Market, as_tuple, key

BLOCK_GAS = 30_000_000
MAX_CONTRACT_BYTES = 24_576


def gas_used(market: Market) -> int:
    return int(market.settlement.call_trace().gas_used)


@pytest.fixture
def consumers(market: Market) -> list[SigningKey]:
    keys = [key(f"consumer {i}") for i in range(128)]
    for each in keys:
        market.fund(each.address, 1_000 * UNIT)
    return keys


def test_post_batch__128_vouchers__fit_a_block(market: Market, consumers: list[SigningKey]) -> None:
    posted = market.post(*(market.row(each, UNIT, 1) for each in consumers))
    first = gas_used(market)
    assert market.settlement.batches(posted).count == 128
    market.post(*(market.row(each, 2 * UNIT, 2) for each in consumers))
    assert gas_used(market) < first < BLOCK_GAS // 4
    assert 128 * 3_000 < gas_used(market) < 128 * 13_000


def test_post_batch__129_vouchers__revert(market: Market, consumers: list[SigningKey]) -> None:
    rows = [market.row(each, UNIT, 1) for each in consumers]
    with boa.reverts():
        market.post(*rows, rows[0])


def test_post_batch__32_wallets_that_burn_all_they_get__fit_a_block(
    market: Market, consumers: list[SigningKey], bob: SigningKey
) -> None:
    wallets = []
    for _ in range(32):
        wallet = deployer("MockWallet").deploy(bob.address)
        wallet.set_behaviour(2)
        wallets.append(market.wallet_row(wallet, bob, 1, 1))
    posted = market.post(*(market.row(each, UNIT, 1) for each in consumers), wallets=wallets)
    assert 32 * 200_000 < gas_used(market) < BLOCK_GAS // 2
    assert market.settlement.batches(posted).count == 128


def test_collect__64_batches__fit_a_block(market: Market, consumers: list[SigningKey]) -> None:
    alice = consumers[0]
    known = [market.post_known(market.row(alice, (i + 1) * UNIT, i + 1))[1] for i in range(64)]
    market.finish()
    assert market.settlement.collect(known) == 64 * UNIT
    assert 64 * 2_000 < gas_used(market) < 64 * 20_000


def test_receipt_status__deepest_tree__stays_cheap(market: Market, alice: SigningKey) -> None:
    receipt = market.receipt(alice.address, UNIT)
    siblings = [bytes([level]) * 32 for level in range(32)]
    market.settlement.receipt_status(b"\x01" * 32, as_tuple(receipt), siblings, 2**32 - 1)
    tree = MerkleTree([market.digest(receipt)])
    posted = market.post(root=tree.root)
    market.settlement.receipt_status(posted, as_tuple(receipt), siblings, 2**32 - 1)
    assert 32 * 60 < gas_used(market) < 25_000


def test_runtime__of_every_contract__is_deployable() -> None:
    for name in ("ModelRegistry", "NodeRegistry", "Settlement"):
        code: Any = deployer(name).compiler_data.bytecode_runtime
        assert len(code) < MAX_CONTRACT_BYTES
