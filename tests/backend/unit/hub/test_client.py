import fcntl
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from assay.commitments.identifiers import artifact_digest
from assay.disk import DiskFullError
from assay.errors import RequestError, RetryableError, VerificationError
from assay.hub import remote
from assay.hub.client import HubClient
from assay.hub.digests import ArtifactTooLargeError, ArtifactUnknownError
from assay.hub.store import ArtifactStore

from .conftest import LIMIT, Breaking, serving

pytestmark = pytest.mark.network
CONTENT = random.Random(1).randbytes(500_000)
DIGEST = artifact_digest(CONTENT)


@pytest.fixture(params=["http", "folder"])
def hub(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[HubClient]:
    if request.param == "folder":
        yield HubClient(tmp_path / "store")
        return
    with serving(request.getfixturevalue("app")) as url, HubClient(url) as client:
        yield client


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("content", [b"", b"x", CONTENT], ids=["empty", "short", "long"])
def test_put__bytes_or_file__can_be_read_and_fetched(hub: HubClient, tmp_path: Path, content: bytes) -> None:
    source = tmp_path / "source"
    source.write_bytes(content)
    digest = hub.put(content)
    assert digest == hub.put(source) == artifact_digest(content)
    assert hub.size(digest) == len(content)
    assert hub.read(digest) == content
    target = tmp_path / "new" / "folder" / "target"
    assert hub.fetch(digest, target) == target
    assert target.read_bytes() == content
    assert files(target.parent) == ["target"]


def test_fetch__unknown__raises_and_leaves_nothing(hub: HubClient, tmp_path: Path) -> None:
    target = tmp_path / "out" / "target"
    with pytest.raises(ArtifactUnknownError):
        hub.fetch(DIGEST, target)
    with pytest.raises(ArtifactUnknownError):
        hub.read(DIGEST)
    assert hub.size(DIGEST) is None
    assert files(target.parent) == []


def test_fetch__disk_is_full__is_told_at_once_as_such(hub: HubClient, tmp_path: Path) -> None:
    hub.put(CONTENT)
    (tmp_path / "target.part").symlink_to("/dev/full")
    with pytest.raises(DiskFullError, match=f"no room in {tmp_path}: "):
        hub.fetch(DIGEST, tmp_path / "target")
    (tmp_path / "target.part").unlink()
    assert hub.fetch(DIGEST, tmp_path / "target").read_bytes() == CONTENT


def test_fetch__target_there__keeps_a_right_one_and_replaces_a_wrong_one(
    hub: HubClient, tmp_path: Path
) -> None:
    hub.put(CONTENT)
    target = tmp_path / "target"
    target.write_bytes(b"wrong")
    hub.fetch(DIGEST, target)
    inode = target.stat().st_ino
    hub.fetch(DIGEST, target)
    assert (target.read_bytes(), target.stat().st_ino) == (CONTENT, inode)


@pytest.mark.parametrize(
    "left",
    [CONTENT[:100_000], CONTENT, b"not the beginning", CONTENT + b"too long"],
    ids=["part", "whole", "other", "longer"],
)
def test_fetch__part_left_behind__ends_with_the_artifact(hub: HubClient, tmp_path: Path, left: bytes) -> None:
    hub.put(CONTENT)
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "target.part").write_bytes(left)
    assert hub.fetch(DIGEST, folder / "target").read_bytes() == CONTENT
    assert files(folder) == ["target"]


def test_fetch__connection_lost_twice__goes_on_where_it_broke(
    app: Any, store: ArtifactStore, tmp_path: Path
) -> None:
    store.put(DIGEST, CONTENT)
    cuts = iter([100_000, 150_000])
    breaking = Breaking(app, lambda scope: next(cuts, None) if scope["method"] == "GET" else None)
    seen: list[int] = []
    with serving(breaking) as url, HubClient(url) as client:
        client.fetch(DIGEST, tmp_path / "target", lambda done, total: seen.append(done))
    assert (tmp_path / "target").read_bytes() == CONTENT
    assert [headers.get("range") for method, headers in breaking.requests if method == "GET"] == [
        None,
        "bytes=100000-",
        "bytes=250000-",
    ]
    assert seen == sorted(seen)
    assert seen[-1] == len(CONTENT)


