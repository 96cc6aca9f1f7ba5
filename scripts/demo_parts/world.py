"""The demo's cast and places, fixed when the run begins."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from assay.chain.client import ChainClient
from assay.chain.deployments import Deployment
from assay.chain.keys import create_keystore
from assay.commitments.signing import SigningKey
from assay.types import Address, Hash32

UNIT = 10**18
STAKE = 2_000 * UNIT
ROYALTY_BPS = 500
DISPUTE_WINDOW = 3_600
MOVE_WINDOW = 600
SLASH = 1_000 * UNIT
BOND = 10 * UNIT
CHEAT = "node-3"
CHEATED_MODEL = "digits-int8"
ONE_IN = 50
"""The cheating node adds one to an output element of one answer in so many."""
SCRYPT_N = 1 << 12
"""Cheap on purpose: these keys live for one demo on a private chain."""

MODELS = ("digits", "digits-int8", "breast-cancer")
PRICES: Mapping[str, Mapping[str, int]] = {
    "node-1": {"digits": UNIT // 1_000, "digits-int8": UNIT // 500, "breast-cancer": UNIT // 2_000 + 1},
    "node-2": {"digits": UNIT // 400, "digits-int8": UNIT // 1_250 + 7, "breast-cancer": UNIT // 1_500},
    CHEAT: {CHEATED_MODEL: UNIT // 5_000},
}
"""Base units an answer. Each node is the cheaper one for some model; odd amounts show rounding."""


@dataclass(frozen=True)
class Person:
    """Somebody with a keystore in the run's folder."""

    name: str
    key: SigningKey = field(repr=False)
    keystore: Path
    password_file: Path

    @property
    def address(self) -> Address:
        return self.key.address


@dataclass
class World:
    """Folder and chain of a run. `minted`, `funded`: what the demo gave out and deposited, base units."""

    folder: Path
    chain: ChainClient
    deployment: Deployment
    urls: dict[str, str]
    people: dict[str, Person]
    versions: dict[str, Hash32] = field(default_factory=dict)
    minted: dict[Address, int] = field(default_factory=dict)
    funded: dict[tuple[Address, Address], int] = field(default_factory=dict)

    @property
    def publisher(self) -> Person:
        return self.people["publisher"]

    @property
    def consumers(self) -> list[Person]:
        return [self.people["alice"], self.people["bob"]]

    @property
    def honest(self) -> list[Person]:
        return [self.people["node-1"], self.people["node-2"]]

    @property
    def cheat(self) -> Person:
        return self.people[CHEAT]

    @property
    def watcher(self) -> Person:
        return self.people["watcher"]

    @property
    def nodes(self) -> list[Person]:
        return [*self.honest, self.cheat]

    def data(self, name: str) -> Path:
        """State folder of a person or service."""
        return self.folder / name

    def client_data(self, person: Person) -> Path:
        """Where `assay infer`, `assay channel` and the SDK keep a person's channels and receipts."""
        return self.data(person.name) / "client"

    def environment(self, person: Person | None = None, **extra: str) -> dict[str, str]:
        """Settings for an `assay` command, in the name of `person`."""
        settings = {
            "ASSAY_RPC_URLS": f'["{self.urls["chain"]}"]',
            "ASSAY_DEPLOYMENTS": str(self.folder / "deployments"),
            "ASSAY_HUB_URL": self.urls.get("hub", ""),
            "ASSAY_API_URL": self.urls.get("api", ""),
            "ASSAY_DATABASE_URL": f"sqlite:///{self.folder}/index.sqlite3",
            "PYTHONUNBUFFERED": "1",
        }
        if person:
            settings |= {
                "ASSAY_ACCOUNT": str(person.keystore),
                "ASSAY_PASSWORD_FILE": str(person.password_file),
                "ASSAY_DATA": str(self.data(person.name)),
            }
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("ASSAY_")}
        return inherited | {"PATH": path} | settings | extra


def create_people(folder: Path) -> dict[str, Person]:
    """Keystores for everybody."""
    return {
        name: create_person(folder / "keys", name)
        for name in ("publisher", "node-1", "node-2", CHEAT, "watcher", "alice", "bob")
    }


def create_person(folder: Path, name: str) -> Person:
    folder.mkdir(parents=True, exist_ok=True)
    password = os.urandom(16).hex()
    password_file = folder / f"{name}.password"
    password_file.touch(mode=0o600)
    password_file.write_text(password + "\n")
    keystore = folder / f"{name}.json"
    return Person(name, create_keystore(keystore, password, scrypt_n=SCRYPT_N), keystore, password_file)
