"""Hostile files, each refused by name: by the rules alone, or by the child that loads and runs it."""

from __future__ import annotations

from pathlib import Path

import pytest
from assay.node.errors import ArtifactRefused
from assay.node.models.rules import check_artifact
from assay.node.models.validate import SandboxLimits, inspect_artifact

from tests.support.hostile_models import HOSTILE, Hostile

BY_RULE = [one for one in HOSTILE if not one.needs_child]
BY_CHILD = [one for one in HOSTILE if one.needs_child]


@pytest.mark.parametrize("hostile", BY_RULE, ids=lambda one: one.name)
def test_check_artifact__hostile_file__is_refused_by_its_rule(hostile: Hostile) -> None:
    with pytest.raises(ArtifactRefused) as caught:
        check_artifact(hostile.build())
    assert caught.value.code in hostile.codes


@pytest.mark.parametrize("hostile", BY_CHILD, ids=lambda one: one.name)
def test_inspect_artifact__hostile_file__ends_in_the_child(hostile: Hostile, tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(hostile.build())
    with pytest.raises(ArtifactRefused) as caught:
        inspect_artifact(path, SandboxLimits(memory=2 << 30, seconds=3 if "time" in hostile.codes else 20))
    assert caught.value.code in hostile.codes
