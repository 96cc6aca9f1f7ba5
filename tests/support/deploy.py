"""Deploy the contracts onto a local chain, without Ape, in the folder format of scripts/deploy.py.

    deployment = deploy(chain.url, tmp_path / "deployments", dispute_window=60)

Compiled artifacts are kept in `.build/contracts`, keyed by all sources' content and the compiler.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay.chain.abi import ContractAbi
from assay.chain.client import ChainClient
from assay.chain.deployments import Deployment, write_record
from assay.commitments.identifiers import checksum_address
from assay.types import ZERO_ADDRESS, Address

ROOT = Path(__file__).resolve().parents[2]
CONTRACTS = ROOT / "contracts"
CACHE = ROOT / ".build" / "contracts"
DAY = 86_400
UNIT = 10**18


@dataclass(frozen=True)
class Artifact:
    abi: list[dict[str, Any]]
    bytecode: bytes
    path: Path


def compile_contract(path: str) -> Artifact:
    """Compile `contracts/<path>` (such as `Settlement.vy`), or take it from the cache."""
    CACHE.mkdir(parents=True, exist_ok=True)
    cached = _cache_path(path)
    if not cached.exists():
        with (CACHE / "lock").open("w") as lock:  # one compiler at a time, the others find its result
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (cached := _cache_path(path)).exists():
                _compile(path, cached)
    content = json.loads(cached.read_text())
    return Artifact(content["abi"], bytes.fromhex(content["bytecode"]), CONTRACTS / path)


def _compile(path: str, cached: Path) -> None:
    from vyper.cli.vyper_compile import compile_files  # type: ignore[import-untyped,unused-ignore]

    (output,) = compile_files([str(CONTRACTS / path)], ["abi", "bytecode"], paths=[str(ROOT)]).values()
    temporary = cached.with_suffix(".tmp")
    temporary.write_text(
        json.dumps({"abi": output["abi"], "bytecode": output["bytecode"].removeprefix("0x")})
    )
    temporary.replace(cached)


def _cache_path(path: str) -> Path:
    return CACHE / f"{Path(path).stem}-{_sources_hash()}.json"


def _sources_hash() -> str:
    digest = hashlib.sha256()
    for package in ("vyper", "snekmate"):
        digest.update(f"{package} {importlib.metadata.version(package)}\n".encode())
    for source in sorted(CONTRACTS.rglob("*.vy*")):
        digest.update(f"{source.relative_to(ROOT)}\0".encode() + source.read_bytes() + b"\0")
    return digest.hexdigest()[:24]


def deploy_contract(
    client: ChainClient, path: str, *args: Any, deployer: str
) -> tuple[Address, Artifact, dict[str, Any]]:
    """Create a contract from an unlocked account of the chain: address, artifact, transaction receipt."""
    artifact = compile_contract(path)
    data = artifact.bytecode + ContractAbi(artifact.abi).encode_constructor(args)
    receipt = send_unlocked(client, deployer, None, data)
    return checksum_address(receipt["contractAddress"]), artifact, receipt


def send_unlocked(client: ChainClient, sender: str, to: str | None, data: bytes) -> dict[str, Any]:
    """Send from an account that the local chain signs for; raises if it reverts."""
    transaction = {"from": sender, "data": "0x" + data.hex()} | ({} if to is None else {"to": to})
    client.request("eth_estimateGas", [transaction])  # raises the revert's reason
    transaction_hash = client.request("eth_sendTransaction", [transaction])
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if receipt := client.request("eth_getTransactionReceipt", [transaction_hash]):
            if receipt["status"] != "0x1":
                raise RuntimeError(f"transaction {transaction_hash} reverted")
            return dict(receipt)
        time.sleep(0.02)
    raise TimeoutError(f"transaction {transaction_hash} was not mined in 30 s")


def deploy(
    url: str,
    folder: Path,
    *,
    deployer: str | None = None,
    owner: str | None = None,
    treasury: str | None = None,
    dispute_game: str = ZERO_ADDRESS,
    token: str = "mocks/MockToken.vy",
    token_arguments: tuple[Any, ...] = ("Test Token", "TEST"),
    min_stake: int = 1_000 * UNIT,
    fee_bps: int = 100,
    dispute_window: int = DAY,
    escrow_thaw: int = 2 * DAY,
    node_thaw: int = 3 * DAY,
) -> Deployment:
    """Deploy token, registries and Settlement; account 0 deploys and owns unless told otherwise."""
    with ChainClient(url) as client:
        accounts = [checksum_address(account) for account in client.request("eth_accounts")]
        deployer = deployer or accounts[0]
        owner, treasury = owner or deployer, treasury or deployer

        def create(name: str, path: str, *args: Any) -> Address:
            address, artifact, receipt = deploy_contract(client, path, *args, deployer=deployer)
            names = ContractAbi(artifact.abi).constructor_names
            record = {
                "contract": artifact.path.stem,
                "address": address,
                "abi": artifact.abi,
                "arguments": dict(zip(names, args, strict=True)),
                "transaction": receipt["transactionHash"],
                "block": int(receipt["blockNumber"], 16),
                "commit": None,
                "compiler": f"vyper {importlib.metadata.version('vyper')}",
                "input": None,
            }
            write_record(folder, client.chain_id, name, record)
            return address

        token_address = create("Token", token, *token_arguments)
        models = create("ModelRegistry", "ModelRegistry.vy", owner)
        nodes = create(
            "NodeRegistry", "NodeRegistry.vy", token_address, dispute_game, owner, min_stake, node_thaw
        )
        terms = (
            token_address,
            models,
            nodes,
            dispute_game,
            owner,
            treasury,
            fee_bps,
            dispute_window,
            escrow_thaw,
        )
        create("Settlement", "Settlement.vy", *terms)
        return Deployment.load(folder, client.chain_id)
