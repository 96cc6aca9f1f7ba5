import errno
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import httpx
import pytest
from assay.commitments.identifiers import artifact_digest, cid
from assay.errors import RetryableError
from assay.hub.app import create_app
from assay.hub.store import ArtifactStore

from .conftest import LIMIT, Breaking, serving

pytestmark = pytest.mark.network
CONTENT = bytes(range(256)) * 40


def path(content: bytes) -> str:
    return f"/v1/artifacts/{artifact_digest(content).hex()}"


def put_chunk(
    http: httpx.Client, whole: bytes, start: int, stop: int, total: int | None = None
) -> httpx.Response:
    header = f"bytes {start}-{stop - 1}/{len(whole) if total is None else total}"
    return http.put(path(whole), content=whole[start:stop], headers={"Content-Range": header})


@pytest.mark.parametrize("size", [0, 1, LIMIT])
def test_put__up_to_the_cap__is_stored_and_streams_back(http: httpx.Client, size: int) -> None:
    content = os.urandom(size)
    created = http.put(path(content), content=content)
    assert (created.status_code, created.json()) == (201, {"sha256": artifact_digest(content).hex()})
    assert http.put(path(content), content=content).status_code == 200
    answer = http.get(path(content))
    assert (answer.status_code, answer.content) == (200, content)
    assert answer.headers["etag"] == f'"{artifact_digest(content).hex()}"'
    assert answer.headers["content-length"] == str(size)


@pytest.mark.parametrize("present", [False, True])
def test_put__other_bytes__is_422_with_expected_and_actual(
    http: httpx.Client, spool: Path, present: bool
) -> None:
    if present:
        http.put(path(CONTENT), content=CONTENT)
    answer = http.put(path(CONTENT), content=b"other")
    assert (answer.status_code, answer.json()["code"]) == (422, "digest_mismatch")
    assert answer.json()["expected"] == artifact_digest(CONTENT).hex()
    assert answer.json()["actual"] == artifact_digest(b"other").hex()
    assert http.get(path(CONTENT)).status_code == (200 if present else 404)
    assert not list(spool.iterdir())


@pytest.mark.parametrize("streamed", [False, True])
def test_put__over_the_cap__is_413(http: httpx.Client, spool: Path, streamed: bool) -> None:
    content = bytes(LIMIT + 1)
    body = iter([content[:LIMIT], content[LIMIT:]]) if streamed else content
    answer = http.put(path(content), content=body)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert http.head(path(content)).status_code == 404
    assert not list(spool.iterdir())


def test_put__chunk_of_a_total_over_the_cap__is_413(http: httpx.Client) -> None:
    assert put_chunk(http, CONTENT, 0, 100, LIMIT + 1).status_code == 413


def test_put__same_digest_at_once__all_succeed(http: httpx.Client, store: ArtifactStore) -> None:
    content = os.urandom(300_000)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: http.put(path(content), content=content).status_code, range(16)))
    assert set(answers) <= {200, 201}
    assert b"".join(store.stream(artifact_digest(content))) == content


def test_put__connection_lost__leaves_nothing(app: Any, spool: Path) -> None:
    breaking = Breaking(app, lambda scope: 1000 if scope["method"] == "PUT" else None)
    with serving(breaking) as url, httpx.Client(base_url=url) as http:
        assert http.put(path(CONTENT), content=CONTENT).status_code == 500
        assert http.head(path(CONTENT)).status_code == 404
    assert not list(spool.iterdir())


