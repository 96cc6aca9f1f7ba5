from __future__ import annotations

from collections.abc import Callable
from typing import Any

import boa
import pytest

from tests.support.contracts import events

UNKNOWN, ACTIVE, DEPRECATED, REVOKED = range(4)


@pytest.fixture
def version_id(register_model: Callable[..., bytes], publish_version: Callable[..., bytes]) -> bytes:
    return publish_version(register_model())


def test_set_status__there_and_back_then_revoked__logs_each_step(
    models: Any, version_id: bytes, publisher: str
) -> None:
    old = ACTIVE
    for new in (DEPRECATED, ACTIVE, DEPRECATED, REVOKED):
        models.set_status(version_id, new, sender=publisher)
        assert events(models) == [
            ("VersionStatusChanged", {"version_id": version_id, "old_status": old, "new_status": new})
        ]
        assert models.versions(version_id).status == new
        old = new


def test_set_status__changes__leave_every_other_field(models: Any, version_id: bytes, publisher: str) -> None:
    before = models.versions(version_id)._asdict()
    models.env.timestamp += 1_000
    models.set_status(version_id, REVOKED, sender=publisher)
    assert models.versions(version_id)._asdict() == before | {"status": REVOKED}


@pytest.mark.parametrize("status", [ACTIVE, DEPRECATED, REVOKED])
def test_set_status__revoked__is_final(models: Any, version_id: bytes, publisher: str, status: int) -> None:
    models.set_status(version_id, REVOKED, sender=publisher)
    with boa.reverts("models: version is revoked"):
        models.set_status(version_id, status, sender=publisher)


@pytest.mark.parametrize("status", [UNKNOWN, 4, 255])
def test_set_status__no_such_status__reverts(
    models: Any, version_id: bytes, publisher: str, status: int
) -> None:
    with boa.reverts("models: status must be 1, 2 or 3"):
        models.set_status(version_id, status, sender=publisher)


def test_set_status__same_again__reverts(models: Any, version_id: bytes, publisher: str) -> None:
    with boa.reverts("models: version already has this status"):
        models.set_status(version_id, ACTIVE, sender=publisher)


def test_set_status__unknown_version__reverts(models: Any, publisher: str) -> None:
    with boa.reverts("models: version does not exist"):
        models.set_status(b"\x07" * 32, DEPRECATED, sender=publisher)


def test_set_status__by_others__reverts(models: Any, version_id: bytes, stranger: str, owner: str) -> None:
    for caller in (stranger, owner):
        with boa.reverts("models: caller is not the publisher"):
            models.set_status(version_id, DEPRECATED, sender=caller)


def test_set_status__revoked__version_still_exists_and_pays(
    models: Any, version_id: bytes, publisher: str
) -> None:
    models.set_status(version_id, REVOKED, sender=publisher)
    assert models.version_exists(version_id)
    assert models.royalty_info(version_id)[0] == publisher
