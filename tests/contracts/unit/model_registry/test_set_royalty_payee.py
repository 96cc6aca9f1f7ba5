from __future__ import annotations

from collections.abc import Callable
from typing import Any

import boa

from tests.support.contracts import ZERO, events


def test_set_royalty_payee__by_publisher__pays_every_version_to_the_payee(
    models: Any,
    register_model: Callable[..., bytes],
    publish_version: Callable[..., bytes],
    publisher: str,
    recipient: str,
) -> None:
    model_id = register_model()
    before = publish_version(model_id, royalty_bps=1)
    models.set_royalty_payee(model_id, recipient, sender=publisher)
    assert events(models) == [
        ("RoyaltyPayeeChanged", {"model_id": model_id, "old_payee": publisher, "new_payee": recipient})
    ]
    after = publish_version(model_id, royalty_bps=2, program_root=bytes(32))
    assert models.royalty_info(before) == (recipient, 1, b"\xbb" * 32)
    assert models.royalty_info(after) == (recipient, 2, bytes(32))
    assert models.models(model_id).payee == recipient


def test_set_royalty_payee__zero_address__reverts(
    models: Any, register_model: Callable[..., bytes], publisher: str
) -> None:
    model_id = register_model()
    with boa.reverts("models: payee is the zero address"):
        models.set_royalty_payee(model_id, ZERO, sender=publisher)


def test_set_royalty_payee__by_others__reverts(
    models: Any, register_model: Callable[..., bytes], publisher: str, recipient: str, owner: str
) -> None:
    model_id = register_model()
    models.set_royalty_payee(model_id, recipient, sender=publisher)
    for caller in (recipient, owner):
        with boa.reverts("models: caller is not the publisher"):
            models.set_royalty_payee(model_id, caller, sender=caller)