def test_put__disk_is_full__is_503_with_the_folder_and_goes_on_afterwards(
    http: httpx.Client, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(file: BinaryIO) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    put_chunk(http, CONTENT, 0, 4000)
    with monkeypatch.context() as full:
        full.setattr("assay.hub.spool.check_room", look)
        whole = http.put(path(b"other"), content=b"other")
        for answer in (whole, put_chunk(http, CONTENT, 4000, 8000)):
            assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
            assert str(spool) in answer.json()["error"]
    assert [file.suffix for file in spool.iterdir()] == [".part"]
    assert put_chunk(http, CONTENT, 4000, len(CONTENT)).status_code == 201


def test_put__chunk_that_stops_coming__is_given_up_and_others_go_on(
    http: httpx.Client, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its client may be gone without a word, or never have meant to send the artifact."""
    monkeypatch.setattr("assay.hub.uploads.SILENT_SECONDS", 1.0)
    head = f"PUT {path(CONTENT)} HTTP/1.1\r\nHost: hub\r\nContent-Length: 4000\r\n"
    request = head + f"Content-Range: bytes 0-3999/{len(CONTENT)}\r\n\r\n"
    with socket.create_connection((http.base_url.host, http.base_url.port or 80), timeout=30) as silent:
        silent.sendall(request.encode() + CONTENT[:100])
        deadline = time.monotonic() + 30
        while not list(spool.glob("*.part")):
            assert time.monotonic() < deadline
        assert put_chunk(http, CONTENT, 0, len(CONTENT)).json()["code"] == "upload_busy"
        while put_chunk(http, CONTENT, 0, len(CONTENT)).status_code != 201:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert silent.recv(1000).startswith(b"HTTP/1.1 408 ")


def test_put__chunks__show_the_artifact_at_the_end_alone(http: httpx.Client, spool: Path) -> None:
    for start, stop in ((0, 4000), (4000, 8000)):
        answer = put_chunk(http, CONTENT, start, stop)
        assert (answer.status_code, answer.headers["upload-offset"]) == (202, str(stop))
        head = http.head(path(CONTENT))
        assert (head.status_code, head.headers["upload-offset"]) == (404, str(stop))
        assert http.get(path(CONTENT)).status_code == 404
    assert put_chunk(http, CONTENT, 8000, len(CONTENT)).status_code == 201
    assert http.get(path(CONTENT)).content == CONTENT
    assert not list(spool.iterdir())


def test_put__chunk_elsewhere__is_409_with_the_offset(http: httpx.Client) -> None:
    put_chunk(http, CONTENT, 0, 4000)
    for start in (0, 3999, 4001):
        answer = put_chunk(http, CONTENT, start, 5000)
        assert (answer.status_code, answer.json()["code"]) == (409, "offset_conflict")
        assert answer.headers["upload-offset"] == "4000"


@pytest.mark.parametrize(("sent", "code"), [(99, "chunk_short"), (101, "chunk_long")])
def test_put__chunk_of_another_length__is_400(http: httpx.Client, sent: int, code: str) -> None:
    answer = http.put(
        path(CONTENT), content=CONTENT[:sent], headers={"Content-Range": f"bytes 0-99/{len(CONTENT)}"}
    )
    assert (answer.status_code, answer.json()["code"]) == (400, code)


def test_put__chunks_of_other_bytes__is_422_and_starts_again(http: httpx.Client) -> None:
    http.put(path(CONTENT), content=bytes(100), headers={"Content-Range": f"bytes 0-99/{len(CONTENT)}"})
    assert put_chunk(http, CONTENT, 100, len(CONTENT)).status_code == 422
    assert http.head(path(CONTENT)).headers["upload-offset"] == "0"
    assert put_chunk(http, CONTENT, 0, len(CONTENT)).status_code == 201


def test_put__hub_restarted_between_chunks__goes_on(store: ArtifactStore, spool: Path) -> None:
    for start, stop, status in ((0, 5000, 202), (5000, len(CONTENT), 201)):
        with serving(create_app(store, spool)) as url, httpx.Client(base_url=url) as http:
            assert put_chunk(http, CONTENT, start, stop).status_code == status


@pytest.mark.parametrize(
    ("header", "start", "stop"),
    [("bytes=0-0", 0, 1), ("bytes=100-", 100, 10_240), ("bytes=-7", 10_233, 10_240)],
)
def test_get__range__is_206_with_those_bytes(http: httpx.Client, header: str, start: int, stop: int) -> None:
    http.put(path(CONTENT), content=CONTENT)
    answer = http.get(path(CONTENT), headers={"Range": header})
    assert (answer.status_code, answer.content) == (206, CONTENT[start:stop])
    assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(CONTENT)}"


def test_get__range_outside__is_416(http: httpx.Client) -> None:
    http.put(path(CONTENT), content=CONTENT)
    answer = http.get(path(CONTENT), headers={"Range": f"bytes={len(CONTENT)}-"})
    assert (answer.status_code, answer.json()["code"]) == (416, "range_unsatisfiable")


def test_get__conditional__follows_the_etag(http: httpx.Client) -> None:
    http.put(path(CONTENT), content=CONTENT)
    etag = http.head(path(CONTENT)).headers["etag"]
    assert http.get(path(CONTENT), headers={"If-None-Match": etag}).status_code == 304
    assert http.get(path(CONTENT), headers={"If-None-Match": '"other"'}).status_code == 200
    ranged = {"Range": "bytes=0-9"}
    assert http.get(path(CONTENT), headers=ranged | {"If-Range": etag}).status_code == 206
    assert http.get(path(CONTENT), headers=ranged | {"If-Range": '"other"'}).status_code == 200


def test_head__present__has_length_and_no_body(http: httpx.Client) -> None:
    http.put(path(CONTENT), content=CONTENT)
    answer = http.head(path(CONTENT))
    assert (answer.status_code, answer.headers["content-length"]) == (200, str(len(CONTENT)))
    assert answer.content == b""


def test_get__by_cid__is_the_artifact(http: httpx.Client) -> None:
    http.put(path(CONTENT), content=CONTENT)
    assert http.get(f"/v1/artifacts/{cid(artifact_digest(CONTENT))}").content == CONTENT


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT"])
@pytest.mark.parametrize("name", ["x", "..%2f..%2fetc%2fpasswd", "0" * 63, "%00" * 64])
def test_any_method__malformed_digest__is_400(http: httpx.Client, method: str, name: str) -> None:
    assert http.request(method, f"/v1/artifacts/{name}").status_code in (400, 404)


def test_get__unknown__is_404_with_a_code(http: httpx.Client) -> None:
    answer = http.get(path(b"nobody put this"))
    assert (answer.status_code, answer.json()["code"]) == (404, "artifact_unknown")


def test_healthz__store_answers_or_not__is_200_or_503(
    http: httpx.Client, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert http.get("/healthz").json() == {"status": "ok"}

    def down(_: bytes) -> int:
        raise RetryableError("cannot look up in bucket: down")

    monkeypatch.setattr(store, "size", down)
    answer = http.get("/healthz")
    assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
