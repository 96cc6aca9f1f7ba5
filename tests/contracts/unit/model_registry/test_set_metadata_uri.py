from __future__ import annotations

from collections.abc import Callable
from typing import Any

import boa

from tests.support.contracts import events


def test_set_metadata_uri__by_publisher__changes_and_logs_both(
    models: Any, register_model: Callable[..., bytes], publisher: str
) -> None:
    model_id = register_model(uri="ipfs://old")
    models.set_metadata_uri(model_id, "ipfs://new", sender=publisher)
    assert events(models) == [
        ("MetadataUriChanged", {"model_id": model_id, "old_uri": "ipfs://old", "new_uri": "ipfs://new"})
    ]
    assert models.models(model_id).metadata_uri == "ipfs://new"


def test_set_metadata_uri__shorter_or_empty__leaves_nothing_of_the_old(
    models: Any, register_model: Callable[..., bytes], publisher: str
) -> None:
    model_id = register_model(uri="x" * 256)
    for uri in ("y", ""):
        models.set_metadata_uri(model_id, uri, sender=publisher)
        assert models.models(model_id).metadata_uri == uri


def test_set_metadata_uri__by_others_or_unknown_model__reverts(
    models: Any, register_model: Callable[..., bytes], publisher: str, stranger: str, owner: str
) -> None:
    model_id = register_model()
    for caller in (stranger, owner):
        with boa.reverts("models: caller is not the publisher"):
            models.set_metadata_uri(model_id, "", sender=caller)
    with boa.reverts("models: caller is not the publisher"):
        models.set_metadata_uri(b"\x07" * 32, "", sender=publisher)
