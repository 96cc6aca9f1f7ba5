"""Where the contracts are: the folder that `scripts/deploy.py` writes and everything off-chain reads.

deployments/<chain id>/addresses.json      {"chain_id", "block", "addresses": {name: address}}
deployments/<chain id>/<Contract>.json     {"contract", "address", "abi", "arguments", "transaction", "block",
                                            "commit", "compiler", "input"}
"""

from __future__ import annotations

import functools
import json
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from assay.chain.abi import Abi, ContractAbi
from assay.commitments.identifiers import checksum_address
from assay.errors import ConfigurationError
from assay.types import ZERO_ADDRESS, Address, Assurance, Domain

CONTRACTS = ("ModelRegistry", "NodeRegistry", "Settlement")
TOKEN = "Token"  # noqa: S105 - the payment token, of which only an ERC-20's ABI is assumed


@dataclass(frozen=True)
class Deployment:
    """One chain's contracts. `block` is the first contract's, where an index starts."""

    folder: Path
    chain_id: int
    addresses: dict[str, Address]
    block: int
    _records: dict[str, dict[str, Any]] = field(repr=False)

    @classmethod
    def load(cls, folder: Path | str, chain_id: int) -> Deployment:
        """Raises `ConfigurationError` that names the folder and the cure."""
        home = Path(folder) / str(chain_id)
        if not (home / "addresses.json").exists():
            raise ConfigurationError(_missing(home, chain_id, Path(folder)))
        summary = _read(home / "addresses.json")
        addresses = {name: checksum_address(address) for name, address in summary["addresses"].items()}
        if absent := [name for name in (*CONTRACTS, TOKEN) if name not in addresses]:
            raise ConfigurationError(
                f"the deployment in {home} is not complete: {', '.join(absent)} missing; "
                "run `ape run deploy` again with the same options, it continues"
            )
        records = {name: _read(home / f"{name}.json") for name in addresses}
        return cls(home, chain_id, addresses, int(summary["block"]), records)

    def address(self, name: str) -> Address:
        try:
            return self.addresses[name]
        except KeyError:
            raise ConfigurationError(f"{self.folder} names no contract {name}; deploy it") from None

    def abi(self, name: str) -> Abi:
        """The contract's JSON ABI."""
        self.address(name)
        abi: Abi = self._records[name]["abi"]
        return abi

    def contract_abi(self, name: str) -> ContractAbi:
        """The parsed ABI, parsed once."""
        return self._parsed(name)

    def record(self, name: str) -> dict[str, Any]:
        """The whole content of `<name>.json`."""
        self.address(name)
        return self._records[name]

    @functools.cached_property
    def domain(self) -> Domain:
        """EIP-712 domain of vouchers and receipts."""
        return Domain(self.chain_id, self.address("Settlement"))

    @functools.cached_property
    def has_disputes(self) -> bool:
        """Whether Settlement was deployed with a dispute game; without one no receipt can be overturned."""
        return str(self.record("Settlement")["arguments"]["dispute_game"]) != ZERO_ADDRESS

    def assurance_of(self, *, has_program: bool) -> Assurance:
        """What receipts of a version are worth here: `exact` needs a program and somewhere to dispute it."""
        return Assurance.EXACT if has_program and self.has_disputes else Assurance.SIGNED

    @functools.cached_property
    def _abis(self) -> dict[str, ContractAbi]:
        return {}

    def _parsed(self, name: str) -> ContractAbi:
        if name not in self._abis:
            self._abis[name] = ContractAbi(self.abi(name))
        return self._abis[name]


def write_record(folder: Path | str, chain_id: int, name: str, record: dict[str, Any]) -> None:
    """Write `<name>.json`, then name its address in `addresses.json`; each file whole or not at all."""
    home = Path(folder) / str(chain_id)
    home.mkdir(parents=True, exist_ok=True)
    write_json(home / f"{name}.json", record)
    path = home / "addresses.json"
    summary = (
        _read(path) if path.exists() else {"chain_id": chain_id, "block": record["block"], "addresses": {}}
    )
    summary["addresses"][name] = record["address"]
    summary["block"] = min(int(summary["block"]), int(record["block"]))
    write_json(path, summary)


def write_json(path: Path, content: Any) -> None:
    """Durable and atomic: a reader sees the old file or the new one, also after a power cut."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w") as file:
            json.dump(content, file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        raise ConfigurationError(f"{path} is missing; run `ape run deploy` again, it writes it") from None
    except json.JSONDecodeError as error:
        raise ConfigurationError(f"{path} is not JSON ({error}); restore it or deploy again") from None
    return content


def _missing(home: Path, chain_id: int, folder: Path) -> str:
    others = sorted(p.parent.name for p in folder.glob("*/addresses.json"))
    known = f"; it has chains {', '.join(others)}" if others else ""
    return (
        f"no contracts of chain {chain_id} in {home.resolve()}{known}; "
        "run `ape run deploy --network …`, or set ASSAY_DEPLOYMENTS to the folder that it wrote"
    )
