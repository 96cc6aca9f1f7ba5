"""node.toml: what is written is read back; what is wrong is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from assay.commitments.signing import SigningKey
from assay.errors import ConfigurationError
from assay.node.config import (
    FILE,
    LimitsConfig,
    MemoryConfig,
    NodeConfig,
    SettlementConfig,
    VersionConfig,
    load_config,
    resolve_path,
    write_config,
)

OPERATOR = SigningKey(b"\x01" * 32).address


def config(**changes: object) -> NodeConfig:
    fields: dict[str, object] = {
        "operator": OPERATOR,
        "endpoint": 'https://node.example/"quoted"\\path',
        "rpc_urls": ["http://127.0.0.1:1", "http://127.0.0.1:2"],
        "chain_id": 31337,
        "deployments": "deployments",
        "hub_url": "http://127.0.0.1:3",
    }
    return NodeConfig.model_validate(fields | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "versions": [VersionConfig(publisher=OPERATOR, name="digits", number=1, price=(1 << 128) - 1)],
            "limits": LimitsConfig(max_concurrent=7, run_seconds=0.5),
            "settlement": SettlementConfig(free_receipts=True, max_value=10**20),
        },
        {
            "versions": [
                VersionConfig(
                    publisher=OPERATOR,
                    name="digits",
                    number=1,
                    executor="http://127.0.0.1:8080/",
                    executor_model="digits-gpu",
                    executor_seconds=0.5,
                    spot_check=0.01,
                )
            ],
            "serve_offers": True,
            "memory": MemoryConfig(budget_mib=100),
        },
    ],
)
def test_write_config__any__is_read_back_the_same(tmp_path: Path, changes: dict[str, object]) -> None:
    made = config(**changes)
    write_config(tmp_path, made)
    assert load_config(tmp_path) == made


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("= 1", "not TOML"),
        ("operator = 'x'", "operator"),
        ("[limits]\nmax_body_mib = 0", "limits.max_body_mib"),
        ("typo = 1", "typo"),
        ("[[versions]]\nexecutor = 'https://user:secret@host'", "versions.0.executor"),
        ("[[versions]]\nspot_check = 1.5", "versions.0.spot_check"),
    ],
)
def test_load_config__wrong_file__names_the_field(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(ConfigurationError, match=problem):
        load_config(tmp_path)


def test_load_config__no_file__says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="assay node init"):
        load_config(tmp_path)


def test_resolve_path__relative__is_inside_the_folder(tmp_path: Path) -> None:
    assert resolve_path(tmp_path, "signer.json") == tmp_path / "signer.json"
    assert resolve_path(tmp_path, "/elsewhere/key") == Path("/elsewhere/key")


@pytest.mark.parametrize(("max_age", "margin"), [(300.0, 900), (3_600.5, 4_201)])
def test_thaw_margin__batches_stay_open_longer__grows_with_them(max_age: float, margin: int) -> None:
    assert SettlementConfig(max_age_seconds=max_age).thaw_margin_seconds == margin
