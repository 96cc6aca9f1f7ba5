"""`GET /v1/artifacts/{sha256}/program`: the root, the findings, the cache."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from assay.exact.lowering import lower
from assay.hub import programs
from assay.hub.app import create_app
from assay.hub.store import ArtifactStore
from assay.programs.bounded import LoweringLimits
from assay.types import Hash32

from tests.support.api_server import serving
from tests.support.onnx_models import convolution_model, linear_model

pytestmark = pytest.mark.network


def put(store: ArtifactStore, content: bytes) -> str:
    digest = Hash32(hashlib.sha256(content).digest())
    store.put(digest, content)
    return digest.hex()


def ask(http: httpx.Client, name: str, status: int = 200) -> dict[str, Any]:
    reply = http.get(f"/v1/artifacts/{name}/program", timeout=60)
    assert reply.status_code == status, reply.text
    body: dict[str, Any] = reply.json()
    return body


@pytest.fixture
def http(store: ArtifactStore, spool: Path) -> Iterator[httpx.Client]:
    with serving(create_app(store, spool)) as url, httpx.Client(base_url=url) as client:
        yield client


def test_program__model_of_the_profile__gives_its_root(http: httpx.Client, store: ArtifactStore) -> None:
    model = convolution_model()
    body = ask(http, put(store, model))
    assert (body["outcome"], body["program_root"]) == ("lowered", "0x" + lower(model).root.hex())
    assert body["figures"]["kernels"] >= 1 and body["artifact"] == hashlib.sha256(model).hexdigest()


def test_program__float_model__gives_findings(http: httpx.Client, store: ArtifactStore) -> None:
    body = ask(http, put(store, linear_model()))
    assert (body["outcome"], body["program_root"]) == ("outside", None)
    assert body["findings"][0]["op_type"] == "Gemm" and body["findings"][0]["cure"]


def test_program__asked_again__is_not_lowered_again(
    http: httpx.Client, store: ArtifactStore, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = put(store, convolution_model())
    first = ask(http, name)
    monkeypatch.setattr(programs, "lower_bounded", lambda *_: pytest.fail("lowered twice"))
    assert ask(http, name) == first
    (kept,) = (spool / "programs").iterdir()
    assert kept.name.startswith(name)


def test_program__damaged_cache_file__is_lowered_anew(
    http: httpx.Client, store: ArtifactStore, spool: Path
) -> None:
    name = put(store, convolution_model())
    first = ask(http, name)
    (kept,) = (spool / "programs").iterdir()
    kept.write_text("{")
    assert ask(http, name) == first


def test_program__beyond_the_limits__failed_and_not_tried_again_at_once(
    store: ArtifactStore, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = put(store, convolution_model())
    app = create_app(store, spool, limits=LoweringLimits(seconds=0))
    with serving(app) as url, httpx.Client(base_url=url) as http:
        body = ask(http, name)
        assert body["outcome"] == "failed" and "more than 0 s" in body["reason"]
        monkeypatch.setattr(programs, "lower_bounded", lambda *_: pytest.fail("tried again"))
        assert ask(http, name) == body
    assert list((spool / "programs").iterdir()) == []


def test_program__artifact_larger_than_a_model__failed_without_reading_it(
    http: httpx.Client, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "MAX_MODEL", 10)
    assert "at most 10" in ask(http, put(store, convolution_model()))["reason"]


def test_program__too_many_waiting__is_busy(
    http: httpx.Client, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "MAX_WAITING", 0)
    name = put(store, convolution_model())
    reply = http.get(f"/v1/artifacts/{name}/program")
    assert (reply.status_code, reply.json()["code"], reply.headers["retry-after"]) == (503, "busy", "60")


def test_program__unknown_artifact__is_404(http: httpx.Client) -> None:
    assert ask(http, "00" * 32, 404)["code"] == "artifact_unknown"


def test_programs__left_by_a_killed_process__is_removed(store: ArtifactStore, spool: Path) -> None:
    folder = spool / "programs"
    folder.mkdir(parents=True)
    (folder / "abc.onnx").write_bytes(b"x")
    programs.Programs(store, folder)
    assert list(folder.iterdir()) == []
