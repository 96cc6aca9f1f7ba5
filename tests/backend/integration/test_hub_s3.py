"""The store against an S3-compatible server: `moto_server`, found on PATH or by `ASSAY_MOTO_SERVER`.

moto is no locked dependency (it brings dozens of packages); get it with `pipx install 'moto[s3,server]'`.
"""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from assay.commitments.identifiers import artifact_digest
from assay.hub.client import HubClient
from assay.hub.digests import ArtifactUnknownError
from assay.hub.store import open_store

MOTO = os.environ.get("ASSAY_MOTO_SERVER") or shutil.which("moto_server")

pytestmark = pytest.mark.skipif(MOTO is None, reason="no S3 server: put moto_server on PATH")


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """URL of an S3 server with a bucket `assay`."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen([str(MOTO), "-H", "127.0.0.1", "-p", str(port)], stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                assert httpx.put(f"{url}/assay").status_code == 200
                break
            except httpx.TransportError:
                time.sleep(0.1)
        yield url
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def location(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    settings = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT": endpoint,
        "AWS_ALLOW_HTTP": "true",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    return "s3://assay/models"


@pytest.mark.parametrize("size", [0, 1, 1000, (5 << 20) + 1, 23_000_001])
def test_s3__any_size__is_stored_and_fetched(location: str, tmp_path: Path, size: int) -> None:
    """Above 5 MiB obstore uploads in parts."""
    content = os.urandom(size)
    client = HubClient(location)
    digest = client.put(content)
    assert (digest, client.size(digest)) == (artifact_digest(content), size)
    (tmp_path / "target.part").write_bytes(content[: size // 2])
    assert client.fetch(digest, tmp_path / "target").read_bytes() == content
    middle = b"".join(open_store(location).stream(digest, size // 3, size // 2))
    assert middle == content[size // 3 : size // 2]


def test_s3__unknown__raises(location: str) -> None:
    with pytest.raises(ArtifactUnknownError):
        HubClient(location).read(artifact_digest(b"nobody put this"))
