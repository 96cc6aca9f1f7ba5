"""Deploy the contracts onto a local chain, without Ape, in the folder format of scripts/deploy.py.

    deployment = deploy(chain.url, tmp_path / "deployments", dispute_window=60)

Compiled once per content of the sources (`.build/contracts`), by the deployment script's own compiler module.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from assay.chain.abi import ContractAbi
from assay.chain.client import ChainClient
from assay.chain.deployments import Deployment, write_record
from assay.commitments.identifiers import checksum_address
from assay.types import ZERO_ADDRESS, Address

from scripts.deployment.compiler import Artifact, compile_contract
from scripts.deployment.plan import created_address

DAY = 86_400
UNIT = 10**18


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
    disputes: bool = False,
    bond: int = 10 * UNIT,
    slash_amount: int | None = None,
    move_window: int = 600,
    token: str = "mocks/MockToken.vy",
    token_arguments: tuple[Any, ...] = ("Test Token", "TEST"),
    min_stake: int = 1_000 * UNIT,
    fee_bps: int = 100,
    dispute_window: int = DAY,
    escrow_thaw: int = 2 * DAY,
    node_thaw: int = 3 * DAY,
) -> Deployment:
    """Deploy token, registries and Settlement; account 0 deploys and owns unless told otherwise.

    `disputes`: with StepVerifier and DisputeGame; nothing else may be sent from the deployer meanwhile.
    """
    with ChainClient(url) as client:
        accounts = [checksum_address(account) for account in client.request("eth_accounts")]
        deployer = deployer or accounts[0]
        owner, treasury = owner or deployer, treasury or deployer

        def create(name: str, path: str, *args: Any) -> Address:
            address, artifact, receipt = deploy_contract(client, path, *args, deployer=deployer)
            names = ContractAbi(artifact.abi).constructor_names
            record = {
                "contract": artifact.name,
                "address": address,
                "abi": artifact.abi,
                "arguments": dict(zip(names, args, strict=True)),
                "transaction": receipt["transactionHash"],
                "block": int(receipt["blockNumber"], 16),
                "commit": None,
                "compiler": artifact.compiler,
                "input": None,
            }
            write_record(folder, client.chain_id, name, record)
            return address

        token_address = create("Token", token, *token_arguments)
        models = create("ModelRegistry", "ModelRegistry.vy", owner)
        if disputes:
            verifier = create("StepVerifier", "StepVerifier.vy")
            nonce = client.get_transaction_count(Address(deployer))
            dispute_game = created_address(Address(deployer), nonce + 2)
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
        settlement = create("Settlement", "Settlement.vy", *terms)
        if disputes:
            game_terms = (bond, slash_amount or min_stake, move_window)
            game = (token_address, models, nodes, settlement, verifier, *game_terms)
            assert create("DisputeGame", "DisputeGame.vy", *game) == dispute_game
        return Deployment.load(folder, client.chain_id)
