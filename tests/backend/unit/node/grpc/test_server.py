"""The gRPC server as a process sees it: its port, and that nobody pays for it who does not want it."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time

import grpc
import pytest
from assay.errors import ConfigurationError
from assay.node.config import GrpcConfig
from assay.node.grpc.methods import Methods
from assay.node.grpc.server import SERVICE, GrpcServer
from assay.node.http.exchange import Limits

METHODS = Methods(None, {}, None, None, None, None)  # type: ignore[arg-type]


def server() -> GrpcServer:
    return GrpcServer(METHODS, Limits())


@pytest.mark.network
def test_start__port_in_use__says_what_to_change() -> None:
    async def run(port: int) -> None:
        with pytest.raises(ConfigurationError, match=r"\[grpc\] of node\.toml"):
            await server().start("127.0.0.1", port)

    with socket.create_server(("127.0.0.1", 0)) as sock:
        asyncio.run(run(sock.getsockname()[1]))


@pytest.mark.network
def test_connection__call_that_is_never_finished__is_cut_off_at_its_age() -> None:
    """Its slot is free again, though its client neither sends the request nor goes away."""

    async def run() -> grpc.StatusCode:
        made = GrpcServer(METHODS, Limits(), age_seconds=0.3, age_grace_seconds=0.3)
        port = await made.start("127.0.0.1", 0)
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                call = channel.stream_unary(f"/{SERVICE}/ModelInfer")(timeout=30)
                return await call.code()
        finally:
            await made._server.stop(0)

    started = time.monotonic()
    assert asyncio.run(run()) is grpc.StatusCode.UNAVAILABLE
    assert 0.3 < time.monotonic() - started < 10


def test_process__without_grpc__does_not_load_it() -> None:
    code = "import sys, assay.node.process; raise SystemExit('grpc' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_config__default__no_grpc() -> None:
    assert GrpcConfig().port == 0
