"""Connections never take the files that the rest of the node needs."""

from __future__ import annotations

import resource
from typing import Any

import pytest
from assay.node import open_files
from assay.node.config import GrpcConfig, LimitsConfig, NodeConfig, VersionConfig
from assay.node.open_files import KEPT, max_connections

NODE = "0x00000000000000000000000000000000000000A1"


class System:
    """Gives at most `hard` files."""

    RLIM_INFINITY, RLIMIT_NOFILE = resource.RLIM_INFINITY, resource.RLIMIT_NOFILE

    def __init__(self, soft: int, hard: int) -> None:
        self.limits = soft, hard

    def getrlimit(self, what: int) -> tuple[int, int]:
        assert what == self.RLIMIT_NOFILE
        return self.limits

    def setrlimit(self, what: int, limits: tuple[int, int]) -> None:
        assert what == self.RLIMIT_NOFILE and (self.limits[1] < 0 or limits[1] == self.limits[1])
        self.limits = limits


def config_of(connections: int, **changes: Any) -> NodeConfig:
    return NodeConfig(
        operator=NODE,
        endpoint="http://127.0.0.1:1",
        rpc_urls=["http://127.0.0.1:2"],
        chain_id=1,
        deployments="deployments",
        hub_url="file://hub",
        limits=LimitsConfig(max_connections=connections),
        **changes,
    )


@pytest.mark.parametrize(
    ("soft", "hard", "given", "files"),
    [
        (1024, 4096, 1000, 1000 + KEPT),  # what a shell and a service have
        (1024, resource.RLIM_INFINITY, 1000, 1000 + KEPT),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, 1000, resource.RLIM_INFINITY),
        (20_000, 20_000, 1000, 20_000),
        (1024, 1024, 1024 - KEPT, 1024),
        (64, 64, 32, 64),
    ],
)
def test_max_connections__as_the_system_lets__leaves_files_for_the_rest(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, given: int, files: int
) -> None:
    system = System(soft, hard)
    monkeypatch.setattr(open_files, "resource", system)
    assert max_connections(config_of(1000)) == given
    assert system.limits[0] == files


def test_max_connections__grpc_and_executors__have_files_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    system = System(100, 100_000)
    monkeypatch.setattr(open_files, "resource", system)
    version = VersionConfig(publisher=NODE, name="m", number=1, executor="http://e:1", executor_connections=9)
    config = config_of(500, grpc=GrpcConfig(port=1), versions=[version])
    assert max_connections(config) == 500
    assert system.limits[0] == KEPT + 9 + 2 * 500
