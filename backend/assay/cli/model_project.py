"""A model on a publisher's disk: `model.toml`, the ONNX file, the card, the self-test; and the manifest made
of them.
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rfc8785
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from assay.commitments.identifiers import artifact_digest, check_model_name
from assay.commitments.manifest import Manifest
from assay.commitments.tensors import OIP_TO_NUMPY, array_bytes, commit_tensors
from assay.errors import ConfigurationError, RequestError
from assay.node.runtime import build_session
from assay.node.validate import Inspection, check_signature, inspect_artifact
from assay.types import Hash32, TensorSpec

FILE = "model.toml"
CARD = "MODEL_CARD.md"
SELF_TEST = "self_test.json"
SELF_TEST_ROWS = 4
SELF_TEST_SEED = 20_240_229


class TensorSection(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    dtype: str
    shape: list[int]

    def spec(self) -> TensorSpec:
        return TensorSpec(self.name, self.dtype, tuple(self.shape))


class ModelConfig(BaseModel):
    """The content of `model.toml`; paths are relative to it."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    artifact: str
    licence: str = Field(min_length=1)
    model_card: str = CARD
    self_test: str = SELF_TEST
    royalty_bps: int = Field(default=0, ge=0, le=5_000)
    metadata_uri: str = Field(default="", max_length=256)
    inputs: list[TensorSection] = Field(min_length=1)
    outputs: list[TensorSection] = Field(min_length=1)

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        try:
            return check_model_name(value)
        except RequestError as error:
            raise ValueError(str(error)) from None


@dataclass(frozen=True, slots=True)
class Project:
    """A checked model, ready to be pushed and published."""

    folder: Path
    config: ModelConfig
    artifact: Path
    artifact_hash: Hash32
    card: bytes
    self_test: bytes
    manifest: Manifest


def load_project(folder: Path) -> Project:
    """Read and check everything; what no node would serve is refused here.

    Raises ArtifactRefused, ConfigurationError.
    """
    config = read_config(folder)
    artifact = _existing(folder / config.artifact, "artifact")
    card = _existing(folder / config.model_card, "model_card").read_bytes()
    inspection = inspect_artifact(artifact)
    digest = artifact_digest(artifact.read_bytes())
    self_test = ensure_self_test(folder / config.self_test, artifact, digest, inspection)
    manifest = Manifest(
        tuple(item.spec() for item in config.inputs),
        tuple(item.spec() for item in config.outputs),
        config.licence,
        artifact_digest(card),
        artifact_digest(self_test),
    )
    check_signature(manifest, inspection)
    return Project(folder, config, artifact, digest, card, self_test, manifest)


def read_config(folder: Path) -> ModelConfig:
    """Raises ConfigurationError that names file and field."""
    path = folder / FILE
    try:
        return ModelConfig.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ConfigurationError(
            f"there is no {path}; `assay model init NAME --onnx FILE` writes one"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not TOML: {error}") from None
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors(include_input=False)
        )
        raise ConfigurationError(f"{path}: {problems}") from None


def _existing(path: Path, what: str) -> Path:
    if not path.is_file():
        raise ConfigurationError(f"{what} {path} is missing; put it there or correct {FILE}")
    return path


def init_project(folder: Path, name: str, onnx: Path, licence: str, royalty_bps: int) -> Inspection:
    """Write `model.toml` and a model card from what the ONNX file takes and gives. Never overwrites a card.

    Raises ArtifactRefused with the rule that the file breaks, ConfigurationError if there is a `model.toml`.
    """
    check_model_name(name)
    if (folder / FILE).exists():
        raise ConfigurationError(f"{folder / FILE} exists already; edit it, or choose another --folder")
    inspection = inspect_artifact(onnx)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_text(
        _render(folder, name, onnx, inspection, licence=licence, royalty_bps=royalty_bps), encoding="utf-8"
    )
    if not (folder / CARD).exists():
        (folder / CARD).write_text(_card(name, licence, inspection), encoding="utf-8")
    ensure_self_test(folder / SELF_TEST, onnx, artifact_digest(onnx.read_bytes()), inspection)
    return inspection


