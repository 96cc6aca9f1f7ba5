from __future__ import annotations

from typing import Any

import boa

from tests.support.contracts import ZERO, deployer, events


def test_init__owner__is_the_one_named_and_nothing_is_paused(models: Any, owner: str) -> None:
    assert models.owner() == owner
    assert models.pending_owner() == ZERO
    assert models.paused() is False


def test_init__zero_owner__reverts() -> None:
    with boa.reverts("models: owner is the zero address"):
        deployer("ModelRegistry").deploy(ZERO)


def test_set_paused__by_owner__logs_and_switches(models: Any, owner: str) -> None:
    for paused in (True, False):
        models.set_paused(paused, sender=owner)
        assert events(models) == [("PausedChanged", {"paused": paused})]
        assert models.paused() is paused


def test_set_paused__by_others__reverts(models: Any, publisher: str, stranger: str) -> None:
    for caller in (publisher, stranger):
        with boa.reverts("ownable: caller is not the owner"):
            models.set_paused(True, sender=caller)


def test_transfer_ownership__accepted__moves_the_switch(models: Any, owner: str, recipient: str) -> None:
    models.transfer_ownership(recipient, sender=owner)
    assert models.owner() == owner
    with boa.reverts("ownable: caller is not the owner"):
        models.set_paused(True, sender=recipient)
    models.accept_ownership(sender=recipient)
    models.set_paused(True, sender=recipient)
    with boa.reverts("ownable: caller is not the owner"):
        models.set_paused(False, sender=owner)


def test_accept_ownership__by_others__reverts(models: Any, owner: str, recipient: str, stranger: str) -> None:
    models.transfer_ownership(recipient, sender=owner)
    with boa.reverts("ownable_2step: caller is not the new owner"):
        models.accept_ownership(sender=stranger)


def test_renounce_ownership__by_owner__leaves_nobody_to_pause(models: Any, owner: str) -> None:
    models.renounce_ownership(sender=owner)
    assert models.owner() == ZERO
    with boa.reverts("ownable: caller is not the owner"):
        models.set_paused(True, sender=owner)
