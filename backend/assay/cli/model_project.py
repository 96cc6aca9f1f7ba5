"""A model on a publisher's disk: `model.toml`, the ONNX file, the card, the self-test; and the manifest made
of them.
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from assay.cli.self_tests import ensure_self_test
from assay.commitments.identifiers import artifact_digest, check_model_name
from assay.commitments.manifest import Manifest
from assay.errors import ConfigurationError, RequestError
from assay.exact.lowering import Report, check_model
from assay.node.models.validate import Inspection, check_signature, inspect_artifact
from assay.types import Hash32, TensorSpec

FILE = "model.toml"
CARD = "MODEL_CARD.md"
SELF_TEST = "self_test.json"


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
    program_root: str | None = Field(default=None, pattern="^0x[0-9a-f]{64}$")
    """What the publisher expects; another is refused."""
    manifest_hash: str | None = Field(default=None, pattern="^0x[0-9a-f]{64}$")
    """Likewise."""
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
    report: Report
    """Whether the artifact is in the exact profile, and what keeps it out."""

    @property
    def program_root(self) -> Hash32 | None:
        return None if self.report.program is None else self.report.program.root


def load_project(folder: Path, *, signed_only: bool = False) -> Project:
    """Read and check everything; what no node would serve is refused here, and so is a self-test that this
    machine's ONNX Runtime and the exact evaluator do not both confirm, unless `signed_only`.

    Raises ArtifactRefused, ConfigurationError.
    """
    config = read_config(folder)
    artifact = _existing(folder / config.artifact, "artifact")
    card = _existing(folder / config.model_card, "model_card").read_bytes()
    inspection = inspect_artifact(artifact)
    content = artifact.read_bytes()
    digest, report = artifact_digest(content), check_model(content)
    path, program = folder / config.self_test, report.program
    confirmed = not signed_only
    self_test = ensure_self_test(path, artifact, digest, inspection, program, is_confirmed=confirmed)
    manifest = Manifest(
        tuple(item.spec() for item in config.inputs),
        tuple(item.spec() for item in config.outputs),
        config.licence,
        artifact_digest(card),
        artifact_digest(self_test),
    )
    check_signature(manifest, inspection)
    project = Project(folder, config, artifact, digest, card, self_test, manifest, report)
    _check_expected(project)
    return project


def _check_expected(project: Project) -> None:
    """What model.toml states must be what follows from the files. Raises ConfigurationError."""
    root, config = project.program_root, project.config
    stated = (
        ("program_root", config.program_root, "none" if root is None else "0x" + root.hex()),
        ("manifest_hash", config.manifest_hash, "0x" + project.manifest.digest.hex()),
    )
    for name, expected, found in stated:
        if expected is not None and expected != found:
            raise ConfigurationError(
                f"{project.folder / FILE} states {name} {expected}, its files give {found}: correct or "
                "remove the line, or find out which file changed"
            )


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
    content = onnx.read_bytes()
    program = check_model(content).program
    path, digest = folder / SELF_TEST, artifact_digest(content)
    ensure_self_test(path, onnx, digest, inspection, program, is_confirmed=False)
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