def _render(
    folder: Path, name: str, onnx: Path, inspection: Inspection, *, licence: str, royalty_bps: int
) -> str:
    artifact = onnx.resolve()
    if artifact.is_relative_to(folder.resolve()):
        artifact = artifact.relative_to(folder.resolve())
    lines = [
        "# A model for `assay model publish`. Paths are relative to this file.",
        f"name = {json.dumps(name)}",
        f"artifact = {json.dumps(str(artifact))}",
        f"licence = {json.dumps(licence)}",
        f'model_card = "{CARD}"',
        f'self_test = "{SELF_TEST}"',
        "# The publisher's share of what consumers pay, in hundredths of a per cent, at most 5000.",
        f"royalty_bps = {royalty_bps}",
        'metadata_uri = ""',
        "",
        "# As the file has them; -1 is the batch dimension. Make open dimensions exact where they are fixed.",
    ]
    for section, specs in (("inputs", inspection.inputs), ("outputs", inspection.outputs)):
        for spec in specs:
            lines += [
                f"[[{section}]]",
                f"name = {json.dumps(spec.name)}",
                f"dtype = {json.dumps(spec.dtype)}",
                f"shape = {list(spec.shape)}",
                "",
            ]
    return "\n".join(lines)


def _card(name: str, licence: str, inspection: Inspection) -> str:
    rows = [
        f"| {kind} | `{spec.name}`, {spec.dtype}, {list(spec.shape)}: what it means, its unit and its range |"
        for kind, specs in (("input", inspection.inputs), ("output", inspection.outputs))
        for spec in specs
    ]
    table = "\n".join(["| | |", "| --- | --- |", f"| licence | {licence} |", *rows])
    return (
        f"# {name}\n\nWhat it does, in one sentence.\n\n{table}\n\n"
        "**Training data.** Name, source and licence of the data.\n\n"
        "**How it was measured.** Figures, on which held-out data, by which script.\n\n"
        "**Use.** What it is for, and what it is not for.\n"
    )


def ensure_self_test(path: Path, artifact: Path, digest: Hash32, inspection: Inspection) -> bytes:
    """The self-test of this artifact: kept if the file is there and of this artifact, else made. Canonical
    JSON.

    A few rows of inputs with the outputs that this machine computes, so that a node can compare its own.
    """
    if path.exists():
        raw = path.read_bytes()
        try:
            if json.loads(raw).get("artifact") == digest.hex():
                return raw
        except (ValueError, AttributeError):
            pass
    raw = rfc8785.dumps(build_self_test(artifact, digest, inspection))
    path.write_bytes(raw)
    return raw


def build_self_test(artifact: Path, digest: Hash32, inspection: Inspection) -> dict[str, Any]:
    """`{"artifact", "vectors": [{"inputs": {name: hex}, "shapes", "input_hash", "output_hash"}]}`.

    Tensor bytes are little-endian and row-major, in hex.
    """
    random = np.random.default_rng(SELF_TEST_SEED)
    session = build_session(artifact.read_bytes(), threads=1)
    vectors = []
    for _ in range(SELF_TEST_ROWS):
        feeds = {spec.name: _random_input(random, spec) for spec in inspection.inputs}
        outputs = session.run([spec.name for spec in inspection.outputs], feeds)
        vectors.append(
            {
                "inputs": {name: _hex(array) for name, array in feeds.items()},
                "shapes": {name: list(array.shape) for name, array in feeds.items()},
                "input_hash": "0x" + commit_tensors(feeds.values()).hex(),
                "output_hash": "0x" + commit_tensors(outputs).hex(),
            }
        )
    return {"artifact": digest.hex(), "vectors": vectors}


def _random_input(random: np.random.Generator, spec: TensorSpec) -> np.ndarray[Any, Any]:
    shape = tuple(1 if dim == -1 else dim for dim in spec.shape)
    dtype = OIP_TO_NUMPY[spec.dtype]
    if dtype.kind == "O":
        return np.full(shape, "", dtype=object)
    if dtype.kind == "f":
        return random.random(shape).astype(dtype)
    return random.integers(0, 2, shape).astype(dtype)


def _hex(array: np.ndarray[Any, Any]) -> str:
    return bytes(array_bytes(array)).hex()
