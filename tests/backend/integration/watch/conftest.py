"""One chain for the folder's tests; each starts where the world was made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.watched import WatchedWorld, watched_world


@pytest.fixture(scope="package")
def shared_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WatchedWorld]:
    with watched_world(tmp_path_factory.mktemp("watched")) as world:
        yield world


@pytest.fixture
def world(shared_world: WatchedWorld) -> Iterator[WatchedWorld]:
    snapshot = shared_world.chain.snapshot()
    yield shared_world
    shared_world.chain.revert(snapshot)
    shared_world.node.forget()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "watch"
