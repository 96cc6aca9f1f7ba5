"""What every suite shares: which sockets are open, what `scripts/test --deep` adds, hypothesis profiles.

Tests under a `unit` folder, the stateful contract tests and the scripts' tests get no socket at all, unless
marked `network`; all others reach 127.0.0.1 and nothing else.
"""

from __future__ import annotations

import functools
import gc
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import hypothesis
import pytest
from httpx._config import create_ssl_context

from tests.support.postgresql import CURE, Cluster, cluster, find_binaries

DEEP = bool(os.environ.get("ASSAY_DEEP"))
"""Set by `scripts/test --deep`: long fuzzing, and the tests marked `deep`."""
CLOSED_FOLDERS = frozenset(("unit", "stateful", "scripts"))
LONGEST_FIRST = (
    ("e2e", "test_demo.py"),
    ("e2e",),
    ("contracts", "stateful"),
    ("contracts", "acceptance"),
    ("backend", "integration", "node"),
    ("backend", "integration"),
    ("contracts",),
    (),
)
"""Where the files are that take the longest: workers that start with them end at the same time."""
TESTS = Path(__file__).parent

# Reading the certificate authorities takes a client 25 ms, which tests that ask until something is so would
# spend again and again, on plain HTTP.
httpx._transports.default.create_ssl_context = functools.cache(create_ssl_context)

hypothesis.settings.register_profile("default", deadline=None, print_blob=True)
hypothesis.settings.register_profile("deep", deadline=None, print_blob=True, max_examples=1_000)
hypothesis.settings.load_profile("deep" if DEEP else "default")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        folders = item.path.relative_to(TESTS).parts[:-1]
        if folders[:1] != ("contracts",):
            item.add_marker(pytest.mark.ignore_isolation)  # of titanoboa, which is not used there
        if CLOSED_FOLDERS.intersection(folders) and not item.get_closest_marker("network"):
            item.add_marker(pytest.mark.disable_socket)
        else:
            item.add_marker(pytest.mark.allow_hosts(["127.0.0.1"]))
        if item.get_closest_marker("deep") and not DEEP:
            item.add_marker(pytest.mark.skip(reason="long; scripts/test --deep runs it"))
    items.sort(key=_turn)


def pytest_collection_finish() -> None:
    gc.freeze()  # thousands of tests and modules stay to the end: nobody need look for garbage among them


def _turn(item: pytest.Item) -> int:
    parts = item.path.relative_to(TESTS).parts
    return next(n for n, start in enumerate(LONGEST_FIRST) if parts[: len(start)] == start)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Cluster]:
    """A PostgreSQL server of this worker's own."""
    if find_binaries() is None:
        pytest.skip(CURE)
    with cluster() as server:
        yield server
