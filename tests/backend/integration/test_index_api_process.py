"""`assay index run` and `assay api run` as real processes: what they print is for machines to read."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.anvil import anvil
from tests.support.deploy import deploy

ASSAY = (sys.executable, "-c", "from assay.cli import main; main()")


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    with anvil() as chain:
        deploy(chain.url, tmp_path / "deployments")
        yield os.environ | {
            "ASSAY_RPC_URLS": json.dumps([chain.url]),
            "ASSAY_DEPLOYMENTS": str(tmp_path / "deployments"),
            "ASSAY_DATABASE_URL": f"sqlite:///{tmp_path / 'index.sqlite3'}",
        }


def end(process: subprocess.Popen[str]) -> tuple[str, str]:
    """What it printed after SIGTERM; killed if it does not listen."""
    process.send_signal(signal.SIGTERM)
    try:
        return process.communicate(timeout=30)
    finally:
        process.kill()


def test_run__index_and_api__announce_and_end_with_json(environment: dict[str, str]) -> None:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    api = subprocess.Popen([*ASSAY, "api", "run", "--port", "0", "--json"], **pipes)  # type: ignore[call-overload]
    index = subprocess.Popen([*ASSAY, "index", "run", "--no-probes", "--json"], **pipes)  # type: ignore[call-overload]
    try:
        assert api.stdout
        url = json.loads("".join(itertools.takewhile(lambda line: line != "}\n", api.stdout)) + "}")["url"]
        deadline = time.monotonic() + 30
        while httpx.get(f"{url}/readyz").status_code != 200 and time.monotonic() < deadline:
            time.sleep(0.05)
        figures = httpx.get(f"{url}/v1/network").json()
        assert figures["indexed_block"] == figures["head_block"] > 0
    finally:
        api_out, index_out = end(api), end(index)
    assert (api.returncode, index.returncode) == (-signal.SIGTERM, 0), (api_out, index_out)
    assert json.loads(index_out[0])["indexed_block"] == figures["indexed_block"]


def test_api_run__port_taken__exits_5_and_says_so(environment: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [*ASSAY, "api", "run", "--port", port, "--json"]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
    assert done.returncode == 5
    assert "choose --port" in json.loads(done.stdout)["error"]
