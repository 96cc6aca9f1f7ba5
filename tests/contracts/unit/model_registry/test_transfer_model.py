from __future__ import annotations

from collections.abc import Callable
from typing import Any

import boa
import pytest

from tests.support.contracts import ZERO, events


@pytest.fixture
def model_id(register_model: Callable[..., bytes]) -> bytes:
    return register_model()


def test_transfer_model__named__changes_nothing_until_accepted(
    models: Any, model_id: bytes, publisher: str, recipient: str
) -> None:
    models.transfer_model(model_id, recipient, sender=publisher)
    assert events(models) == [
        (
            "ModelTransferStarted",
            {"model_id": model_id, "publisher": publisher, "new_publisher": recipient},
        )
    ]
    model = models.models(model_id)
    assert (model.publisher, model.pending_publisher, model.payee) == (publisher, recipient, publisher)


def test_accept_model__by_the_named__makes_it_publisher_and_payee(
    models: Any,
    model_id: bytes,
    publish_version: Callable[..., bytes],
    publisher: str,
    recipient: str,
    treasury: str,
) -> None:
    models.set_royalty_payee(model_id, treasury, sender=publisher)
    models.transfer_model(model_id, recipient, sender=publisher)
    models.accept_model(model_id, sender=recipient)
    assert events(models) == [
        (
            "ModelTransferred",
            {"model_id": model_id, "old_publisher": publisher, "new_publisher": recipient},
        ),
        ("RoyaltyPayeeChanged", {"model_id": model_id, "old_payee": treasury, "new_payee": recipient}),
    ]
    model = models.models(model_id)
    assert (model.publisher, model.pending_publisher, model.payee) == (recipient, ZERO, recipient)
    publish_version(model_id, by=recipient)
    with boa.reverts("models: caller is not the publisher"):
        publish_version(model_id, by=publisher)


def test_accept_model__twice__reverts(models: Any, model_id: bytes, publisher: str, recipient: str) -> None:
    models.transfer_model(model_id, recipient, sender=publisher)
    models.accept_model(model_id, sender=recipient)
    with boa.reverts("models: caller is not the pending publisher"):
        models.accept_model(model_id, sender=recipient)


def test_transfer_model__to_zero__cancels(
    models: Any, model_id: bytes, publisher: str, recipient: str
) -> None:
    models.transfer_model(model_id, recipient, sender=publisher)
    models.transfer_model(model_id, ZERO, sender=publisher)
    assert events(models)[0][1]["new_publisher"] == ZERO
    with boa.reverts("models: caller is not the pending publisher"):
        models.accept_model(model_id, sender=recipient)


def test_transfer_model__again__replaces_the_named(
    models: Any, model_id: bytes, publisher: str, recipient: str, treasury: str
) -> None:
    models.transfer_model(model_id, recipient, sender=publisher)
    models.transfer_model(model_id, treasury, sender=publisher)
    with boa.reverts("models: caller is not the pending publisher"):
        models.accept_model(model_id, sender=recipient)
    models.accept_model(model_id, sender=treasury)


def test_transfer_model__by_others__reverts(
    models: Any, model_id: bytes, publisher: str, recipient: str, stranger: str, owner: str
) -> None:
    models.transfer_model(model_id, recipient, sender=publisher)
    for caller in (stranger, owner, recipient):
        with boa.reverts("models: caller is not the publisher"):
            models.transfer_model(model_id, stranger, sender=caller)


def test_accept_model__by_others__reverts(
    models: Any, model_id: bytes, publisher: str, recipient: str, stranger: str, owner: str
) -> None:
    models.transfer_model(model_id, recipient, sender=publisher)
    for caller in (stranger, owner, publisher):
        with boa.reverts("models: caller is not the pending publisher"):
            models.accept_model(model_id, sender=caller)


def test_accept_model__unknown_model__reverts(models: Any, stranger: str) -> None:
    with boa.reverts("models: caller is not the pending publisher"):
        models.accept_model(b"\x07" * 32, sender=stranger)
