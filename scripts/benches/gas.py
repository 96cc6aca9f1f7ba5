"""Gas on a real Anvil: whole transactions, base and calldata included, channels and escrows used before.

References are the nearest peer's contract measured on a local EVM, or this project's bound; each says which.
"""

from __future__ import annotations

import functools
import itertools
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay.commitments.identifiers import keccak, model_id, version_id
from assay.commitments.merkle import MerkleTree
from assay.commitments.receipts import receipt_digest, voucher_digest
from assay.commitments.signing import SigningKey, compact
from assay.types import Address, Domain, Receipt, Voucher
from eth_abi.abi import decode, encode
from eth_utils.address import to_checksum_address

from tests.support.anvil import Anvil, anvil

ROOT = Path(__file__).resolve().parents[2]
UNIT = 10**18
WINDOW = 3_600
GAS_LIMIT = 25_000_000
FIELDS = ("name", "value", "unit", "reference", "ratio")

REFERENCES = {
    "post_batch_1": 45_600,  # x402 batch settlement, claim of one channel; checks no answer
    "post_batch_per_voucher_25": 19_900,  # the same, per channel at 25
    "post_batch_per_voucher_50": 36_600,  # 0G settlement, each at 50
    "receipt_status_1m": 25_000,  # this project's bound
}


@functools.cache
def compiled(name: str) -> tuple[str, list[dict[str, Any]]]:
    """Bytecode and ABI of `contracts/<name>.vy`, by the locked compiler."""
    command = [sys.executable, "-m", "vyper", "-f", "bytecode,abi", f"contracts/{name}.vy"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    bytecode, abi = (line for line in done.stdout.splitlines() if line.strip())
    return bytecode, json.loads(abi)


def abi_type(item: dict[str, Any]) -> str:
    if not item["type"].startswith("tuple"):
        return str(item["type"])
    return f"({','.join(abi_type(part) for part in item['components'])}){item['type'][5:]}"


@dataclass
class Contract:
    """A deployed contract; `send` returns the gas that the transaction used."""

    chain: Anvil
    abi: list[dict[str, Any]]
    address: Address

    @classmethod
    def deploy(cls, chain: Anvil, name: str, *arguments: Any) -> Contract:
        bytecode, abi = compiled(name)
        inputs: list[dict[str, Any]] = next(
            (item["inputs"] for item in abi if item["type"] == "constructor"), []
        )
        code = bytecode + encode([abi_type(item) for item in inputs], arguments).hex()
        mined = send(chain, None, code, chain.accounts[0])
        return cls(chain, abi, Address(to_checksum_address(mined["contractAddress"])))

    def data(self, name: str, *arguments: Any) -> str:
        inputs = next(item["inputs"] for item in self.abi if item.get("name") == name)
        types = [abi_type(item) for item in inputs]
        return "0x" + (keccak(f"{name}({','.join(types)})".encode())[:4] + encode(types, arguments)).hex()

    def send(self, name: str, *arguments: Any, sender: int = 0) -> int:
        mined = send(self.chain, self.address, self.data(name, *arguments), self.chain.accounts[sender])
        return int(mined["gasUsed"], 16)

    def call(self, name: str, *arguments: Any) -> tuple[Any, ...]:
        outputs = next(item["outputs"] for item in self.abi if item.get("name") == name)
        request = {"to": self.address, "data": self.data(name, *arguments)}
        answer = self.chain.request("eth_call", request, "latest")
        return decode([abi_type(item) for item in outputs], bytes.fromhex(answer[2:]))


def send(chain: Anvil, to: str | None, data: str, sender: str) -> dict[str, Any]:
    """A mined transaction's receipt; raises RuntimeError with the revert's data if it failed."""
    transaction = {"from": sender, "data": data, "gas": hex(GAS_LIMIT)} | ({"to": to} if to else {})
    digest = chain.request("eth_sendTransaction", transaction)
    deadline = time.monotonic() + 30
    while (mined := chain.request("eth_getTransactionReceipt", digest)) is None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"Anvil did not mine {digest} within 30 s")
        time.sleep(0.005)
    if mined["status"] != "0x1":
        chain.request("eth_call", transaction, "latest")
        raise RuntimeError(f"transaction {digest} failed")
    return dict(mined)


