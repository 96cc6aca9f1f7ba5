from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from assay.chain.deployments import Deployment, write_record
from assay.errors import ConfigurationError
from assay.types import ZERO_ADDRESS, Assurance

NAMES = ("Token", "ModelRegistry", "NodeRegistry", "Settlement")


def record(number: int, block: int = 5) -> dict[str, Any]:
    return {"address": f"0x{number:040x}", "abi": [], "arguments": {}, "block": block}


def write_all(folder: Path, names: tuple[str, ...] = NAMES) -> None:
    for number, name in enumerate(names, 1):
        write_record(folder, 31337, name, record(number, block=10 - number))


def test_load__complete_folder__addresses_first_block_domain(tmp_path: Path) -> None:
    write_all(tmp_path)
    deployment = Deployment.load(tmp_path, 31337)
    assert deployment.addresses["Settlement"] == "0x" + "0" * 39 + "4"
    assert deployment.block == 6
    assert (deployment.domain.chain_id, deployment.domain.settlement) == (
        31337,
        deployment.addresses["Settlement"],
    )


def test_load__no_folder__names_it_and_the_cure(tmp_path: Path) -> None:
    write_all(tmp_path)
    with pytest.raises(ConfigurationError, match="ape run deploy") as caught:
        Deployment.load(tmp_path, 1)
    assert str(tmp_path / "1") in str(caught.value) and "31337" in str(caught.value)


def test_load__stopped_in_the_middle__says_what_is_missing(tmp_path: Path) -> None:
    write_all(tmp_path, NAMES[:3])
    with pytest.raises(ConfigurationError, match="Settlement missing"):
        Deployment.load(tmp_path, 31337)


@pytest.mark.parametrize("damage", ["", "{", "not json"])
def test_load__damaged_record__names_the_file(tmp_path: Path, damage: str) -> None:
    write_all(tmp_path)
    (tmp_path / "31337" / "Settlement.json").write_text(damage)
    with pytest.raises(ConfigurationError, match=r"Settlement\.json"):
        Deployment.load(tmp_path, 31337)


def test_write_record__again__replaces_and_leaves_no_litter(tmp_path: Path) -> None:
    write_all(tmp_path)
    write_record(tmp_path, 31337, "Settlement", record(9, block=99))
    deployment = Deployment.load(tmp_path, 31337)
    assert deployment.addresses["Settlement"].endswith("9") and deployment.block == 6
    assert not list((tmp_path / "31337").glob(".*"))


@pytest.mark.parametrize("has_program", [False, True])
@pytest.mark.parametrize("game", [ZERO_ADDRESS, "0x" + "77" * 20])
def test_assurance_of__exact_only_with_program_and_dispute_game(
    tmp_path: Path, game: str, has_program: bool
) -> None:
    write_all(tmp_path)
    settlement = {**record(4), "arguments": {"dispute_game": game}}
    write_record(tmp_path, 31337, "Settlement", settlement)
    found = Deployment.load(tmp_path, 31337).assurance_of(has_program=has_program)
    expected = Assurance.EXACT if has_program and game != ZERO_ADDRESS else Assurance.SIGNED
    assert found is expected
