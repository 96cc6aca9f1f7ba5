"""The gRPC server as a process sees it: its port, and that nobody pays for it who does not want it."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys

import pytest
from assay.errors import ConfigurationError
from assay.node.config import GrpcConfig
from assay.node.grpc.methods import Methods
from assay.node.grpc.server import GrpcServer
from assay.node.http.exchange import Limits


def server() -> GrpcServer:
    return GrpcServer(Methods(None, {}, None, None, None, None), Limits())  # type: ignore[arg-type]


@pytest.mark.network
def test_start__port_in_use__says_what_to_change() -> None:
    async def run(port: int) -> None:
        with pytest.raises(ConfigurationError, match=r"\[grpc\] of node\.toml"):
            await server().start("127.0.0.1", port)

    with socket.create_server(("127.0.0.1", 0)) as sock:
        asyncio.run(run(sock.getsockname()[1]))


def test_process__without_grpc__does_not_load_it() -> None:
    code = "import sys, assay.node.process; raise SystemExit('grpc' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_config__default__no_grpc() -> None:
    assert GrpcConfig().port == 0
