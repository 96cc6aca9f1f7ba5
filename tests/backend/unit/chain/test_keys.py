from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from assay.chain.keys import create_keystore, find_keystore, keystore_address, load_key, read_password
from assay.errors import ConfigurationError
from assay.node.setup import create_signer
from eth_account import Account

CHEAP = 1 << 10


def test_create_keystore__then_load_key__same_account_and_private_file(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "node.json"
    key = create_keystore(path, "secret", scrypt_n=CHEAP)
    assert load_key(path, "secret").address == key.address
    assert keystore_address(path).lower() == key.address.lower()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_text())["crypto"]["kdf"] == "scrypt"


@pytest.mark.parametrize("function", [create_keystore, create_signer])
def test_create_keystore__unless_told_otherwise__costs_what_the_standard_says(function: Any) -> None:
    assert function.__kwdefaults__["scrypt_n"] == 1 << 18


def test_create_keystore__file_exists__never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "k.json"
    create_keystore(path, "secret", scrypt_n=CHEAP)
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match="exists"):
        create_keystore(path, "other", scrypt_n=CHEAP)
    assert path.read_bytes() == before


def test_create_keystore__empty_password__refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="password"):
        create_keystore(tmp_path / "k.json", "", scrypt_n=CHEAP)


def test_load_key__ape_alias__from_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APE_DATA_FOLDER", str(tmp_path))
    (tmp_path / "accounts").mkdir()
    content = Account.encrypt(b"\x01" * 32, "secret", kdf="pbkdf2", iterations=10)
    (tmp_path / "accounts" / "deployer.json").write_text(json.dumps(content))
    assert load_key("deployer", "secret").address == Account.from_key(b"\x01" * 32).address


def test_load_key__wrong_password__names_the_file_only(tmp_path: Path) -> None:
    path = tmp_path / "k.json"
    create_keystore(path, "secret", scrypt_n=CHEAP)
    with pytest.raises(ConfigurationError, match="wrong password") as caught:
        load_key(path, "guess")
    assert str(path) in str(caught.value) and "guess" not in str(caught.value)


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", '{"crypto": {}}', '{"crypto": {}, "version": 3}', "\x00"]
)
def test_load_key__not_a_keystore__configuration_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "k.json"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match="keystore"):
        load_key(path, "secret")


@pytest.mark.parametrize("account", ["nobody", "./nobody.json", "nobody.json"])
def test_find_keystore__absent__configuration_error(
    account: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APE_DATA_FOLDER", str(tmp_path))
    with pytest.raises(ConfigurationError, match="there is no keystore"):
        find_keystore(account)


def test_read_password__first_line(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("pass word\nmore\n")
    assert read_password(path) == "pass word"
    path.write_text("")
    with pytest.raises(ConfigurationError, match="empty"):
        read_password(path)