def test_fetch__hub_always_breaks__is_retryable_and_keeps_the_part(
    app: Any, store: ArtifactStore, tmp_path: Path
) -> None:
    store.put(DIGEST, CONTENT)
    breaking = Breaking(app, lambda scope: 1000 if scope["method"] == "GET" else None)
    folder = tmp_path / "out"
    with serving(breaking) as url, HubClient(url, attempts=3) as client:
        with pytest.raises(RetryableError, match="hub http"):
            client.fetch(DIGEST, folder / "target")
        assert files(folder) == ["target.part"]
        assert (folder / "target.part").read_bytes() == CONTENT[:3000]


def test_fetch__hub_sends_other_bytes__is_refused_and_nothing_appears(
    hub: HubClient, store: ArtifactStore, tmp_path: Path
) -> None:
    store.put(DIGEST, CONTENT[:-1] + bytes((CONTENT[-1] ^ 1,)))
    folder = tmp_path / "out"
    with pytest.raises(VerificationError) as caught:
        hub.fetch(DIGEST, folder / "target")
    assert caught.value.step == "artifact_digest"
    assert "target" not in files(folder)
    with pytest.raises(VerificationError):
        hub.read(DIGEST)


def test_fetch__larger_than_the_client_takes__is_refused(store: ArtifactStore, tmp_path: Path) -> None:
    store.put(DIGEST, CONTENT)
    client = HubClient(tmp_path / "store", max_bytes=len(CONTENT) - 1)
    with pytest.raises(ArtifactTooLargeError):
        client.fetch(DIGEST, tmp_path / "target")
    with pytest.raises(ArtifactTooLargeError):
        client.read(DIGEST)


def test_fetch__part_held_by_another__uses_a_file_of_its_own(store: ArtifactStore, tmp_path: Path) -> None:
    store.put(DIGEST, CONTENT)
    folder = tmp_path / "out"
    folder.mkdir()
    with (folder / "target.part").open("wb") as held:
        held.write(b"half of somebody")
        held.flush()
        fcntl.flock(held, fcntl.LOCK_EX)
        HubClient(tmp_path / "store").fetch(DIGEST, folder / "target")
    assert (folder / "target").read_bytes() == CONTENT
    assert (folder / "target.part").read_bytes() == b"half of somebody"
    assert files(folder) == ["target", "target.part"]


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "CHUNK_BYTES", 100_000)


@pytest.mark.usefixtures("small_chunks")
def test_put__connection_lost__goes_on_where_it_broke(app: Any, store: ArtifactStore) -> None:
    cuts = iter([None, 50_000])
    breaking = Breaking(app, lambda scope: next(cuts, None) if scope["method"] == "PUT" else None)
    seen: list[int] = []
    with serving(breaking) as url, HubClient(url) as client:
        client.put(CONTENT, lambda done, total: seen.append(done))
    assert b"".join(store.stream(DIGEST)) == CONTENT
    sent = [
        headers["content-range"].split(" ")[1].split("-")[0]
        for method, headers in breaking.requests
        if method == "PUT"
    ]
    assert sent == ["0", "100000", "100000", "200000", "300000", "400000"]
    assert seen[-1] == len(CONTENT)


@pytest.mark.usefixtures("small_chunks")
def test_put__hub_holds_a_wrong_beginning__starts_again(app: Any, store: ArtifactStore, spool: Path) -> None:
    (spool / f"{DIGEST.hex()}.part").write_bytes(bytes(150_000))
    with serving(app) as url, HubClient(url) as client:
        client.put(CONTENT)
    assert b"".join(store.stream(DIGEST)) == CONTENT


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(
    "held", [CONTENT, bytes(len(CONTENT)), CONTENT + b"x"], ids=["whole", "other", "longer"]
)
def test_put__hub_holds_all_bytes_unfinished__sends_the_whole(
    app: Any, store: ArtifactStore, spool: Path, held: bytes
) -> None:
    (spool / f"{DIGEST.hex()}.part").write_bytes(held)
    with serving(app) as url, HubClient(url) as client:
        client.put(CONTENT)
    assert b"".join(store.stream(DIGEST)) == CONTENT
    assert files(spool) == []


def test_put__over_the_cap__is_the_hubs_refusal(app: Any) -> None:
    with serving(app) as url, HubClient(url) as client, pytest.raises(RequestError) as caught:
        client.put(bytes(LIMIT + 1))
    assert (caught.value.status, caught.value.code) == (413, "too_large")


def test_put__nobody_listens__is_retryable_and_says_where() -> None:
    with serving(None) as url:
        pass
    with HubClient(url, attempts=2) as client, pytest.raises(RetryableError, match=f"cannot reach hub {url}"):
        client.put(b"x")