class Bench:
    """A deployed system with one node, one version and `consumers` funded consumers."""

    def __init__(self, chain: Anvil, consumers: int) -> None:
        owner, operator, signer, treasury = chain.accounts[:4]
        self.chain, self.node = chain, Address(operator)
        self.gas: dict[str, float] = {}
        self.roots = itertools.count(1)
        self.token = Contract.deploy(chain, "mocks/MockToken", "Token", "TKN")
        models = Contract.deploy(chain, "ModelRegistry", owner)
        terms = (self.token.address, owner, owner, 1_000 * UNIT, 86_400)
        nodes = Contract.deploy(chain, "NodeRegistry", *terms)
        windows = (100, WINDOW, WINDOW)
        parties = (models.address, nodes.address, owner, owner, treasury)
        self.settlement = Contract.deploy(chain, "Settlement", self.token.address, *parties, *windows)
        self.domain = Domain(chain.chain_id, self.settlement.address)
        for sender in (0, 1):
            self.token.send("mint", chain.accounts[sender], 10**30, sender=sender)
        self.token.send("approve", nodes.address, 2**256 - 1, sender=1)
        self.token.send("approve", self.settlement.address, 2**256 - 1)
        self.gas["register_model"] = models.send("register_model", "digits-cnn", "https://hub.example/card")
        model = model_id(Address(owner), "digits-cnn")
        content = (b"\xaa" * 32, b"\xbb" * 32, b"\xcc" * 32, 500, "https://hub.example/artifact")
        self.gas["publish_version"] = models.send("publish_version", model, *content)
        self.version_id = version_id(model, 1)
        endpoint = "https://node.example:8443"
        self.gas["register_node"] = nodes.send("register", signer, endpoint, sender=1)
        self.gas["stake"] = nodes.send("stake", operator, 1_000 * UNIT, sender=1)
        self.gas["offer"] = nodes.send("offer", self.version_id, UNIT // 100, sender=1)
        self.keys = [SigningKey(keccak(f"consumer {i}".encode())) for i in range(consumers)]
        self.owed = dict.fromkeys(range(consumers), (0, 0))
        for key in self.keys:
            self.gas["fund_first"] = self.fund(key)
        self.gas["fund"] = self.fund(self.keys[0])

    def fund(self, key: SigningKey) -> int:
        return self.settlement.send("fund", key.address, self.node, 10**6 * UNIT)

    def row(self, index: int, receipts: int) -> tuple[Any, ...]:
        """The consumer's next voucher: so many more inferences at a hundredth of a token and a bit."""
        amount, count = self.owed[index]
        amount, count = amount + receipts * (UNIT // 100 + 12_345_678), count + receipts
        self.owed[index] = amount, count
        key = self.keys[index]
        voucher = Voucher(key.address, self.node, self.version_id, amount, count)
        return (key.address, amount, count, *compact(key.sign(voucher_digest(self.domain, voucher))))

    def post(self, vouchers: int, root: bytes | None = None, *, each: int = 40) -> tuple[int, bytes]:
        """(gas, root) of a batch with the first consumers' next vouchers, for `each` receipts more."""
        root = root or keccak(next(self.roots).to_bytes(32, "big"))
        rows = [self.row(index, each) for index in range(vouchers)]
        return self.settlement.send("post_batch", self.node, self.version_id, root, rows, [], sender=2), root

    def measure_batches(self) -> None:
        first, _ = self.post(len(self.keys))
        self.gas[f"post_batch_first_per_voucher_{len(self.keys)}"] = first / len(self.keys)
        self.post(len(self.keys))
        self.gas["post_batch_1"] = self.post(1)[0]
        for vouchers in (5, 10, 25, 50, 128):
            self.gas[f"post_batch_per_voucher_{vouchers}"] = self.post(vouchers)[0] / vouchers
        for each in (40, 400):
            self.gas[f"post_batch_per_receipt_{25 * each}"] = self.post(25, each=each)[0] / (25 * each)

    def measure_payout(self) -> None:
        roots = [self.post(1)[1] for _ in range(12)]
        self.chain.increase_time(WINDOW)
        keys = [(self.node, self.version_id, root) for root in roots]
        self.settlement.send("collect", keys[:1])
        self.gas["collect_1"] = self.settlement.send("collect", keys[1:2])
        self.gas["collect_per_batch_10"] = self.settlement.send("collect", keys[2:]) / 10
        self.gas["claim"] = self.settlement.send("claim", self.node)

    def measure_status(self) -> None:
        """One receipt among a million, as a contract that asks sees it."""
        receipt = Receipt(
            node=self.node,
            consumer=self.keys[0].address,
            version_id=self.version_id,
            input_hash=keccak(b"input"),
            output_hash=keccak(b"output"),
            price=UNIT // 100,
            sequence=40,
            executed_at=self.chain.timestamp(),
        )
        place = 654_321
        others = (keccak(i.to_bytes(32, "big")) for i in range(1_000_000))
        digest = receipt_digest(self.domain, receipt)
        tree = MerkleTree([digest if i == place else other for i, other in enumerate(others)])
        _, root = self.post(1, bytes(tree.root))
        known = keccak(encode(["address", "bytes32", "bytes32"], [self.node, self.version_id, root]))
        self.chain.increase_time(WINDOW)
        fields = (getattr(receipt, name) for name in receipt.__dataclass_fields__)
        reader = Contract.deploy(self.chain, "mocks/StatusReader")
        proof = tree.proof(place)
        asked = (self.settlement.address, known, tuple(fields), proof, place)
        status, gas = reader.call("measure", *asked)
        if (status, len(proof)) != (2, 20):
            raise RuntimeError(f"receipt_status answered {status} on {len(proof)} siblings, not FINAL on 20")
        self.gas["receipt_status_1m"] = gas


def run(consumers: int = 128) -> list[dict[str, Any]]:
    """Rows {name, value, unit, reference, ratio}; `reference` is a peer's gas where one compares."""
    with anvil() as chain:
        bench = Bench(chain, consumers)
        bench.measure_batches()
        bench.measure_payout()
        bench.measure_status()
    return [build_row(name, value) for name, value in bench.gas.items()]


def build_row(name: str, value: float) -> dict[str, Any]:
    reference = REFERENCES.get(name)
    ratio = round(value / reference, 4) if reference else None
    return dict(zip(FIELDS, (name, round(value, 2), "gas", reference, ratio), strict=True))


if __name__ == "__main__":
    for row in run():
        print(row)
