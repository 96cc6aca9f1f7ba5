import os
import time
from pathlib import Path

import pytest
from assay.commitments.identifiers import artifact_digest
from assay.errors import ConfigurationError, RetryableError
from assay.hub.digests import ArtifactUnknownError
from assay.hub.store import ArtifactStore, open_store
from assay.types import Hash32
from obstore.store import MemoryStore


@pytest.fixture(params=["folder", "memory"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    return open_store("memory://" if request.param == "memory" else tmp_path / "store")


def put(store: ArtifactStore, content: bytes) -> Hash32:
    digest = artifact_digest(content)
    store.put(digest, content)
    return digest


@pytest.mark.parametrize("size", [0, 1, (1 << 20) + 1, (11 << 20) + 1])
def test_put__any_size__streams_back(any_store: ArtifactStore, size: int) -> None:
    content = os.urandom(size)
    digest = put(any_store, content)
    assert any_store.size(digest) == size
    assert b"".join(any_store.stream(digest)) == content
    assert b"".join(any_store.stream(digest, size // 2)) == content[size // 2 :]
    assert b"".join(any_store.stream(digest, 1, size - 1)) == content[1 : max(size - 1, 0)]


def test_put__path_and_twice__is_the_same(any_store: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    for _ in range(2):
        any_store.put(artifact_digest(b"content"), tmp_path / "file")
    assert b"".join(any_store.stream(put(any_store, b"content"))) == b"content"


def test_stream__unknown_digest__raises_before_the_first_piece(any_store: ArtifactStore) -> None:
    assert any_store.size(artifact_digest(b"")) is None
    with pytest.raises(ArtifactUnknownError) as caught:
        any_store.stream(artifact_digest(b""))
    assert (caught.value.status, caught.value.code) == (404, "artifact_unknown")


def test_put__folder__leaves_only_the_artifact(tmp_path: Path) -> None:
    digest = put(open_store(tmp_path), b"content")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / "sha256" / digest.hex()]


def test_put__interrupted__shows_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    store = open_store(tmp_path)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RetryableError, match="No space left"):
        put(store, b"content")
    monkeypatch.undo()
    assert store.size(artifact_digest(b"content")) is None
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_open_store__old_leftovers__are_removed_and_fresh_ones_kept(tmp_path: Path) -> None:
    incoming = tmp_path / "incoming"
    incoming.mkdir()
    (incoming / "old").touch()
    (incoming / "fresh").touch()
    os.utime(incoming / "old", (0, time.time() - 90_000))
    open_store(tmp_path)
    assert [path.name for path in incoming.iterdir()] == ["fresh"]


@pytest.mark.parametrize("location", ["nonsense://x", "s3://"])
def test_open_store__unusable_location__says_what_to_give(location: str) -> None:
    with pytest.raises(ConfigurationError, match="give a folder or s3://"):
        open_store(location)


def test_open_store__folder_is_a_file__says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="cannot open artifact store"):
        open_store(tmp_path / "file")


def test_size__backend_fails__is_retryable(monkeypatch: pytest.MonkeyPatch) -> None:
    from obstore import exceptions

    def failing(*_: object) -> None:
        raise exceptions.GenericError("backend is down\nwith details")

    store = ArtifactStore(MemoryStore(), "the bucket")
    monkeypatch.setattr("assay.hub.store.obstore.head", failing)
    with pytest.raises(RetryableError, match=r"in the bucket: backend is down$"):
        store.size(artifact_digest(b""))
