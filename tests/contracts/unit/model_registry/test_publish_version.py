from __future__ import annotations

from collections.abc import Callable
from typing import Any

import boa
import pytest
from eth_abi import encode
from eth_utils import keccak
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.contracts import ZERO_HASH, events, fields

ACTIVE = 1
hashes = st.binary(min_size=32, max_size=32)


def test_publish_version__by_publisher__stores_and_logs(
    models: Any, register_model: Callable[..., bytes], publisher: str
) -> None:
    model_id = register_model()
    content = (b"\x01" * 32, b"\x02" * 32, b"\x03" * 32, 5_000, "https://hub.example/a")
    version_id = models.publish_version(model_id, *content, sender=publisher)
    logged = {
        "version_id": version_id,
        "model_id": model_id,
        "number": 1,
        "artifact": content[0],
        "program_root": content[1],
        "manifest_hash": content[2],
        "royalty_bps": 5_000,
        "uri": content[4],
    }
    assert events(models) == [("VersionPublished", logged)]
    assert version_id == keccak(encode(["bytes32", "uint256"], [model_id, 1]))
    assert version_id == models.version_id_of(model_id, 1)
    stored = logged | {"status": ACTIVE, "published_at": models.env.timestamp}
    del stored["version_id"]
    assert fields(models.versions(version_id)) == stored
    assert models.version_exists(version_id)


def test_publish_version__several__numbered_from_one_without_gaps(
    models: Any, register_model: Callable[..., bytes], publish_version: Callable[..., bytes]
) -> None:
    model_id = register_model()
    ids = [publish_version(model_id) for _ in range(3)]
    assert [models.versions(i).number for i in ids] == [1, 2, 3]
    assert ids == [models.version_id_of(model_id, n) for n in (1, 2, 3)]
    assert models.models(model_id).version_count == 3


@settings(max_examples=25, deadline=None)
@given(
    artifact=hashes.filter(any),
    program_root=hashes,
    manifest_hash=hashes.filter(any),
    royalty_bps=st.integers(0, 5_000),
    uri=st.text(alphabet=st.characters(max_codepoint=127), max_size=256),
    status=st.sampled_from([1, 2, 3]),
    at=st.integers(1_800_000_000, 2**40),
)
def test_publish_version__any_content__reads_back_whatever_its_status(
    models: Any,
    publisher: str,
    artifact: bytes,
    program_root: bytes,
    manifest_hash: bytes,
    royalty_bps: int,
    uri: str,
    status: int,
    at: int,
) -> None:
    model_id = models.register_model("m", "", sender=publisher)
    models.env.timestamp = at
    content = (artifact, program_root, manifest_hash, royalty_bps)
    version_id = models.publish_version(model_id, *content, uri, sender=publisher)
    if status != ACTIVE:
        models.set_status(version_id, status, sender=publisher)
    assert tuple(models.versions(version_id)) == (model_id, 1, *content, status, at, uri)
    assert models.royalty_info(version_id) == (publisher, royalty_bps, program_root)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"artifact": ZERO_HASH}, "models: artifact is zero"),
        ({"manifest_hash": ZERO_HASH}, "models: manifest is zero"),
        ({"royalty_bps": 5_001}, "models: royalty is above 5000 bps"),
        ({"royalty_bps": 65_535}, "models: royalty is above 5000 bps"),
    ],
)
def test_publish_version__wrong_content__reverts(
    wrong: dict[str, Any],
    reason: str,
    register_model: Callable[..., bytes],
    publish_version: Callable[..., bytes],
) -> None:
    model_id = register_model()
    with boa.reverts(reason):
        publish_version(model_id, **wrong)


def test_publish_version__by_others__reverts(
    register_model: Callable[..., bytes],
    publish_version: Callable[..., bytes],
    stranger: str,
    owner: str,
) -> None:
    model_id = register_model()
    for caller in (stranger, owner):
        with boa.reverts("models: caller is not the publisher"):
            publish_version(model_id, by=caller)


def test_publish_version__unknown_model__reverts(publish_version: Callable[..., bytes]) -> None:
    with boa.reverts("models: caller is not the publisher"):
        publish_version(b"\x07" * 32)


def test_publish_version__registration_paused__goes_on(
    models: Any,
    register_model: Callable[..., bytes],
    publish_version: Callable[..., bytes],
    owner: str,
) -> None:
    model_id = register_model()
    models.set_paused(True, sender=owner)
    publish_version(model_id)
