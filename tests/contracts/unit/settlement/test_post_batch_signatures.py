"""What is no signature of the consumer must not move its money.

EOA rows carry EIP-2098's `(r, vs)`: v is one bit, so 0, 1, 29 or 255 cannot be said, and no row is shorter or
longer than 64 bytes. The 65-byte form exists off-chain (tests of `assay.commitments.signing`) and in wallets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import boa
import pytest
from assay.commitments.signing import CURVE_ORDER, SigningKey, compact
from assay.types import Address, SkipReason
from eth_abi import encode
from hypothesis import given
from hypothesis import strategies as st

from tests.contracts.unit.settlement.test_post_batch import channel, reasons
from tests.support.contracts import ZERO, deployer
from tests.support.market import UNIT, Market, key

MAGIC = bytes.fromhex("1626ba7e")


def refuse(market: Market, *rows: Any, wallets: Any = ()) -> None:
    """Every row is skipped as badly signed, and no money moves."""
    before = market.settlement.total_liabilities()
    posted = market.post(*rows, wallets=wallets)
    consumers = [str(row[0]) for row in (*rows, *wallets)]
    assert reasons(market) == [(consumer, SkipReason.BAD_SIGNATURE) for consumer in consumers]
    assert market.settlement.batches(posted).amount == market.settlement.batches(posted).count == 0
    assert market.settlement.total_liabilities() == before
    for consumer in consumers:
        assert channel(market, consumer) == (0, 0)


def test_signature__of_another_chain__is_refused(funded: Market, alice: SigningKey) -> None:
    elsewhere = replace(funded.domain, chain_id=funded.domain.chain_id + 1)
    refuse(funded, funded.row(alice, UNIT, 1, domain=elsewhere))


def test_signature__of_another_contract__is_refused(
    funded: Market, alice: SigningKey, deploy_settlement: Callable[..., Any]
) -> None:
    twin = replace(funded.domain, settlement=Address(str(deploy_settlement().address)))
    refuse(funded, funded.row(alice, UNIT, 1, domain=twin))


def test_signature__after_a_fork_changed_the_chain_id__binds_to_the_new_one(
    funded: Market, alice: SigningKey
) -> None:
    old = funded.row(alice, UNIT, 1)
    vm = boa.env.evm.patch
    before = vm.chain_id
    vm.chain_id = before + 1
    try:
        assert funded.domain.chain_id == before + 1
        refuse(funded, old)
        funded.post(funded.row(alice, UNIT, 1))
        assert channel(funded, alice.address) == (UNIT, 1)
    finally:
        vm.chain_id = before


@pytest.mark.parametrize(
    "change",
    [
        {"amount": UNIT - 1},
        {"count": 2},
        {"node": Address("0x" + "11" * 20)},
        {"version_id": b"\x22" * 32},
        {"consumer": Address("0x" + "33" * 20)},
    ],
    ids=str,
)
def test_signature__over_another_voucher__is_refused(
    funded: Market, alice: SigningKey, change: dict[str, Any]
) -> None:
    refuse(funded, (alice.address, UNIT, 1, *compact(funded.sign(alice, UNIT, 1, **change))))


def test_signature__by_somebody_else__is_refused(funded: Market, alice: SigningKey, bob: SigningKey) -> None:
    forged = funded.sign(bob, UNIT, 1, consumer=Address(alice.address))
    refuse(funded, (alice.address, UNIT, 1, *compact(forged)))


def test_signature__replayed__pays_once(funded: Market, alice: SigningKey) -> None:
    row = funded.row(alice, UNIT, 1)
    funded.post(row, row)
    funded.post(row)
    assert reasons(funded) == [(alice.address, SkipReason.STALE)]
    assert channel(funded, alice.address) == (UNIT, 1)


def test_signature__high_s_twin__is_refused(funded: Market, alice: SigningKey) -> None:
    """The twin recovers to alice too, but its s needs the bit where the compact form keeps v."""
    r, vs = compact(funded.sign(alice, UNIT, 1))
    twin = CURVE_ORDER - (int.from_bytes(vs, "big") & (2**255 - 1))
    assert twin.bit_length() == 256
    refuse(funded, (alice.address, UNIT, 1, r, twin.to_bytes(32, "big")))


@pytest.mark.parametrize("s", [(CURVE_ORDER - 1) // 2 + 1, 2**255 - 1])
@pytest.mark.parametrize("parity", [0, 1])
def test_signature__s_above_half_the_order__is_refused(
    funded: Market, alice: SigningKey, s: int, parity: int
) -> None:
    r, _ = compact(funded.sign(alice, UNIT, 1))
    refuse(funded, (alice.address, UNIT, 1, r, (parity << 255 | s).to_bytes(32, "big")))


def test_signature__of_zeros__is_refused(funded: Market, alice: SigningKey) -> None:
    refuse(funded, (alice.address, UNIT, 1, bytes(32), bytes(32)))


@pytest.mark.parametrize("r", [0, 5, CURVE_ORDER, 2**256 - 1])
def test_signature__that_recovers_to_nobody__is_not_the_zero_addresss(funded: Market, r: int) -> None:
    """`ecrecover` answers failure with the zero address."""
    refuse(funded, (ZERO, UNIT, 1, r.to_bytes(32, "big"), (1).to_bytes(32, "big")))


def test_signature__of_the_zero_address_for_a_free_count__is_refused(funded: Market) -> None:
    refuse(funded, (ZERO, 0, 1, bytes(32), bytes(32)))


@given(bit=st.integers(0, 511))
def test_signature__any_bit_flipped__is_refused(bit: int) -> None:
    alice, digest = key("alice"), b"\x5a" * 32
    harness = deployer("CommitmentsHarness").deploy()
    r, vs = compact(alice.sign(digest))
    flipped = (int.from_bytes(r + vs, "big") ^ 1 << bit).to_bytes(64, "big")
    assert harness.is_signed_by(alice.address, digest, r, vs)
    assert not harness.is_signed_by(alice.address, digest, flipped[:32], flipped[32:])


def test_wallet__signed_by_its_signer__pays(market: Market, wallet: Any, bob: SigningKey) -> None:
    market.fund(wallet.address, UNIT)
    posted = market.post(wallets=[market.wallet_row(wallet, bob, UNIT, 4)])
    assert reasons(market) == []
    assert market.settlement.batches(posted).amount == UNIT
    assert channel(market, wallet.address) == (UNIT, 4)


def test_wallet__stale_or_without_escrow__is_skipped_for_that(
    market: Market, wallet: Any, bob: SigningKey
) -> None:
    row = market.wallet_row(wallet, bob, UNIT, 4)
    market.post(wallets=[row])
    assert reasons(market) == [(str(wallet.address), SkipReason.NO_ESCROW)]
    market.fund(wallet.address, UNIT)
    market.post(wallets=[row, row])
    assert reasons(market) == [(str(wallet.address), SkipReason.STALE)]


def test_wallet__signed_by_somebody_else__is_refused(market: Market, wallet: Any, alice: SigningKey) -> None:
    market.fund(wallet.address, UNIT)
    refuse(market, wallets=[market.wallet_row(wallet, alice, UNIT, 1)])


@pytest.mark.parametrize("v", [0, 1, 26, 29, 255])
def test_wallet__signature_with_another_v__is_refused(
    market: Market, wallet: Any, bob: SigningKey, v: int
) -> None:
    market.fund(wallet.address, UNIT)
    consumer, amount, count, signature = market.wallet_row(wallet, bob, UNIT, 1)
    refuse(market, wallets=[(consumer, amount, count, signature[:64] + bytes([v]))])


@pytest.mark.parametrize("length", [0, 1, 64])
def test_wallet__signature_truncated__is_refused(
    market: Market, wallet: Any, bob: SigningKey, length: int
) -> None:
    market.fund(wallet.address, UNIT)
    consumer, amount, count, signature = market.wallet_row(wallet, bob, UNIT, 1)
    refuse(market, wallets=[(consumer, amount, count, signature[:length])])


@pytest.mark.parametrize("behaviour", [1, 2, 3], ids=["reverts", "burns all gas", "loops"])
def test_wallet__misbehaves__costs_its_own_row_and_bounded_gas(
    funded: Market, wallet: Any, alice: SigningKey, bob: SigningKey, behaviour: int
) -> None:
    funded.fund(wallet.address, UNIT)
    wallet.set_behaviour(behaviour)
    row = funded.wallet_row(wallet, bob, UNIT, 1)
    refuse(funded, wallets=[row])
    posted = funded.post(funded.row(alice, 5, 1), wallets=[row])
    assert (200_000 if behaviour > 1 else 0) < funded.settlement.call_trace().gas_used < 500_000
    assert funded.settlement.batches(posted).amount == 5


@pytest.mark.parametrize(
    "answer",
    [
        MAGIC,
        MAGIC + bytes(27),
        bytes(28) + MAGIC,
        encode(["bool"], [True]),
        b"\xff" * 32,
        MAGIC + bytes(27) + b"\x01",
        bytes(32),
        bytes(32) + MAGIC.ljust(32, b"\0"),
        b"\x16" * 4096,
    ],
    ids=["short", "31 bytes", "right-aligned", "true", "ones", "dirty", "zero", "second word", "long"],
)
def test_wallet__answers_garbage__is_refused(
    market: Market, wallet: Any, bob: SigningKey, answer: bytes
) -> None:
    market.fund(wallet.address, UNIT)
    wallet.set_answer(answer)
    refuse(market, wallets=[market.wallet_row(wallet, bob, UNIT, 1)])


def test_wallet__answers_yes_and_more__is_a_yes(market: Market, wallet: Any, bob: SigningKey) -> None:
    """Only the first word is read: a long answer can neither pass for another nor cost memory."""
    market.fund(wallet.address, UNIT)
    wallet.set_answer(MAGIC.ljust(32, b"\0") + b"\x55" * 2048)
    market.post(wallets=[market.wallet_row(wallet, bob, UNIT, 1)])
    assert channel(market, wallet.address) == (UNIT, 1)


@pytest.mark.parametrize("precompile", [1, 2, 4])
def test_wallet__without_code_of_its_own__is_refused(
    market: Market, alice: SigningKey, precompile: int
) -> None:
    """An EOA answers nothing; sha256 and identity answer something."""
    market.fund(alice.address, UNIT)
    address = "0x" + precompile.to_bytes(20, "big").hex()
    market.fund(address, UNIT)
    refuse(market, wallets=[(alice.address, UNIT, 1, b""), (address, UNIT, 1, MAGIC)])


def test_wallet__as_a_plain_voucher__is_refused(market: Market, wallet: Any, bob: SigningKey) -> None:
    market.fund(wallet.address, UNIT)
    _, amount, count, signature = market.wallet_row(wallet, bob, UNIT, 1)
    refuse(market, (wallet.address, amount, count, *compact(signature)))
