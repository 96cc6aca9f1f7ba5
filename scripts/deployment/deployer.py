"""Deploys step by step; after each step the folder says what is there, so that any run continues another."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from assay.chain.abi import ContractAbi
from assay.chain.client import ChainClient, hex_bytes
from assay.chain.deployments import TOKEN, write_json, write_record
from assay.chain.fees import fetch_fees
from assay.chain.outbox import Outbox
from assay.chain.sender import Sender
from assay.chain.transactions import Signer
from assay.chain.values import Call
from assay.commitments.identifiers import checksum_address, keccak
from assay.errors import ConfigurationError
from assay.types import ZERO_ADDRESS, Address

from scripts.deployment.compiler import ROOT, Artifact, compile_contract
from scripts.deployment.plan import (
    DISPUTE_STEPS,
    GAME,
    MOCK,
    MOCK_ARGUMENTS,
    STEPS,
    Step,
    Terms,
    arguments_of,
    created_address,
)

GAS_PER_BYTE = 220  # 200 for the stored code, 16 of calldata, and what initialisation costs
GAS_PER_CREATION = 400_000

ERC20_ABI: list[dict[str, Any]] = [
    {
        "type": "function",
        "name": name,
        "stateMutability": mutability,
        "inputs": [{"name": argument, "type": kind} for argument, kind in inputs],
        "outputs": [{"name": "", "type": output}],
    }
    for name, mutability, inputs, output in (
        ("name", "view", (), "string"),
        ("symbol", "view", (), "string"),
        ("decimals", "view", (), "uint8"),
        ("totalSupply", "view", (), "uint256"),
        ("balanceOf", "view", (("owner", "address"),), "uint256"),
        ("allowance", "view", (("owner", "address"), ("spender", "address")), "uint256"),
        ("approve", "nonpayable", (("spender", "address"), ("amount", "uint256")), "bool"),
        ("transfer", "nonpayable", (("to", "address"), ("amount", "uint256")), "bool"),
        (
            "transferFrom",
            "nonpayable",
            (("from", "address"), ("to", "address"), ("amount", "uint256")),
            "bool",
        ),
        ("nonces", "view", (("owner", "address"),), "uint256"),
        ("DOMAIN_SEPARATOR", "view", (), "bytes32"),
    )
]


@dataclass
class Report:
    """What one run did. Gas in units."""

    addresses: dict[str, Address] = field(default_factory=dict)
    deployed: list[str] = field(default_factory=list)
    reused: list[str] = field(default_factory=list)
    gas_used: int = 0


@dataclass
class Deployer:
    """`folder` is `deployments/`; `notify` hears one line a step."""

    client: ChainClient
    key: Signer
    folder: Path
    terms: Terms
    confirmations: int
    notify: Callable[[str], None]

    def __post_init__(self) -> None:
        self.home = self.folder / str(self.client.chain_id)
        self.report = Report()

    def run(self) -> Report:
        """Deploy what is missing. Raises `ConfigurationError` where what is there has other arguments."""
        self.home.mkdir(parents=True, exist_ok=True)
        steps = self._steps()
        missing = [(name, source) for name, source, _ in steps if not self._is_recorded(name)]
        if missing:
            self._check_funds([source for _, source in missing])
        with Outbox(self.home / "outbox.sqlite3") as outbox, Sender(self.client, self.key, outbox) as sender:
            for name, source, step in steps:
                arguments: dict[str, Any] = MOCK_ARGUMENTS
                if step is not None:
                    game = self._game_address(sender) if "dispute_game" in step.arguments else ZERO_ADDRESS
                    arguments = arguments_of(step, self.terms, self.report.addresses, game)
                address = self._reuse(name, arguments)
                if address is None and name == GAME:
                    self._reach_nonce(sender)
                address = address or self._create(sender, name, source, arguments)
                self.report.addresses[name] = address
        return self.report

    def _steps(self) -> list[tuple[str, str, Step | None]]:
        """Name, source and plan; the token comes first, deployed or only recorded."""
        plan = [step for step in STEPS if self.terms.has_disputes or step.name not in DISPUTE_STEPS]
        steps: list[tuple[str, str, Step | None]] = [(step.name, step.source, step) for step in plan]
        if self.terms.token is None:
            return [(TOKEN, MOCK, None), *steps]
        self._record_token(self.terms.token)
        self.report.addresses[TOKEN] = self.terms.token
        return steps

    def _game_address(self, sender: Sender) -> Address:
        """Where the dispute game will be: NodeRegistry and Settlement are told for ever, before it is there.

        Fixed on disk with the nonce that makes it so, before the first of the two is sent.
        """
        if not self.terms.has_disputes:
            return ZERO_ADDRESS
        path = self.home / "dispute-game.json"
        if path.exists():
            return Address(json.loads(path.read_text())["address"])
        if (known := self._record("NodeRegistry")) is not None:
            return Address(known["arguments"]["dispute_game"])
        nonce = self._next_nonce(sender) + 2
        address = created_address(sender.address, nonce)
        write_json(path, {"address": address, "nonce": nonce, "deployer": sender.address})
        return address

    def _next_nonce(self, sender: Sender) -> int:
        seen = self.client.get_transaction_count(sender.address, "pending")
        return max(seen, sender.outbox.next_nonce(self.client.chain_id, sender.address))

    def _reach_nonce(self, sender: Sender) -> None:
        """Empty transfers to itself, if fewer transactions than planned came before."""
        if sender.outbox.find(self.client.chain_id, sender.address, f"deploy {GAME}") is not None:
            return
        path = self.home / "dispute-game.json"
        planned = {"nonce": -1, "deployer": sender.address}
        plan: dict[str, Any] = json.loads(path.read_text()) if path.exists() else planned
        nonce = self._next_nonce(sender)
        if plan["deployer"] != sender.address or nonce > plan["nonce"]:
            raise ConfigurationError(
                f"NodeRegistry and Settlement name a {GAME} that only transaction {plan['nonce']} of "
                f"{plan['deployer']} can create, and {sender.address} is at {nonce}; continue with that "
                "account, or deploy into another --deployments folder and send nothing else meanwhile"
            )
        for empty in range(nonce, plan["nonce"]):
            key = f"nonce {empty}"
            sender.send(Call(sender.address, b"", key), key=key, confirmations=self.confirmations)

    def _record_token(self, token: Address) -> None:
        """An external token: its address, with an ERC-20's ABI."""
        known = self._record(TOKEN)
        if known is not None and known["address"] != token:
            raise ConfigurationError(
                f"{self.home} was deployed with token {known['address']}, not {token}; "
                "give that token, or another --deployments folder"
            )
        if known is None:
            block = self.client.block_number()
            facts: dict[str, Any] = {"contract": None, "abi": ERC20_ABI, "arguments": {}}
            record = facts | {"address": token, "block": block}
            write_record(self.folder, self.client.chain_id, TOKEN, record)

    def _record(self, name: str) -> dict[str, Any] | None:
        path = self.home / f"{name}.json"
        if not path.exists():
            return None
        content: dict[str, Any] = json.loads(path.read_text())
        return content

    def _is_recorded(self, name: str) -> bool:
        return self._record(name) is not None

    def _reuse(self, name: str, arguments: dict[str, Any]) -> Address | None:
        """The recorded contract, if it is there with the same arguments; None if there is no record."""
        record = self._record(name)
        if record is None:
            return None
        address = checksum_address(record["address"])
        if not self.client.get_code(address):
            raise ConfigurationError(
                f"{self.home / f'{name}.json'} names {address}, which has no code on chain "
                f"{self.client.chain_id}; another chain of that id? Move {self.home} away, or fix the network"
            )
        if differing := [key for key in arguments if record["arguments"].get(key) != arguments[key]]:
            told = ", ".join(
                f"{k}: {record['arguments'].get(k)} there, {arguments[k]} here" for k in differing
            )
            raise ConfigurationError(
                f"{name} at {address} was deployed with other arguments ({told}) and cannot be changed: "
                "give the same options, or another --deployments folder"
            )
        # A crash may have come between the record and addresses.json.
        write_record(self.folder, self.client.chain_id, name, record)
        self.report.reused.append(name)
        self.notify(f"{name} is there: {address}")
        return address

    def _create(self, sender: Sender, name: str, source: str, arguments: dict[str, Any]) -> Address:
        artifact = compile_contract(source)
        data = artifact.bytecode + ContractAbi(artifact.abi).encode_constructor(list(arguments.values()))
        key = f"deploy {name}"
        earlier = sender.outbox.find(self.client.chain_id, sender.address, key)
        if earlier is not None and earlier.call.data != data:
            raise ConfigurationError(
                f"an earlier run already sent {name} with other options or sources (transaction "
                f"{hex_bytes(earlier.newest.hash)}); repeat its options, or use another --deployments folder"
            )
        self.notify(f"deploying {name} …")
        receipt = sender.send(Call(None, data, f"deploy {name}"), key=key, confirmations=self.confirmations)
        address = receipt.contract_address
        if address is None or not self.client.get_code(address):
            raise ConfigurationError(f"{name} was mined at {address} but has no code; is the RPC sound?")
        write_json(self.home / f"{name}.input.json", artifact.standard_input)
        record = {
            **self._facts(artifact, arguments),
            "address": address,
            "transaction": hex_bytes(receipt.transaction_hash),
            "block": receipt.block_number,
            "deployer": sender.address,
            "creation_code_hash": hex_bytes(keccak(data)),
            "input": f"{name}.input.json",
        }
        write_record(self.folder, self.client.chain_id, name, record)
        self.report.deployed.append(name)
        self.report.gas_used += receipt.gas_used
        return address

    def _facts(self, artifact: Artifact, arguments: dict[str, Any]) -> dict[str, Any]:
        return {
            "contract": artifact.name,
            "abi": artifact.abi,
            "arguments": arguments,
            "commit": git_commit(),
            "compiler": artifact.compiler,
            "identifier": artifact.identifier,
        }

    def _check_funds(self, sources: list[str]) -> None:
        """Before anything is sent: enough for everything that is missing, at today's fees."""
        balance = self.client.get_balance(self.key.address)
        sizes = [len(compile_contract(source).bytecode) for source in sources]
        gas = sum(size * GAS_PER_BYTE + GAS_PER_CREATION for size in sizes)
        needed = gas * fetch_fees(self.client).max_fee
        if balance == 0 or balance < needed:
            raise ConfigurationError(
                f"account {self.key.address} has {balance / 1e18:.6f} ETH on chain {self.client.chain_id}; "
                f"deploying may take {needed / 1e18:.6f}; fund it, or choose another --account"
            )


def git_commit() -> str | None:
    """HEAD, with `-dirty` if the contracts differ from it; None outside a repository."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        dirty = "-dirty" if git("status", "--porcelain", "--", "contracts") else ""
        return git("rev-parse", "HEAD") + dirty
    except (OSError, subprocess.CalledProcessError):
        return None
