"""The sandbox: a child process that loads and runs a file first, within limits; and the manifest that must
agree."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from assay.commitments.identifiers import artifact_digest
from assay.errors import ConfigurationError, RetryableError
from assay.node.errors import ArtifactRefused
from assay.node.models import validate
from assay.node.models.artifacts import ArtifactCache
from assay.node.models.validate import (
    Inspection,
    SandboxLimits,
    check_signature,
    inspect_artifact,
    inspect_once,
)
from assay.types import Hash32, TensorSpec
from onnx import TensorProto, helper

from tests.support.onnx_models import build_model, linear_manifest, linear_model, tensor, value

X = (TensorSpec("x", "FP32", (-1, 4)),)
Y = (TensorSpec("y", "FP32", (-1, 3)),)


def save(folder: Path, data: bytes) -> Path:
    path = folder / "model"
    path.write_bytes(data)
    return path


def test_inspect_artifact__honest_model__tells_its_signature(tmp_path: Path) -> None:
    found = inspect_artifact(save(tmp_path, linear_model()))
    assert (found.inputs, found.outputs) == (X, Y)


@pytest.mark.parametrize("limit", ["RLIMIT_AS", "RLIMIT_CPU"])
def test_inspect_artifact__system_allows_less_than_the_sandbox__loads_within_that(
    limit: str, tmp_path: Path
) -> None:
    least = {"RLIMIT_AS": 3 << 30, "RLIMIT_CPU": 50}[limit]
    program = (
        "import resource, sys; from pathlib import Path\n"
        f"resource.setrlimit(resource.{limit}, ({least}, {least}))\n"
        "from assay.node.models.validate import inspect_artifact\n"
        "print(inspect_artifact(Path(sys.argv[1])).outputs[0].name)\n"
    )
    path = save(tmp_path, linear_model())
    ran = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    assert ran.stdout == "y\n"


def test_inspect_artifact__needs_more_memory_than_allowed__is_refused(tmp_path: Path) -> None:
    """A file of a few hundred bytes that fills 3 GiB when it runs."""
    shape = tensor("s", np.array([768 << 20], np.int64))
    model = build_model(
        [helper.make_node("Expand", ["x", "s"], ["big"]), helper.make_node("ReduceSum", ["big"], ["y"])],
        [value("x", [1])],
        [value("y", [1])],
        [shape],
    )
    with pytest.raises(ArtifactRefused) as caught:
        inspect_artifact(save(tmp_path, model.SerializeToString()), SandboxLimits(memory=2 << 30))
    assert caught.value.code in ("memory", "run_failed", "load_failed", "crashed")


def test_inspect_artifact__runs_too_long__is_stopped(tmp_path: Path) -> None:
    """Multiplies a great matrix with itself, again and again."""
    side = 4096
    nodes = [helper.make_node("Expand", ["x", "s"], ["m0"])]
    nodes += [helper.make_node("MatMul", [f"m{i}", f"m{i}"], [f"m{i + 1}"]) for i in range(200)]
    nodes += [helper.make_node("ReduceMax", ["m200"], ["y"], keepdims=0)]
    model = build_model(
        nodes, [value("x", [1, 1])], [value("y", [])], [tensor("s", np.array([side, side], np.int64))]
    )
    with pytest.raises(ArtifactRefused) as caught:
        inspect_artifact(save(tmp_path, model.SerializeToString()), SandboxLimits(seconds=4))
    assert caught.value.code == "time"


def test_inspect_artifact__broken_rule__is_told_by_the_child(tmp_path: Path) -> None:
    node = helper.make_node("Multinomial", ["x"], ["y"], name="dice")
    model = build_model([node], [value("x", [1, 2])], [value("y", [1, 1], TensorProto.INT32)])
    with pytest.raises(ArtifactRefused) as caught:
        inspect_artifact(save(tmp_path, model.SerializeToString()))
    assert (caught.value.code, caught.value.operator, caught.value.node) == ("random", "Multinomial", "dice")


def test_inspect_artifact__graph_that_does_not_hold_together__is_refused(tmp_path: Path) -> None:
    model = build_model([helper.make_node("Relu", ["nowhere"], ["y"])], [value("x", [1])], [value("y", [1])])
    with pytest.raises(ArtifactRefused) as caught:
        inspect_artifact(save(tmp_path, model.SerializeToString()))
    assert caught.value.code == "load_failed"


def test_inspect_once__passed_before__is_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path, linear_model())
    first = inspect_once(path, SandboxLimits())
    monkeypatch.setattr(validate, "inspect_artifact", lambda *_, **__: pytest.fail("ran again"))
    assert inspect_once(path, SandboxLimits()) == first
    with pytest.raises(pytest.fail.Exception):
        inspect_once(path, SandboxLimits(seconds=1))


def test_inspect_once__disk_is_full__is_tried_again_and_nothing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, "no space left on device")

    path = save(tmp_path, linear_model())
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(RetryableError):
            inspect_once(path, SandboxLimits())
    assert list(tmp_path.iterdir()) == [path]
    assert inspect_once(path, SandboxLimits()).outputs == Y


def test_check_signature__manifest_that_agrees__passes() -> None:
    check_signature(linear_manifest(), Inspection(X, Y, 0.0))


@pytest.mark.parametrize(
    "found",
    [
        Inspection(Y, Y, 0.0),
        Inspection(X, X, 0.0),
        Inspection((*X, *X), Y, 0.0),
        Inspection((TensorSpec("x", "FP64", (-1, 4)),), Y, 0.0),
        Inspection((TensorSpec("x", "FP32", (-1, 5)),), Y, 0.0),
        Inspection((TensorSpec("x", "FP32", (2, 4)),), Y, 0.0),
        Inspection((TensorSpec("x", "FP32", (-1, 4, 1)),), Y, 0.0),
    ],
)
def test_check_signature__manifest_that_differs__is_refused(found: Inspection) -> None:
    with pytest.raises(ArtifactRefused) as caught:
        check_signature(linear_manifest(), found)
    assert caught.value.code == "manifest"


def hub(tmp_path: Path, name: bytes | Hash32, data: bytes) -> ArtifactCache:
    folder = tmp_path / "hub"
    folder.mkdir()
    (folder / name.hex()).write_bytes(data)
    return ArtifactCache(tmp_path / "cache", f"file://{folder}")


def test_fetch__intact_artifact__is_kept_under_its_digest(tmp_path: Path) -> None:
    data = linear_model()
    digest = artifact_digest(data)
    cache = hub(tmp_path, digest, data)
    path = cache.fetch(digest, 1 << 20)
    assert path.read_bytes() == data
    path.write_bytes(b"rotten")
    assert cache.fetch(digest, 1 << 20).read_bytes() == data


def test_fetch__other_bytes__are_refused_and_not_kept(tmp_path: Path) -> None:
    digest = artifact_digest(b"promised")
    cache = hub(tmp_path, digest, b"given")
    with pytest.raises(ArtifactRefused) as caught:
        cache.fetch(digest, 1 << 20)
    assert caught.value.code == "digest"
    assert not list((tmp_path / "cache").iterdir())


def test_fetch__more_bytes_than_allowed__are_refused_and_not_kept(tmp_path: Path) -> None:
    data = bytes(1000)
    cache = hub(tmp_path, artifact_digest(data), data)
    with pytest.raises(ArtifactRefused) as caught:
        cache.fetch(artifact_digest(data), 999)
    assert caught.value.code == "too_large"
    assert not list((tmp_path / "cache").iterdir())


def test_fetch__absent__may_come_later(tmp_path: Path) -> None:
    with pytest.raises(RetryableError):
        ArtifactCache(tmp_path, f"file://{tmp_path}").fetch(Hash32(bytes(32)), 10)


def test_cache__hub_of_another_scheme__is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        ArtifactCache(tmp_path, "ftp://host/")
