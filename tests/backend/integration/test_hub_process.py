"""The hub as a real process that dies by `kill -9` in the middle of an upload."""

import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from assay.commitments.identifiers import artifact_digest
from assay.hub.client import HubClient

ASSAY = (sys.executable, "-c", "from assay.cli import main; main()")
CONTENT = os.urandom(3 << 20)
DIGEST = artifact_digest(CONTENT)


@contextlib.contextmanager
def hub_process(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A running hub over `folder` and its URL; killed at the end."""
    command = [*ASSAY, "hub", "run", "--store", str(folder), "--port", "0", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder.parent)
    assert process.stdout
    try:
        lines = itertools.takewhile(lambda line: line != "}\n", process.stdout)
        yield process, json.loads("".join(lines) + "}")["url"]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def half_a_put(url: str, headers: str) -> socket.socket:
    """A connection that has sent half of a PUT's body."""
    address = httpx.URL(url)
    connection = socket.create_connection((address.host, address.port or 0))
    head = f"PUT /v1/artifacts/{DIGEST.hex()} HTTP/1.1\r\nHost: hub\r\nContent-Length: {len(CONTENT)}\r\n"
    connection.sendall(f"{head}{headers}\r\n".encode() + CONTENT[: len(CONTENT) // 2])
    return connection


def wait_for_spool(spool: Path, size: int) -> None:
    while not any(path.stat().st_size >= size for path in spool.iterdir()):
        time.sleep(0.01)


@pytest.mark.parametrize("chunked", [False, True])
def test_hub__killed_in_an_upload__shows_nothing_half_written_and_goes_on(
    tmp_path: Path, chunked: bool
) -> None:
    folder = tmp_path / "store"
    header = f"Content-Range: bytes 0-{len(CONTENT) - 1}/{len(CONTENT)}\r\n" if chunked else ""
    with hub_process(folder) as (process, url), half_a_put(url, header):
        wait_for_spool(folder / "spool", 1 << 20)
        process.kill()
        process.wait()
    assert not list(folder.glob("sha256/*"))
    with hub_process(folder) as (_, url):
        kept = int(httpx.head(f"{url}/v1/artifacts/{DIGEST.hex()}").headers["upload-offset"])
        assert (kept >= 1 << 20) == chunked
        with HubClient(url) as client:
            assert client.size(DIGEST) is None
            client.put(CONTENT)
            assert client.fetch(DIGEST, tmp_path / "target").read_bytes() == CONTENT
    assert [path.name for path in folder.rglob("*") if path.is_file()] == [DIGEST.hex()]


def test_hub__port_taken__exits_5_and_says_so(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [*ASSAY, "hub", "run", "--store", str(tmp_path), "--port", port],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.returncode == 5
    assert "choose --port" in done.stderr
