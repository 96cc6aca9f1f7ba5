"""What the tests of the protocol's clients share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.oip_world import World, oip_world


@pytest.fixture(scope="session")
def clients_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One node for all of them: each leaves every version as it found it."""
    with oip_world(tmp_path_factory.mktemp("clients")) as found:
        yield found
