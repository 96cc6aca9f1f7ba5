"""Keys at rest: Ape accounts and keystore v3 files (Web3 Secret Storage). A raw key is never an argument."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eth_account import Account

from assay.commitments.signing import SigningKey
from assay.disk import sync_path
from assay.errors import ConfigurationError

SCRYPT_N = 1 << 18  # the standard's cost (geth, Ape); 1 s and 256 MB


def find_keystore(account: str | Path) -> Path:
    """An Ape alias's keystore (`accounts/ALIAS.json` in `~/.ape` or APE_DATA_FOLDER), or the path itself."""
    text = str(account)
    if isinstance(account, str) and not ("/" in text or os.sep in text or text.endswith(".json")):
        home = Path(os.environ.get("APE_DATA_FOLDER") or Path.home() / ".ape")
        path = home.expanduser() / "accounts" / f"{text}.json"
        cure = "import one with `ape accounts import`, or give a keystore's path"
    else:
        path, cure = Path(account).expanduser(), "give an Ape alias or a keystore v3 file"
    if not path.is_file():
        raise ConfigurationError(f"there is no keystore {path}; {cure}")
    return path


def keystore_address(account: str | Path) -> str:
    """The address that the file names, without its password ('' if it names none)."""
    address = str(_read_keystore(find_keystore(account)).get("address", ""))
    return address if address.startswith("0x") or not address else f"0x{address}"


def load_key(account: str | Path, password: str) -> SigningKey:
    """Decrypt; raises `ConfigurationError` that names the file, never its content."""
    path = find_keystore(account)
    keystore = _read_keystore(path)
    try:
        secret = bytes(Account.decrypt(keystore, password))
    except ValueError as error:
        if "MAC" in str(error):
            raise ConfigurationError(f"wrong password for keystore {path}") from None
        raise ConfigurationError(f"keystore {path} cannot be decrypted: {type(error).__name__}") from None
    except (KeyError, TypeError, NotImplementedError) as error:
        raise ConfigurationError(f"{path} is not a keystore v3 file ({type(error).__name__})") from None
    return SigningKey(secret)


def unlock(account: str | Path, password: str | Callable[[], str] | None) -> SigningKey:
    """The account's key, by its password or a function that asks for it. Raises ConfigurationError."""
    text = password() if callable(password) else password
    if text is None:
        raise ConfigurationError(f"account {account} is a keystore: give its password (text or a function)")
    return load_key(account, text)


def read_password(path: Path | str) -> str:
    """A file's first line."""
    try:
        lines = Path(path).expanduser().read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"password file {path} cannot be read ({type(error).__name__})") from None
    if not lines:
        raise ConfigurationError(f"password file {path} is empty")
    return lines[0]


def create_keystore(
    path: Path | str, password: str, *, secret: bytes | None = None, scrypt_n: int = SCRYPT_N
) -> SigningKey:
    """Make a fresh key (or keep `secret`) in a new file of mode 0600 (scrypt). Never overwrites."""
    path = Path(path).expanduser()
    if not password:
        raise ConfigurationError(f"keystore {path} needs a password; an empty one protects nothing")
    secret = os.urandom(32) if secret is None else secret
    key = SigningKey(secret)
    content: dict[str, Any] = Account.encrypt(secret, password, kdf="scrypt", iterations=scrypt_n)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise ConfigurationError(f"{path} exists already; keys are never overwritten") from None
    with os.fdopen(handle, "w") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    sync_path(path.parent)
    return key


def _read_keystore(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path} is not a keystore v3 file ({type(error).__name__})") from None
    if not isinstance(content, dict) or "crypto" not in {str(name).lower() for name in content}:
        raise ConfigurationError(f"{path} is not a keystore v3 file: it has no `crypto` section")
    return content
