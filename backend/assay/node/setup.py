"""What `assay node init` does: folder, signer, registration, stake, gas, offers.

Each step looks before it acts, so that running it again changes nothing that is as asked.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from assay.chain.client import ChainClient
from assay.chain.contracts import Token
from assay.chain.deployments import Deployment
from assay.chain.keys import SCRYPT_N, create_keystore, keystore_address
from assay.chain.sender import Sender
from assay.chain.values import Call
from assay.commitments.identifiers import checksum_address
from assay.disk import write_whole
from assay.errors import ConfigurationError
from assay.node.config import NodeConfig, VersionConfig, resolve_path, write_config
from assay.node.models.loader import describe_version
from assay.node.payments.chain_ledger import ChainLedger
from assay.types import ZERO_ADDRESS, Address, Hash32

MIN_SIGNER_WEI: Final = 10**16
"""Below this the signer is sent gas money."""
Password = Callable[[Path], str]


@dataclass(frozen=True, slots=True)
class Step:
    """`changed` False: it was as asked already."""

    name: str
    changed: bool
    detail: str


def create_signer(folder: Path, config: NodeConfig, *, scrypt_n: int = SCRYPT_N) -> tuple[Address, Step]:
    """The signer's address; a new keystore, and a random password in its file, unless they are there."""
    password_file = resolve_path(folder, config.password_file)
    keystore = resolve_path(folder, config.signer)
    if keystore.exists():
        address = checksum_address(keystore_address(keystore))
        return address, Step("signer", False, f"{address} in {keystore}")
    if not password_file.exists():
        password_file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(password_file, secrets.token_urlsafe(32) + "\n", mode=0o600)
    password = password_file.read_text().splitlines()[0]
    key = create_keystore(keystore, password, scrypt_n=scrypt_n)
    return key.address, Step("signer", True, f"{key.address} in {keystore}, password in {password_file}")


def write_folder(folder: Path, config: NodeConfig) -> Step:
    """node.toml, if it is not as `config` says."""
    path = folder / "node.toml"
    before = path.read_text() if path.exists() else None
    write_config(folder, config)
    return Step("configuration", path.read_text() != before, str(path))


@dataclass(frozen=True, slots=True)
class Registrar:
    """The steps on the chain, as the operator. `stake` in base units, `signer_wei` in wei."""

    client: ChainClient
    deployment: Deployment
    config: NodeConfig
    sender: Sender
    signer: Address
    stake: int
    signer_wei: int
    rotate: bool = False

    @property
    def ledger(self) -> ChainLedger:
        return ChainLedger(self.client, self.deployment, self.config.node)

    def steps(self) -> Iterator[Step]:
        """Does one step after another. Raises ConfigurationError with the cure, ContractRevert,
        RetryableError."""
        if self.sender.address != self.config.node:
            raise ConfigurationError(
                f"node.toml names operator {self.config.node}, the account given is {self.sender.address}; "
                "use the operator's account, or another --data folder"
            )
        yield from self._register()
        yield self._add_stake()
        yield self._fund_signer()
        for version in self.config.versions:
            yield self._offer(version)

    def _register(self) -> Iterator[Step]:
        nodes = self.ledger.nodes
        found = nodes.node(self.config.node)
        if not found.is_registered:
            self._send(nodes.register(self.signer, self.config.endpoint))
            yield Step("registration", True, f"{self.config.node} at {self.config.endpoint}")
            return
        if found.signer != self.signer:
            if not self.rotate:
                raise ConfigurationError(
                    f"node {self.config.node} is registered with signer {found.signer}, this folder's is "
                    f"{self.signer}; use that key's folder, or give --rotate-signer to make this key its "
                    f"signer"
                )
            self._send(nodes.rotate_signer(self.signer))
            yield Step("signer rotation", True, f"{found.signer} → {self.signer}")
        if found.endpoint != self.config.endpoint:
            self._send(nodes.set_endpoint(self.config.endpoint))
            yield Step("endpoint", True, f"{found.endpoint} → {self.config.endpoint}")
        yield Step("registration", False, f"{self.config.node} at {self.config.endpoint}")

    def _add_stake(self) -> Step:
        nodes = self.ledger.nodes
        have = nodes.node(self.config.node).stake
        missing = self.stake - have
        if missing <= 0:
            return Step("stake", False, str(have))
        token = Token(self.client, self.deployment)
        balance = token.balance_of(self.config.node)
        if balance < missing:
            raise ConfigurationError(
                f"the stake needs {missing} more base units of token {token.address}, operator "
                f"{self.config.node} has {balance}; send it the rest, or give a smaller --stake "
                f"(the minimum is {nodes.min_stake()})"
            )
        if token.allowance(self.config.node, nodes.address) < missing:
            self._send(token.approve(nodes.address, missing))
        self._send(nodes.stake(self.config.node, missing))
        return Step("stake", True, f"{have} → {self.stake}")

    def _fund_signer(self) -> Step:
        have = self.client.get_balance(self.signer)
        if have >= min(MIN_SIGNER_WEI, self.signer_wei):
            return Step("gas of the signer", False, f"{have} wei")
        balance = self.client.get_balance(self.config.node)
        if balance <= self.signer_wei:
            raise ConfigurationError(
                f"operator {self.config.node} has {balance} wei and cannot send the signer {self.signer_wei} "
                "for gas; fund it, or give a smaller --signer-gas"
            )
        self._send(Call(self.signer, b"", "gas of the signer", self.signer_wei))
        return Step("gas of the signer", True, f"{have} → {have + self.signer_wei} wei")

    def _offer(self, version: VersionConfig) -> Step:
        ledger = self.ledger
        record = describe_version(ledger, Address(version.publisher), version.name, version.number)
        version_id: Hash32 = record.served.version_id
        found = ledger.nodes.offer_of(self.config.node, version_id)
        if found.active and found.price == version.price:
            return Step("offer", False, f"{version} at {found.price}")
        self._send(ledger.nodes.offer(version_id, version.price))
        return Step("offer", True, f"{version} at {version.price}")

    def _send(self, call: Call) -> None:
        assert self.signer != ZERO_ADDRESS
        self.sender.send(call)


def withdraw_offers(ledger: ChainLedger, sender: Sender, versions: Iterable[VersionConfig]) -> Iterator[Step]:
    """As the operator. Raises ConfigurationError for a version that nobody published, ContractRevert,
    RetryableError."""
    for version in versions:
        record = describe_version(ledger, Address(version.publisher), version.name, version.number)
        is_offered = ledger.nodes.offer_of(ledger.node, record.served.version_id).active
        if is_offered:
            sender.send(ledger.nodes.withdraw_offer(record.served.version_id))
        yield Step(
            "offer", is_offered, f"{version} withdrawn" if is_offered else f"{version} was not offered"
        )
