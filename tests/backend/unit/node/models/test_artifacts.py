"""Fetching from a hub over HTTP: at once, broken off, slow."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from assay.commitments.identifiers import artifact_digest
from assay.disk import DiskFullError
from assay.errors import RetryableError
from assay.node.errors import ArtifactRefused
from assay.node.models.artifacts import ArtifactCache

pytestmark = pytest.mark.network
DATA = bytes(range(256)) * 4000


class Hub(http.server.ThreadingHTTPServer):
    """Gives `data` in pieces of `piece` bytes, each after `pause` seconds, and breaks off after `most` bytes
    of an answer."""

    daemon_threads = True

    def __init__(self, data: bytes = DATA) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.data = data
        self.piece, self.pause, self.most = len(data), 0.0, len(data)
        self.asked: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error here."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        hub, wanted = self.server, self.headers["range"]
        hub.asked.append(wanted)
        rest = hub.data[int(wanted[6:-1]) :] if wanted else hub.data
        self.send_response(206 if wanted else 200)
        self.send_header("content-length", str(len(rest)))
        self.end_headers()
        for at in range(0, min(len(rest), hub.most), hub.piece):
            time.sleep(hub.pause)
            self.wfile.write(rest[at : at + min(hub.piece, hub.most)])


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield made
        finally:
            made.shutdown()
            thread.join(5)


def test_fetch__same_digest_by_many_at_once__is_fetched_once(hub: Hub, tmp_path: Path) -> None:
    """Through several caches, as the processes of one folder have them."""
    digest = artifact_digest(DATA)
    hub.piece, hub.pause = 200_000, 0.05
    caches = [ArtifactCache(tmp_path, hub.url) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        paths = set(pool.map(lambda cache: cache.fetch(digest, len(DATA)), caches))
    assert paths == {tmp_path / digest.hex()}
    assert (tmp_path / digest.hex()).read_bytes() == DATA
    assert hub.asked == [None]
    assert [path.name for path in tmp_path.iterdir()] == [digest.hex()]


def test_fetch__others_at_once_when_it_is_refused__are_refused_each(hub: Hub, tmp_path: Path) -> None:
    digest = artifact_digest(b"promised")

    def fetch(_: int) -> str:
        with pytest.raises(ArtifactRefused) as refused:
            ArtifactCache(tmp_path, hub.url).fetch(digest, len(DATA))
        return refused.value.code

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(fetch, range(4))) == {"digest"}
    assert not list(tmp_path.iterdir())


def test_fetch__broken_off__goes_on_where_it_stood(hub: Hub, tmp_path: Path) -> None:
    hub.most = 400_000
    path = ArtifactCache(tmp_path, hub.url).fetch(artifact_digest(DATA), len(DATA))
    assert path.read_bytes() == DATA
    assert hub.asked == [None, "bytes=400000-", "bytes=800000-"]


def test_fetch__hub_that_drips__ends(hub: Hub, tmp_path: Path) -> None:
    """Each byte comes well within the time-out."""
    hub.piece, hub.pause = 1, 0.02
    started = time.monotonic()
    with pytest.raises(RetryableError, match="bytes a second"):
        ArtifactCache(tmp_path, hub.url, timeout=0.5).fetch(artifact_digest(DATA), len(DATA))
    assert time.monotonic() - started < 15
    assert 1 <= len(hub.asked) <= 4


def test_fetch__slow_but_fast_enough__may_take_longer_than_the_time_out(hub: Hub, tmp_path: Path) -> None:
    hub.piece, hub.pause = 256_000, 0.2
    cache = ArtifactCache(tmp_path, hub.url, timeout=0.5)
    assert cache.fetch(artifact_digest(DATA), len(DATA)).read_bytes() == DATA
    assert hub.asked == [None]


def test_fetch__hub_that_gives_nothing__leaves_nothing(hub: Hub, tmp_path: Path) -> None:
    hub.most = 0
    with pytest.raises(RetryableError):
        ArtifactCache(tmp_path, hub.url, timeout=0.2).fetch(artifact_digest(DATA), len(DATA))
    assert not list(tmp_path.iterdir())


def test_fetch__disk_is_full__is_told_as_such_and_fetched_later(hub: Hub, tmp_path: Path) -> None:
    digest, cache = artifact_digest(DATA), ArtifactCache(tmp_path, hub.url)
    (tmp_path / f"{digest.hex()}.part").symlink_to("/dev/full")
    with pytest.raises(DiskFullError, match=f"no room in {tmp_path}: "):
        cache.fetch(digest, len(DATA))
    (tmp_path / f"{digest.hex()}.part").unlink(missing_ok=True)
    assert cache.fetch(digest, len(DATA)).read_bytes() == DATA
