"""Construction and what the owner may do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import boa
import pytest
from assay.commitments.receipts import domain_separator
from assay.types import Address, Domain

from tests.support.contracts import ZERO, events
from tests.support.market import DISPUTE_WINDOW, ESCROW_THAW, FEE_BPS


def test_deploy__terms__are_readable(
    settlement: Any,
    token: Any,
    models: Any,
    nodes: Any,
    dispute_game: str,
    owner: str,
    treasury: str,
) -> None:
    assert settlement.token() == token.address
    assert settlement.models() == models.address
    assert settlement.nodes() == nodes.address
    assert settlement.dispute_game() == dispute_game
    assert settlement.owner() == owner
    assert settlement.treasury() == treasury
    assert settlement.fee_bps() == FEE_BPS
    assert settlement.dispute_window() == DISPUTE_WINDOW
    assert settlement.escrow_thaw_period() == ESCROW_THAW
    assert not settlement.paused()
    assert settlement.total_liabilities() == 0


def test_deploy__domain__is_the_specifications(settlement: Any) -> None:
    fields, name, version, chain_id, contract, salt, extensions = settlement.eip712Domain()
    assert (fields, name, version, salt, extensions) == (b"\x0f", "Assay", "1", bytes(32), [])
    assert contract == settlement.address
    domain = Domain(chain_id, Address(str(settlement.address)))
    assert settlement.DOMAIN_SEPARATOR() == domain_separator(domain)


@pytest.mark.parametrize(
    ("argument", "value", "reason"),
    [
        ("token", "0x" + "11" * 20, "settlement: token has no code"),
        ("models", "0x" + "11" * 20, "settlement: model registry has no code"),
        ("nodes", ZERO, "settlement: node registry has no code"),
        ("owner", ZERO, "settlement: owner is the zero address"),
        ("treasury", ZERO, "settlement: treasury is the zero address"),
        ("fee_bps", 501, "settlement: fee is over 500 bps"),
        ("dispute_window", 365 * 86_400 + 1, "settlement: dispute window is over 365 days"),
        ("escrow_thaw_period", 365 * 86_400 + 1, "settlement: escrow thaw period is over 365 days"),
    ],
)
def test_deploy__bad_term__reverts(
    deploy_settlement: Callable[..., Any], argument: str, value: Any, reason: str
) -> None:
    with boa.reverts(reason):
        deploy_settlement(**{argument: value})


def test_set_fee_bps__by_the_owner__keeps_the_pause(settlement: Any, owner: str) -> None:
    settlement.set_paused(True, sender=owner)
    settlement.set_fee_bps(500, sender=owner)
    assert events(settlement) == [("FeeChanged", {"old_bps": FEE_BPS, "new_bps": 500})]
    assert settlement.fee_bps() == 500
    assert settlement.paused()


def test_set_fee_bps__above_500__reverts(settlement: Any, owner: str) -> None:
    with boa.reverts("settlement: fee is over 500 bps"):
        settlement.set_fee_bps(501, sender=owner)


def test_set_paused__by_the_owner__keeps_the_fee(settlement: Any, owner: str) -> None:
    for paused in (True, False):
        settlement.set_paused(paused, sender=owner)
        assert events(settlement) == [("PausedChanged", {"paused": paused})]
        assert settlement.paused() is paused
        assert settlement.fee_bps() == FEE_BPS


def test_set_treasury__by_the_owner__changes_it(
    settlement: Any, owner: str, treasury: str, recipient: str
) -> None:
    settlement.set_treasury(recipient, sender=owner)
    assert events(settlement) == [("TreasuryChanged", {"old_treasury": treasury, "new_treasury": recipient})]
    assert settlement.treasury() == recipient
    with boa.reverts("settlement: treasury is the zero address"):
        settlement.set_treasury(ZERO, sender=owner)


@pytest.mark.parametrize(
    ("call", "value"), [("set_fee_bps", 1), ("set_paused", True), ("set_treasury", ZERO)]
)
def test_owner_calls__by_a_stranger__revert(
    settlement: Any, stranger: str, dispute_game: str, call: str, value: Any
) -> None:
    for caller in (stranger, dispute_game):
        with boa.reverts("ownable: caller is not the owner"):
            getattr(settlement, call)(value, sender=caller)


def test_transfer_ownership__takes_two_steps(settlement: Any, owner: str, recipient: str) -> None:
    settlement.transfer_ownership(recipient, sender=owner)
    assert settlement.owner() == owner
    assert settlement.pending_owner() == recipient
    settlement.accept_ownership(sender=recipient)
    assert settlement.owner() == recipient
